"""Languages as expressions: what an answer may still be, character by character. Pure.

The engine's own grammar compiler pays about 27 ms for each character that it has to count, and is lost in counted
repeats of long things. So it gets a looser grammar (`Language.text`): short counts as they are, long ones as "any
number". The exact language is kept here, and `Language.after` says what may follow each character (Brzozowski's
derivative); where an answer leaves the language, the loop takes the last characters back (`host/guard.py`). Engines
without a guard get a grammar that counts everything (`counting.Exact`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

WIDE = 64
"""Characters of a class from which on counting it is dear."""
COUNTED_WIDE = 4
COUNTED = 16
"""Up to so many repeats the engine counts by itself."""
LAST = 0x10FFFF


class Node:
    """An expression; nodes are compared by identity."""

    __slots__ = ()
    is_nullable = False
    """Whether it contains the empty text."""

    def after(self, char: str, rules: Rules) -> Node:
        """Return what may follow once `char` was written; `NOTHING` if `char` is not possible here."""
        raise NotImplementedError

    def least(self, known: Mapping[str, float]) -> float:
        """Return the bytes of its shortest text; `known` has those of the rules."""
        raise NotImplementedError

    def shortest(self, language: Language) -> str:
        """Return the shortest text, one of them if there are several."""
        raise NotImplementedError

    def write(self, writer: Writer) -> str:
        """Write it in the words of the engine's grammars."""
        raise NotImplementedError


Rules = Mapping[str, Node]


