"""An instance of a JSON Schema: what the simulator answers where a schema is asked for. Pure and deterministic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from standby.errors import InvalidParams, invalid

SHALLOW = 4
"""Depth from which optional properties and items are left out, so that recursive schemas end."""
DEEPEST = 64

Json = Any
"""Any JSON value: an instance can be anything."""
Schema = dict[str, Json]

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "binary": "AAAA",
    "byte": "AAAA",
}
_CANDIDATES = (
    "a", "A", "ab", "AB", "abc", "ABC", "Abc", "abcd", "ABCD", "abcde", "a-b", "a_b", "a.b", "a1", "A1", "A-1",
    "AB-1", "AB-123", "ABC-123", "0", "1", "12", "123", "1234", "12345", "123456", "1234567890", "1.5", "0.5", "-1",
    "12:30", "12:30:15", "2026", "2026-01", "2026-01-02", "01/02/2026", "2026-01-02T03:04:05Z", "#a1b2c3", "a1b2c3",
    "a1b2c3d4", "someone@example.com", "example.com", "https://example.com/", "http://example.com", "192.0.2.1",
    "+15550100", "555-0100", "(555) 555-0100", "555-555-0100", "12345-6789", "v1.2.3", "1.2.3", "en-US", "en", "US",
    "/a/b", "Hello", "Hello world", "", "00000000-0000-4000-8000-000000000000",
)  # fmt: skip


def instance_of(schema: Schema, choices: Iterator[int], words: tuple[str, ...]) -> Json:
    """Make a value that fits `schema`; `choices` are endless numbers from 0 to 255 that decide between the ways.

    Raises `InvalidParams` for a schema that it cannot satisfy: one that has no end, no such `$ref`, or a
    `pattern` that none of a list of common strings fits.
    """
    return _Maker(schema, choices, words).make(schema, 0)


class _Maker:
    def __init__(self, root: Schema, choices: Iterator[int], words: tuple[str, ...]) -> None:
        self._root = root
        self._choices = choices
        self._words = words

    def make(self, schema: Json, depth: int) -> Json:
        if depth > DEEPEST:
            raise _impossible("it has no end")
        if not isinstance(schema, dict):
            return self._word()
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._one_of(schema["enum"])
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        return self._scalar(kind, schema, depth)

    def _scalar(self, kind: str | None, schema: Schema, depth: int) -> Json:
        match kind:
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return self._number(schema, is_integer=kind == "integer")
            case "boolean":
                return next(self._choices) % 2 == 0
            case "null":
                return None
            case _:
                return {} if depth == 0 else self._word()

    def _flat(self, schema: Schema, depth: int) -> Schema:
        """Resolve references and combinations until the schema says itself what it wants."""
        for _ in range(DEEPEST):
            if isinstance(schema.get("$ref"), str):
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(self._target(schema["$ref"]), rest)
            elif isinstance(schema.get("allOf"), list):
                parts = schema["allOf"]
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts:
                    schema = _merged(schema, self._flat(part, depth) if isinstance(part, dict) else {})
            elif schema.get("anyOf") or schema.get("oneOf"):
                schema = self._chosen(schema, "anyOf" if schema.get("anyOf") else "oneOf", depth)
            else:
                return schema
        raise _impossible("its references have no end")

    def _chosen(self, schema: Schema, key: str, depth: int) -> Schema:
        ways = [way for way in schema[key] if isinstance(way, dict)] or [{}]
        rest = {name: value for name, value in schema.items() if name != key}
        plain = [way for way in ways if "$ref" not in way and _kind(way) not in {"object", "array"}]
        return _merged(rest, self._one_of(plain if depth >= SHALLOW and plain else ways))

    def _target(self, reference: str) -> Schema:
        found: Json = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        if not reference.startswith("#") or not isinstance(found, dict):
            raise _impossible(f"it has no {reference[:100]}")
        return found

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = _dict(schema.get("properties"))
        required = [name for name in _list(schema.get("required")) if isinstance(name, str)]
        names = list(properties) if depth < SHALLOW else [name for name in properties if name in required]
        extra = schema.get("additionalProperties", {})
        made = {name: self.make(properties[name], depth + 1) for name in names}
        made.update({name: self.make(extra, depth + 1) for name in required if name not in made})
        for number in range(_int(schema.get("minProperties"), 0) - len(made)):
            made[f"key{number + 1}"] = self.make(extra, depth + 1)
        return made

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix = _list(schema.get("prefixItems"))
        least = max(_int(schema.get("minItems"), 0), 0)
        most = _int(schema.get("maxItems"), max(least, 2))
        wanted = least if depth >= SHALLOW else max(least, min(most, 1 + next(self._choices) % 2))
        made = [self.make(item, depth + 1) for item in prefix[: max(wanted, len(prefix))]]
        items = schema.get("items", {})
        missing = wanted - len(made) if items is not False else 0
        made.extend(self.make(items, depth + 1) for _ in range(missing))
        return self._distinct(made, items, least, depth) if schema.get("uniqueItems") else made

    def _distinct(self, made: list[Any], items: Json, least: int, depth: int) -> list[Any]:
        kept: list[Any] = []
        for value in made:
            if value not in kept:
                kept.append(value)
        if isinstance(items, dict) and items.get("enum"):
            kept.extend(value for value in items["enum"] if value not in kept and len(kept) < least)
        for _ in range(1000):
            if len(kept) >= least:
                return kept
            value = self.make(items, depth + 1)
            if isinstance(value, str) and value in kept:
                value = f"{value}{len(kept)}"
            if value not in kept:
                kept.append(value)
        raise _impossible("it wants more different items than there are")

    def _string(self, schema: Schema) -> str:
        least, most = _int(schema.get("minLength"), 0), _int(schema.get("maxLength"), 1 << 16)
        pattern, form = schema.get("pattern"), schema.get("format")
        if isinstance(pattern, str):
            return _matching(pattern, [*_FORMATS.values(), *self._words, *_CANDIDATES], least, most)
        text = _FORMATS[form] if isinstance(form, str) and form in _FORMATS else self._word()
        while len(text) < least:
            text = f"{text} {self._word()}"
        return text[:most]

    def _number(self, schema: Schema, *, is_integer: bool) -> float:
        multiple = _number(schema.get("multipleOf"))
        step = multiple if multiple is not None and multiple > 0 else 1
        low, high, fits = _bounds(schema)
        first = -(-low // step) * step
        ways = [value for number in range(100) if fits(value := first + step * number)]
        if not ways and multiple is None and not is_integer and fits((low + high) / 2):
            return (low + high) / 2
        if not ways:
            raise _impossible("its bounds leave no number")
        value = self._one_of(ways)
        return int(value) if float(value).is_integer() else float(value)

    def _word(self) -> str:
        return self._words[next(self._choices) % len(self._words)]

    def _one_of(self, ways: list[Any]) -> Json:
        return ways[next(self._choices) % len(ways)]


def _kind(schema: Schema) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "string" if "pattern" in schema or "format" in schema else None


def _merged(first: Schema, second: Schema) -> Schema:
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = {**_dict(first["properties"]), **_dict(second["properties"])}
    if "required" in first and "required" in second:
        both["required"] = [*_list(first["required"]), *_list(second["required"])]
    return both


def _bounds(schema: Schema) -> tuple[float, float, Callable[[float], bool]]:
    """Return a low and a high end that are not too far apart, and whether a number keeps all four bounds."""
    least, above = _number(schema.get("minimum")), _number(schema.get("exclusiveMinimum"))
    most, below = _number(schema.get("maximum")), _number(schema.get("exclusiveMaximum"))
    lows = [end for end in (least, above) if end is not None]
    highs = [end for end in (most, below) if end is not None]
    low = max(lows) if lows else min([0, *(end - 50 for end in highs)])
    high = min(highs) if highs else low + 100

    def fits(value: float) -> bool:
        return low <= value <= high and value not in {above, below}

    return low, high, fits


def _matching(pattern: str, candidates: list[str], least: int, most: int) -> str:
    try:
        wanted = re.compile(pattern)
    except re.error:
        raise _impossible("a `pattern` is not a regular expression") from None
    for text in candidates:
        if least <= len(text) <= most and wanted.search(text):
            return text
    raise _impossible("none of the simulator's strings fits a `pattern`")


def _dict(value: Json) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Json, default: int) -> int:
    return value if isinstance(value, int) else default


def _number(value: Json) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _impossible(why: str) -> InvalidParams:
    return invalid(f"schema: the simulator cannot make an instance: {why}")
