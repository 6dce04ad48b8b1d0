"""Grammars that count everything are read back by a small reader of the notation and held against the language."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from standby.wire.grammar.compile import language_of
from standby.wire.grammar.counting import MOST, RUN, exact_grammar

COUNTS = [0, 1, RUN, MOST, MOST + 1, 3 * RUN, 734]


def as_pattern(grammar: str) -> str:
    """Write a grammar without recursion as a regular expression."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())

    def rule(name: str) -> str:
        pieces = re.findall(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\{[\d,]+\}|[()|*]|\w+', rules[name])
        return "(?:" + "".join(map(piece, pieces)) + ")"

    def piece(text: str) -> str:
        if text[0] == '"':
            return "(?:" + re.escape(text[1:-1].replace("\\\\", "\\").replace('\\"', '"')) + ")"
        return rule(text) if text[0].isalnum() else "(?:" if text == "(" else text

    return rule("root")


@pytest.mark.parametrize("low", COUNTS)
@pytest.mark.parametrize("high", [*COUNTS, None])
def test_every_count_is_kept(low: int, high: int | None) -> None:
    """Around each bound, and around the borders of runs."""
    if high is not None and low > high:
        return
    schema: dict[str, Any] = {"type": "string", "pattern": f"^x{{{low},{'' if high is None else high}}}$"}
    read = re.compile(as_pattern(exact_grammar(json.dumps(schema).encode())))
    language = language_of(json.dumps(schema).encode())
    around = {count + step for count in (*COUNTS, low, high or low) for step in (-1, 0, 1) if count + step >= 0}
    for count in around:
        text = f'"{"x" * count}"'
        expected = low <= count and (high is None or count <= high)
        assert (read.fullmatch(text) is not None) is expected, count
        assert language.fits(text) is expected, count


def test_nothing_is_repeated_as_often_as_llamacpp_refuses() -> None:
    """2000, rules inside counted: each part is a name or a class."""
    schema = {"type": "array", "maxItems": 5000, "items": {"type": "string", "minLength": 3000, "maxLength": 100_000}}
    grammar = exact_grammar(json.dumps(schema).encode())
    assert max(int(count) for count in re.findall(r"(\d+)\}", grammar)) <= MOST
    assert not re.search(r"\)[{*]", grammar)