class Literal(Node):
    """One text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        """Keep a text of at least one character."""
        self.text = text

    def after(self, char: str, rules: Rules) -> Node:  # noqa: ARG002
        """Drop the first character."""
        if self.text[0] != char:
            return NOTHING
        return Literal(self.text[1:]) if len(self.text) > 1 else EMPTY

    def least(self, known: Mapping[str, float]) -> float:  # noqa: ARG002
        """Count its bytes."""
        return len(self.text.encode("utf-8", "surrogatepass"))

    def shortest(self, language: Language) -> str:  # noqa: ARG002
        """It is what it is."""
        return self.text

    def write(self, writer: Writer) -> str:  # noqa: ARG002
        """Write it in quotes."""
        return _quoted(self.text)


class Chars(Node):
    """One character out of ranges."""

    __slots__ = ("ranges",)

    def __init__(self, ranges: tuple[tuple[int, int], ...]) -> None:
        """Keep sorted ranges of code points, both ends included."""
        self.ranges = ranges

    @property
    def size(self) -> int:
        """How many characters there are."""
        return sum(high - low + 1 for low, high in self.ranges)

    def after(self, char: str, rules: Rules) -> Node:  # noqa: ARG002
        """Say whether the character is in it."""
        point = ord(char)
        return EMPTY if any(low <= point <= high for low, high in self.ranges) else NOTHING

    def least(self, known: Mapping[str, float]) -> float:  # noqa: ARG002
        """Count the bytes of its first character."""
        return len(chr(self.ranges[0][0]).encode("utf-8", "surrogatepass"))

    def shortest(self, language: Language) -> str:  # noqa: ARG002
        """Take the first."""
        return chr(self.ranges[0][0])

    def write(self, writer: Writer) -> str:  # noqa: ARG002
        """Write a class."""
        return "[" + "".join(_range(low, high) for low, high in self.ranges) + "]"


class Seq(Node):
    """One after the other."""

    __slots__ = ("is_nullable", "parts")

    def __init__(self, parts: tuple[Node, ...]) -> None:
        """Keep the parts; use `seq`."""
        self.parts = parts
        self.is_nullable = all(part.is_nullable for part in parts)

    def after(self, char: str, rules: Rules) -> Node:
        """Go into the first part, and past it if it may be empty."""
        ways = []
        for number, part in enumerate(self.parts):
            ways.append(seq(part.after(char, rules), *self.parts[number + 1 :]))
            if not part.is_nullable:
                break
        return alt(*ways)

    def least(self, known: Mapping[str, float]) -> float:
        """Add up."""
        return sum(part.least(known) for part in self.parts)

    def shortest(self, language: Language) -> str:
        """Join the shortest of each."""
        return "".join(part.shortest(language) for part in self.parts)

    def write(self, writer: Writer) -> str:
        """Write one after the other."""
        return " ".join(part.write(writer) for part in self.parts) or '""'


class Alt(Node):
    """One of them."""

    __slots__ = ("is_nullable", "ways")

    def __init__(self, ways: tuple[Node, ...]) -> None:
        """Keep the ways; use `alt`."""
        self.ways = ways
        self.is_nullable = any(way.is_nullable for way in ways)

    def after(self, char: str, rules: Rules) -> Node:
        """Follow each way."""
        return alt(*(way.after(char, rules) for way in self.ways))

    def least(self, known: Mapping[str, float]) -> float:
        """Take the shortest way."""
        return min((way.least(known) for way in self.ways), default=math.inf)

    def shortest(self, language: Language) -> str:
        """Take the shortest way."""
        return min(self.ways, key=lambda way: way.least(language.sizes)).shortest(language)

    def write(self, writer: Writer) -> str:
        """Write them with bars."""
        return "(" + " | ".join(way.write(writer) for way in self.ways) + ")"


class Repeat(Node):
    """`low` to `high` times, without end if `high` is None; what is repeated is never empty."""

    __slots__ = ("high", "is_nullable", "low", "part")

    def __init__(self, part: Node, low: int, high: int | None) -> None:
        """Keep the bounds; use `repeat`."""
        self.part = part
        self.low = low
        self.high = high
        self.is_nullable = low == 0

    def after(self, char: str, rules: Rules) -> Node:
        """Begin one of them."""
        begun = self.part.after(char, rules)
        if begun is NOTHING:
            return NOTHING
        high = None if self.high is None else self.high - 1
        return seq(begun, repeat(self.part, max(0, self.low - 1), high))

    def least(self, known: Mapping[str, float]) -> float:
        """Take as few as possible."""
        return self.low * self.part.least(known) if self.low else 0

    def shortest(self, language: Language) -> str:
        """Take as few as possible, each as short as possible."""
        return self.part.shortest(language) * self.low if self.low else ""

    def write(self, writer: Writer) -> str:
        """Write it as the writer counts."""
        return writer.repeated(self.part, self.low, self.high)


class Rule(Node):
    """A rule of the language, by name; never empty."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        """Keep the name."""
        self.name = name

    def after(self, char: str, rules: Rules) -> Node:
        """Go into the rule."""
        return rules[self.name].after(char, rules)

    def least(self, known: Mapping[str, float]) -> float:
        """Look it up."""
        return known.get(self.name, math.inf)

    def shortest(self, language: Language) -> str:
        """Look into the rule: its shortest text is finite."""
        return language.rules[self.name].shortest(language)

    def write(self, writer: Writer) -> str:
        """Refer to it."""
        return writer.refer(self.name)


EMPTY = Seq(())
NOTHING = Alt(())


def seq(*parts: Node) -> Node:
    """Put parts one after the other."""
    flat: list[Node] = []
    for part in parts:
        if part is NOTHING:
            return NOTHING
        flat.extend(part.parts if isinstance(part, Seq) else (part,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat)) if flat else EMPTY


def alt(*ways: Node) -> Node:
    """Allow any of the ways."""
    flat: list[Node] = []
    for way in ways:
        for one in way.ways if isinstance(way, Alt) else (way,):
            if one not in flat:
                flat.append(one)
    return flat[0] if len(flat) == 1 else Alt(tuple(flat)) if flat else NOTHING


def repeat(part: Node, low: int, high: int | None) -> Node:
    """Repeat a part that is never empty."""
    if high == 0 or part is EMPTY:
        return EMPTY
    return part if (low, high) == (1, 1) else Repeat(part, low, high)


def maybe(part: Node) -> Node:
    """Allow it or nothing."""
    return part if part.is_nullable else alt(part, EMPTY)


def chars(*ranges: tuple[int, int]) -> Node:
    """One character out of ranges in any order; `NOTHING` if there is none."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return Chars(tuple(merged)) if merged else NOTHING


