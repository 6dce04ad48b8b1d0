r"""Regular expressions of JSON Schema, as texts inside a JSON string. Pure.

The dialect is ECMA 262's without look-around, references, `\b` and Unicode properties. As the standard says, a
pattern may match anywhere in the text: without `^` and `$` anything may stand around it.
"""

from __future__ import annotations

from standby.wire.grammar.language import EMPTY, LAST, NOTHING, Literal, Node, alt, chars, repeat, seq

Ranges = tuple[tuple[int, int], ...]
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
ESCAPES = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r", '"': '"', "\\": "\\"}
"""Characters that a JSON string writes with a backslash. Other control characters are never written."""
PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0xA0, 0xD7FF), (0xE000, 0xFDCF), (0xFDF0, 0xFFFD))
"""Characters that are written as they are, in the first plane."""
MOST = 1000
DEEPEST = 32


class BadPattern(ValueError):
    """The pattern cannot be enforced."""


def in_string(ranges: Ranges) -> Node:
    """One character out of ranges, as a JSON string writes it."""
    plain = _common(ranges, (*PLAIN, (0x10000, LAST)))
    escaped = [Literal("\\" + short) for char, short in ESCAPES.items() if _has(ranges, ord(char))]
    return alt(chars(*plain), *escaped)


def pattern(text: str) -> Node:
    """Read a pattern; returns the texts of a string that it matches, quotes not included. Raises `BadPattern`."""
    reader = _Reader(text)
    node = reader.ways(top=True)
    if reader.rest:
        raise BadPattern(f"has a `{reader.rest[0]}` too many")
    if node is NOTHING:
        raise BadPattern("matches no text that can be written")
    return node


class _Reader:
    """Reads from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.depth = 0

    @property
    def rest(self) -> str:
        return self.text[self.place :]

    def take(self, wanted: str) -> bool:
        if self.text.startswith(wanted, self.place):
            self.place += len(wanted)
            return True
        return False

    def next(self) -> str:
        if self.place >= len(self.text):
            raise BadPattern("ends too early")
        self.place += 1
        return self.text[self.place - 1]

    def ways(self, *, top: bool) -> Node:
        found = [self.one(top=top)]
        while self.take("|"):
            found.append(self.one(top=top))
        return alt(*found)

    def one(self, *, top: bool) -> Node:
        """Read one alternative; only at the top may it be held at its ends."""
        anything = repeat(ANY, 0, None)
        before = EMPTY if not top or self.take("^") else anything
        parts: list[Node] = []
        after = anything if top else EMPTY
        while self.rest and self.rest[0] not in "|)":
            if top and self.take("$"):
                after = EMPTY
                if self.rest and self.rest[0] != "|":
                    raise BadPattern("has a `$` that is not at an end")
                break
            parts.append(self.counted(self.atom()))
        return seq(before, *parts, after)

    def atom(self) -> Node:
        char = self.next()
        if char == "(":
            return self.group()
        if char == "[":
            return in_string(self.many())
        if char == ".":
            return in_string(_without(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))))
        if char == "\\":
            return in_string(self.escape())
        if char in "^$*+?{":
            raise BadPattern(f"has a `{char}` where it cannot be enforced")
        return in_string(((ord(char), ord(char)),))

    def group(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise BadPattern("is nested too deeply")
        if self.take("?") and not self.take(":"):
            if not self.take("<") or self.rest[:1] in {"=", "!", ""}:
                raise BadPattern("looks around, which cannot be enforced")
            self.place = self.text.find(">", self.place) + 1 or len(self.text)
        node = self.ways(top=False)
        if not self.take(")"):
            raise BadPattern("has a group without an end")
        self.depth -= 1
        return node

    def counted(self, node: Node) -> Node:
        low, high = self.count()
        if (low, high) == (1, 1) or node is NOTHING:
            return node
        if node.is_nullable:
            raise BadPattern("repeats something that may be empty")
        return repeat(node, low, high)

    def count(self) -> tuple[int, int | None]:
        found: tuple[int, int | None] = (1, 1)
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                found = bounds
                break
        else:
            if self.take("{"):
                found = self.bounds()
        if found != (1, 1):
            self.take("?")
        return found

    def bounds(self) -> tuple[int, int | None]:
        inside, end, _ = self.rest.partition("}")
        self.place += len(inside) + 1
        low, comma, high = inside.partition(",")
        if not end or not low.isdecimal() or (high and not high.isdecimal()):
            raise BadPattern("has a `{` without a count")
        bounds = (int(low), (int(high) if high else None) if comma else int(low))
        if max(bounds[0], bounds[1] or 0) > MOST or (bounds[1] is not None and bounds[1] < bounds[0]):
            raise BadPattern(f"counts to more than {MOST}, or down")
        return bounds

    def many(self) -> Ranges:
        """Read a class."""
        negated = self.take("^")
        found: list[tuple[int, int]] = []
        while not self.take("]"):
            ranges = self.member()
            if self.rest[:1] == "-" and self.rest[1:2] != "]" and _single(ranges):
                self.place += 1
                last = self.member()
                if not _single(last) or last[0][1] < ranges[0][0]:
                    raise BadPattern("has a range without an end")
                ranges = ((ranges[0][0], last[0][1]),)
            found.extend(ranges)
        return _without(tuple(found)) if negated else tuple(found)

    def member(self) -> Ranges:
        char = self.next()
        if char != "\\":
            return ((ord(char), ord(char)),)
        return ((8, 8),) if self.take("b") else self.escape()

    def escape(self) -> Ranges:
        char = self.next()
        if char.lower() in CLASSES:
            ranges = CLASSES[char.lower()]
            return ranges if char.islower() else _without(ranges)
        if char in "tnrfv0":
            point = ord("\t\n\r\f\v\0"["tnrfv0".index(char)])
        elif char in "xu":
            point = self.hexadecimal(2 if char == "x" else 4)
        elif char.isalnum():
            raise BadPattern(f"has `\\{char}`, which cannot be enforced")
        else:
            point = ord(char)
        return ((point, point),)

    def hexadecimal(self, digits: int) -> int:
        found = self.rest[:digits]
        self.place += digits
        try:
            return int(found, 16)
        except ValueError:
            raise BadPattern("has a code that is no number") from None


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _without(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    begin = 0
    for low, high in sorted(ranges):
        if low > begin:
            found.append((begin, low - 1))
        begin = max(begin, high + 1)
    return (*found, (begin, LAST)) if begin <= LAST else tuple(found)


def _common(one: Ranges, other: Ranges) -> Ranges:
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple((low, high) for low, high in pairs if low <= high)


def _has(ranges: Ranges, point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)


ANY = in_string(((0, LAST),))
"""Any character of a string."""
