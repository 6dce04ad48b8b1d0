"""JSON Schema to the language of the answers that are valid. Pure.

Each text of the language is valid, but not each valid text is in it: objects carry the properties that are named,
required ones first; whitespace is fixed; strings hold no control characters but the usual escapes. What cannot be
kept in this way is refused at the door with its path. Nothing that is asked for is ignored.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from standby.wire.grammar.formats import FORMATS
from standby.wire.grammar.language import (
    EMPTY,
    NOTHING,
    Alt,
    Chars,
    Language,
    Literal,
    Node,
    Repeat,
    Rule,
    Seq,
    alt,
    maybe,
    nodes,
    repeat,
    seq,
)
from standby.wire.grammar.merging import DEPTH, JsonObject, Merger, Unsupported, kinds
from standby.wire.grammar.numbers import real, whole
from standby.wire.grammar.patterns import ANY, BadPattern, pattern

BETWEEN, COLON = ", ", ": "
MOST_RULES = 2000
MOST_NODES = 100_000
DEEPEST = 64
ANY_DEPTH = 4
"""How deeply a value of any kind may be nested."""


def check_schema(schema: Any) -> str | None:
    """Return None if the schema can be enforced, else the fault with its path."""
    try:
        language_of(msgspec.json.encode(schema))
    except Unsupported as fault:
        return str(fault)
    return None


@lru_cache(maxsize=64)
def language_of(schema: bytes) -> Language:
    """Compile a schema, given as JSON text; raises `Unsupported`."""
    try:
        found = msgspec.json.decode(schema)
        if not isinstance(found, dict):
            raise Unsupported(": must be an object")
        return _Compiler(found).language()
    except RecursionError:
        raise Unsupported(": is nested too deeply") from None


class _Compiler:
    """One schema on its way to a language."""

    def __init__(self, root: JsonObject) -> None:
        self._merger = Merger(root)
        self._root = root
        self._names: dict[bytes, str] = {}
        self._rules: dict[str, Node] = {}
        self._size = 0

    def language(self) -> Language:
        root = self.value(self._root, "", 0)
        language = Language(root, self._rules)
        if math.isinf(language.least):
            raise Unsupported(": no value can be valid and finite")
        return language

    def value(self, schema: Any, path: str, depth: int) -> Node:
        """Return a reference to the rule of a schema; the same schema has the same rule."""
        if depth > DEEPEST:
            raise Unsupported(f"{path}: is nested too deeply")
        key = msgspec.json.encode(schema, order="deterministic")
        if key not in self._names:
            if len(self._names) >= MOST_RULES:
                raise Unsupported(f"{path}: the schema is too large")
            name = self._names[key] = f"v{len(self._names)}"
            node = self._body(schema, path, depth)
            self._rules[name] = node
            self._size += sum(1 for _ in nodes(node))
            if self._size > MOST_NODES:
                raise Unsupported(f"{path}: the schema is too large")
        return Rule(self._names[key])

    def _body(self, schema: Any, path: str, depth: int) -> Node:
        return alt(*(self._plain(branch, path, depth) for branch in self._merger.branches(schema, path)))

    def _plain(self, schema: JsonObject, path: str, depth: int) -> Node:
        """Compile a schema without combinations."""
        if "enum" in schema:
            return alt(*(_literal(value) for value in schema["enum"]))
        return alt(*(self._kind(kind, schema, path, depth) for kind in kinds(schema)))

    def _kind(self, kind: str, schema: JsonObject, path: str, depth: int) -> Node:
        if kind == "object":
            return self._object(schema, path, depth)
        if kind == "array":
            return self._array(schema, path, depth)
        if kind == "string":
            return seq(Literal('"'), _string(schema, path), Literal('"'))
        if kind in {"integer", "number"}:
            return _number(kind, schema)
        return alt(Literal("true"), Literal("false")) if kind == "boolean" else Literal("null")

    def _object(self, schema: JsonObject, path: str, depth: int) -> Node:
        required = list(dict.fromkeys(schema.get("required", ())))
        properties = dict(schema.get("properties", {}))
        more = schema.get("additionalProperties", True)
        for name in required:
            properties.setdefault(name, more)
        if not properties and more is not False:
            return self._map(schema, more, path, depth)
        if "propertyNames" in schema:
            raise Unsupported(f"{path}.propertyNames: is supported only where no properties are named")
        must = [name for name in properties if name in required]
        may = [name for name in properties if name not in required and properties[name] is not False]
        _check_count(schema, path, least=len(must), most=len(must) + len(may))
        pairs = [self._pair(name, properties[name], path, depth) for name in (*must, *may)]
        return seq(Literal("{"), _pairs(pairs[: len(must)], pairs[len(must) :]), Literal("}"))

    def _pair(self, name: str, schema: Any, path: str, depth: int) -> Node:
        value = self.value(schema, f"{path}.properties.{name}", depth + 1)
        return seq(_literal(name), Literal(COLON), value)

    def _map(self, schema: JsonObject, more: Any, path: str, depth: int) -> Node:
        """Compile an object of names that are not known: two may be equal, so more than one cannot be demanded."""
        low, high = schema.get("minProperties", 0), schema.get("maxProperties")
        if low > 1:
            raise Unsupported(f"{path}.minProperties: is supported up to 1, or with named properties")
        names = {"type": "string", **schema["propertyNames"]} if "propertyNames" in schema else {"type": "string"}
        name = self.value(names, f"{path}.propertyNames", depth + 1)
        if more is True:
            more = _anything(schema.get(DEPTH, ANY_DEPTH) - 1)
        pair = seq(name, Literal(COLON), self.value(more, f"{path}.additionalProperties", depth + 1))
        return seq(Literal("{"), _listed([], pair, low, high), Literal("}"))

    def _array(self, schema: JsonObject, path: str, depth: int) -> Node:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        first = schema.get("prefixItems", [])
        rest = schema.get("items", _anything(schema.get(DEPTH, ANY_DEPTH) - 1))
        if schema.get("uniqueItems") and (high is None or high > 1):
            raise Unsupported(f"{path}.uniqueItems: is not supported by this engine")
        if rest is False:
            high = min(len(first), len(first) if high is None else high)
        fixed = [self.value(s, f"{path}.prefixItems[{n}]", depth + 1) for n, s in enumerate(first)]
        item = NOTHING if rest is False else self.value(rest, f"{path}.items", depth + 1)
        if high is not None and low > high:
            return NOTHING
        return seq(Literal("["), _listed(fixed, item, low, high), Literal("]"))


def _pairs(must: list[Node], may: list[Node]) -> Node:
    """Join the properties by commas: all that must be there, then any of the others in their order."""
    comma = Literal(BETWEEN)
    tails = [maybe(seq(comma, pair)) for pair in may]
    if must:
        return seq(must[0], *(seq(comma, pair) for pair in must[1:]), *tails)
    return alt(*(seq(pair, *tails[number + 1 :]) for number, pair in enumerate(may)), EMPTY)


def _listed(fixed: list[Node], item: Node, low: int, high: int | None) -> Node:
    """Join by commas: the fixed ones in their order, then items, `low` to `high` in all."""
    comma = Literal(BETWEEN)
    fixed = fixed if high is None else fixed[:high]
    more = None if high is None else high - len(fixed)
    if not fixed:
        if item is NOTHING or high == 0:
            return EMPTY if low == 0 else NOTHING
        some = seq(item, repeat(seq(comma, item), max(0, low - 1), None if high is None else high - 1))
        return some if low else maybe(some)
    tail = EMPTY if item is NOTHING else repeat(seq(comma, item), max(0, low - len(fixed)), more)
    node = tail
    for number in range(len(fixed) - 1, 0, -1):
        node = seq(comma, fixed[number], node)
        node = node if number < low else maybe(node)
    node = seq(fixed[0], node)
    return node if low else maybe(node)


def _string(schema: JsonObject, path: str) -> Node:
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if high is not None and low > high:
        return NOTHING
    form = schema.get("format")
    if form is not None and form not in FORMATS:
        raise Unsupported(f"{path}.format: must be one of {', '.join(FORMATS)}")
    given = [p for p in (schema.get("pattern"), FORMATS.get(form or "")) if p is not None]
    if not given:
        return repeat(ANY, low, high)
    if len(given) > 1:
        raise Unsupported(f"{path}.pattern: is not supported together with format")
    try:
        node = pattern(given[0])
    except BadPattern as fault:
        raise Unsupported(f"{path}.pattern: {fault}") from None
    shortest, longest = _lengths(node)
    if low > shortest or (high is not None and high < longest):
        raise Unsupported(f"{path}.pattern: say the length in the pattern, not by minLength or maxLength")
    return node


def _lengths(node: Node) -> tuple[float, float]:
    """Count the characters of the shortest and the longest text of a pattern."""
    if isinstance(node, Seq):
        sizes = [_lengths(part) for part in node.parts]
        return sum(s for s, _ in sizes), sum(s for _, s in sizes)
    if isinstance(node, Alt):
        sizes = [_lengths(way) for way in node.ways]
        return min(s for s, _ in sizes), max(s for _, s in sizes)
    if isinstance(node, Repeat):
        low, high = _lengths(node.part)
        return low * node.low, math.inf if node.high is None else high * node.high
    return (1, 1) if isinstance(node, (Chars, Literal)) else (0, 0)


def _number(kind: str, schema: JsonObject) -> Node:
    low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
    if kind == "number" and schema.get("multipleOf") != 1:
        return real(low, high, above=above, below=below)
    if above and low is not None:
        low = (low + 1).to_integral_value("ROUND_FLOOR")
    if below and high is not None:
        high = (high - 1).to_integral_value("ROUND_CEILING")
    return whole(low, high)


def _bound(schema: JsonObject, inclusive: str, exclusive: str, pick: Any) -> tuple[Decimal | None, bool]:
    found = [(Decimal(str(schema[key])), key == exclusive) for key in (inclusive, exclusive) if key in schema]
    if not found:
        return None, False
    value = pick(bound for bound, _ in found)
    return value, any(strict for bound, strict in found if bound == value)


def _literal(value: Any) -> Node:
    return Literal(_text(value))


def _text(value: Any) -> str:
    """Write a value as the grammar does, with its spaces."""
    if isinstance(value, dict):
        return "{" + BETWEEN.join(f"{_text(k)}{COLON}{_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + BETWEEN.join(map(_text, value)) + "]"
    return msgspec.json.encode(value).decode()


def _check_count(schema: JsonObject, path: str, *, least: int, most: int) -> None:
    """Counts of properties hold by themselves, or they cannot be kept."""
    if schema.get("minProperties", 0) > least:
        raise Unsupported(f"{path}.minProperties: name that many properties in required")
    if schema.get("maxProperties", most) < most:
        raise Unsupported(f"{path}.maxProperties: is less than the properties that may come")


def _anything(depth: int) -> JsonObject:
    """Return the schema of any value, nested so deeply at most."""
    scalars = ["string", "number", "boolean", "null"]
    if depth <= 0:
        return {"type": scalars}
    return {"type": [*scalars, "object", "array"], DEPTH: depth}