class Language:
    """Rules and where they begin."""

    def __init__(self, root: Node, rules: Rules) -> None:
        """Compute how short each rule can be, and drop the ways that never end."""
        self.sizes = _sizes(rules)
        self.root = _pruned(root, self.sizes)
        self.rules = {name: _pruned(node, self.sizes) for name, node in rules.items()}

    @property
    def least(self) -> float:
        """The bytes of the shortest text; infinite if there is no finite one."""
        return self.root.least(self.sizes)

    def after(self, node: Node, char: str) -> Node:
        """Return what may follow `char`, where `node` may come now."""
        return node.after(char, self.rules)

    def fits(self, text: str) -> bool:
        """Whether a whole text is in the language."""
        node = self.root
        for char in text:
            node = self.after(node, char)
        return node.is_nullable

    def text(self, node: Node | None = None) -> str:
        """Write the grammar of what may come now, by default of everything; loose where counting is dear."""
        return Writer(self).text(self.root if node is None else node)

    def ending(self, node: Node) -> str:
        """Return the shortest text that ends the whole where `node` may come now."""
        return node.shortest(self)


class Writer:
    """Writes the grammar of a language, loose where counting is dear."""

    def __init__(self, language: Language) -> None:
        """Write nothing yet."""
        self._language = language
        self._lines = {"root": ""}
        self._wanted: list[str] = []

    def text(self, root: Node) -> str:
        """Write the rules that are needed from here on, a line each; the first is `root`."""
        self._lines["root"] = root.write(self)
        while self._wanted:
            name = self._wanted.pop()
            self._lines[name] = self._language.rules[name].write(self)
        return "".join(f"{name} ::= {body}\n" for name, body in self._lines.items())

    def refer(self, name: str) -> str:
        """Return the name of a rule, which is then written as well."""
        if name not in self._lines:
            self._lines[name] = ""
            self._wanted.append(name)
        return name

    def repeated(self, part: Node, low: int, high: int | None) -> str:
        """Count to a few; from there on allow any number."""
        most = COUNTED_WIDE if _is_wide(part) else COUNTED
        return f"({part.write(self)}){bounds(min(low, most), high if high is not None and high <= most else None)}"


def bounds(low: int, high: int | None) -> str:
    """Write how often something may come."""
    return "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"


def _sizes(rules: Rules) -> dict[str, float]:
    sizes = dict.fromkeys(rules, math.inf)
    changed = True
    while changed:
        changed = False
        for name, node in rules.items():
            size = node.least(sizes)
            if size < sizes[name]:
                sizes[name], changed = size, True
    return sizes


def _pruned(node: Node, sizes: Mapping[str, float]) -> Node:
    if math.isinf(node.least(sizes)):
        return NOTHING
    if isinstance(node, Seq):
        return seq(*(_pruned(part, sizes) for part in node.parts))
    if isinstance(node, Alt):
        return alt(*(_pruned(way, sizes) for way in node.ways))
    if isinstance(node, Repeat):
        part = _pruned(node.part, sizes)
        return EMPTY if part is NOTHING else repeat(part, node.low, node.high)
    return node


def _is_wide(node: Node) -> bool:
    if isinstance(node, Chars):
        return node.size > WIDE
    return any(_is_wide(part) for part in _inside(node))


def _inside(node: Node) -> Iterable[Node]:
    if isinstance(node, Seq):
        return node.parts
    if isinstance(node, Alt):
        return node.ways
    return (node.part,) if isinstance(node, Repeat) else ()


def nodes(node: Node) -> Iterator[Node]:
    """Yield an expression and all inside it; rules are not entered."""
    yield node
    for part in _inside(node):
        yield from nodes(part)


def _escaped(char: str) -> str:
    point = ord(char)
    if char in '"\\':
        return "\\" + char
    return char if 0x20 <= point < 0x7F else f"\\U{point:08x}"


def _quoted(text: str) -> str:
    """Write a literal, cut where a hex digit follows a character beyond ASCII, whose number XGrammar reads on."""
    parts = _CUT.split(text)
    written = " ".join(f'"{"".join(map(_escaped, part))}"' for part in parts)
    return f"({written})" if len(parts) > 1 else written


_CUT = re.compile(r"(?<=[^ -~])(?=[0-9a-fA-F])")


def _range(low: int, high: int) -> str:
    return _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"


def _in_class(point: int) -> str:
    char = chr(point)
    return char if char.isascii() and char.isalnum() else f"\\U{point:08x}"
