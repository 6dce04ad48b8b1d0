"""Strings for a regular expression. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-.,:;/@#!?+*=()[]{}<>'\"&%$~^|\\"
"""What is chosen from where an expression leaves the choice."""
TRIES = 64

Node = tuple[Any, Any]
_REPEATS = {ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT}
_CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
}


def matching(wanted: re.Pattern[str], choices: Iterator[int], *, least: int, most: int) -> str | None:
    """Make a text in which `wanted` is found, `least` to `most` characters long; None if none was found in some tries.

    `choices` are endless numbers from 0 to 255.
    """
    tree = parser.parse(wanted.pattern, wanted.flags)
    for number in range(TRIES):
        text = _Writer(choices, extra=number % 16 if number < TRIES // 2 else least, groups={}).write(tree)
        text += "".join(ALPHABET[next(choices) % 26] for _ in range(least - len(text)))
        if len(text) <= most and wanted.search(text) is not None:
            return text
    return None


class _Writer:
    """Writes one text; repeats come at most `extra` times more than they must."""

    def __init__(self, choices: Iterator[int], *, extra: int, groups: dict[int, str]) -> None:
        self._choices = choices
        self._extra = extra
        self._groups = groups

    def write(self, nodes: Sequence[Node]) -> str:
        """Write nodes one after another; what only looks around writes nothing, and is checked in the end."""
        return "".join(self._one(kind, given) for kind, given in nodes)

    def _one(self, kind: Any, given: Any) -> str:
        if kind is ops.LITERAL:
            return chr(given)
        if kind is ops.NOT_LITERAL:
            return self._pick([char for char in ALPHABET if char != chr(given)])
        if kind is ops.ANY:
            return self._pick(ALPHABET)
        if kind is ops.IN:
            return self._among(given)
        if kind in _REPEATS:
            return self._repeated(*given)
        return self._group(kind, given)

    def _group(self, kind: Any, given: Any) -> str:
        if kind is ops.BRANCH:
            return self.write(given[1][next(self._choices) % len(given[1])])
        if kind is ops.SUBPATTERN:
            number, _, _, inner = given
            text = self.write(inner)
            if number is not None:
                self._groups[number] = text
            return text
        if kind is ops.ATOMIC_GROUP:
            return self.write(given)
        return self._groups.get(given, "") if kind is ops.GROUPREF else ""

    def _repeated(self, least: int, most: Any, inner: Sequence[Node]) -> str:
        high = least + self._extra if most is ops.MAXREPEAT else min(most, least + self._extra)
        count = high if self._extra > 15 else least + next(self._choices) % (high - least + 1)
        return "".join(self.write(inner) for _ in range(count))

    def _among(self, parts: list[Node]) -> str:
        is_negated = parts[0][0] is ops.NEGATE
        chars = "".join(map(_chars, parts))
        return self._pick([char for char in ALPHABET if char not in chars] if is_negated else chars)

    def _pick(self, chars: Sequence[str]) -> str:
        return chars[next(self._choices) % len(chars)] if chars else ""


def _chars(part: Node) -> str:
    kind, given = part
    if kind is ops.LITERAL:
        return chr(given)
    if kind is ops.RANGE:
        low, high = given
        return "".join(map(chr, range(low, min(high, low + 255) + 1)))
    if kind is ops.CATEGORY:
        return "".join(re.findall(_CATEGORIES[given], ALPHABET))
    return ""
