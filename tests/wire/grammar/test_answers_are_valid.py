"""Whatever the grammar of a schema allows, an independent validator finds valid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from standby.host.guard import Guard
from standby.wire.grammar.compile import language_of
from standby.wire.grammar.formats import FORMATS
from standby.wire.grammar.language import Alt, Chars, Language, Literal, Node, Repeat, Rule, Seq
from standby.wire.grammar.merging import Unsupported
from tests.wire.grammar.test_compile import GOOD

DEEP = 12
NAMES = ["a", "b", "kind", "naïve"]
PATTERNS = ["^[a-c]{2,4}$", "x", "^(ab|c)+\\.?$", '^"\\d*$', "[^a-z]$", "^\\w+@\\w+$"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.sampled_from([0.5, 2.0, "a", "abc", 'q"\\', "é🙂"])
)


def bounds(low: str, high: str, top: int) -> st.SearchStrategy[dict[str, Any]]:
    """Give none, one or both of two bounds, in order."""
    pairs = st.tuples(st.integers(0, top), st.integers(0, top)).map(sorted)
    chosen = st.sets(st.sampled_from([0, 1]))

    def some(found: tuple[list[int], set[int]]) -> dict[str, Any]:
        return {(low, high)[which]: found[0][which] for which in found[1]}

    return st.tuples(pairs, chosen).map(some)


def numbers() -> st.SearchStrategy[dict[str, Any]]:
    """Give bounds of numbers."""
    ends = st.decimals(-120, 1200, places=2).map(float)
    lows = st.dictionaries(st.sampled_from(["minimum", "exclusiveMinimum"]), ends.map(lambda v: v - 100))
    highs = st.dictionaries(st.sampled_from(["maximum", "exclusiveMaximum"]), ends.map(lambda v: v + 1500))
    kinds = st.sampled_from(["integer", "number"]).map(lambda kind: {"type": kind})
    return st.tuples(kinds, lows, highs).map(lambda parts: parts[0] | parts[1] | parts[2])


def leaves() -> st.SearchStrategy[Any]:
    """Give schemas without schemas inside."""
    text = bounds("minLength", "maxLength", 12).map(lambda more: {"type": "string", **more})
    return st.one_of(
        *(text, numbers(), st.sampled_from(PATTERNS).map(lambda p: {"type": "string", "pattern": p})),
        st.sampled_from(sorted(FORMATS)).map(lambda form: {"type": "string", "format": form}),
        st.lists(SCALARS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
        SCALARS.map(lambda value: {"const": value}),
        st.sampled_from([{}, True, {"type": "null"}, {"type": ["boolean", "integer"]}, {"$ref": "#/$defs/tree"}]),
    )


def inside(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give schemas around schemas."""
    properties = st.dictionaries(st.sampled_from(NAMES), children, max_size=3)
    required = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
    few = st.lists(children, min_size=1, max_size=3)
    more = st.one_of(st.booleans(), children)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": properties, "required": required}),
        st.fixed_dictionaries({"properties": properties, "required": required, "additionalProperties": more}),
        st.tuples(children, bounds("minItems", "maxItems", 4)).map(lambda p: {"type": "array", "items": p[0], **p[1]}),
        st.tuples(few, more, bounds("minItems", "maxItems", 4)).map(
            lambda p: {"type": "array", "prefixItems": p[0], "items": p[1], **p[2]}
        ),
        st.dictionaries(st.sampled_from(["anyOf", "oneOf", "allOf"]), few, min_size=1, max_size=1),
        st.tuples(few, properties, required).map(lambda p: {"anyOf": p[0], "properties": p[1], "required": p[2]}),
    )


TREE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
}
SCHEMAS = st.recursive(leaves(), inside, max_leaves=6).filter(lambda schema: isinstance(schema, dict))


def write(node: Node, language: Language, data: st.DataObject, depth: int = 0) -> str:
    """Write any text of a language."""
    if depth > DEEP:
        return node.shortest(language)
    if isinstance(node, Literal):
        return node.text
    if isinstance(node, Chars):
        low, high = data.draw(st.sampled_from(node.ranges))
        return chr(data.draw(st.integers(low, high)))
    if isinstance(node, Seq):
        return "".join(write(part, language, data, depth + 1) for part in node.parts)
    if isinstance(node, Alt):
        return write(data.draw(st.sampled_from(node.ways)), language, data, depth + 1)
    if isinstance(node, Repeat):
        most = node.low + 3 if node.high is None else min(node.high, node.low + 3)
        times = data.draw(st.sampled_from(sorted({node.low, most})))
        return "".join(write(node.part, language, data, depth + 1) for _ in range(times))
    assert isinstance(node, Rule)
    return write(language.rules[node.name], language, data, depth + 1)


def check(schema: dict[str, Any], language: Language, text: str) -> None:
    """Hold a text against the schema, and against the language as the guard reads it."""
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))
    guard = Guard(language)
    for number, char in enumerate(text):
        assert guard.take(char.encode(), tokens=number + 1) == (char, True), text[: number + 1]
    assert guard.can_end
    assert guard.whole == len(text)


@pytest.mark.parametrize("schema", GOOD)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_a_known_schema_allows_is_valid(schema: dict[str, Any], data: st.DataObject) -> None:
    """Every text of the language, and each ending that may be written in the middle of one."""
    language = language_of(json.dumps(schema).encode())
    text = write(language.root, language, data)
    check(schema, language, text)
    node, cut = language.root, data.draw(st.integers(0, len(text)))
    for char in text[:cut]:
        node = language.after(node, char)
    check(schema, language, text[:cut] + language.ending(node))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, data=st.data())
def test_what_any_schema_allows_is_valid(schema: dict[str, Any], data: st.DataObject) -> None:
    """A schema is refused with a path, or every text of its language is valid."""
    whole = {**schema, "$defs": {"tree": TREE}}
    try:
        language = language_of(json.dumps(whole).encode())
    except Unsupported as fault:
        assert str(fault).startswith((".", ":"))  # noqa: PT017
        return
    check(whole, language, write(language.root, language, data))
