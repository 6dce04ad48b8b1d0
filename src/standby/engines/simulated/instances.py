"""An instance of a JSON Schema: what the simulator answers where a schema is asked for. Pure and deterministic.

A first try is made by rules of thumb and then checked (`fitting.py`); one that does not fit is made again with other
choices. So a wrong instance is never given, and a schema that asks for too much is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from standby.engines.simulated.fitting import (
    DEEPEST,
    Json,
    Schema,
    fits,
    found_in,
    impossible,
    is_multiple,
    is_number,
    listed,
    same,
    table,
    target,
    whole,
)
from standby.engines.simulated.merging import merged
from standby.engines.simulated.patterns import matching
from standby.errors import InvalidParams

SHALLOW = 4
"""Depth from which optional properties and items are left out, so that recursive schemas end."""
TRIES = 40

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "iri": "https://example.com/",
    "uri-reference": "/a/b",
    "iri-reference": "/a/b",
    "uri-template": "/a/{b}",
    "json-pointer": "/a/b",
    "relative-json-pointer": "1/a",
    "regex": "^a+$",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "binary": "AAAA",
    "byte": "AAAA",
}


def instance_of(schema: Schema, choices: Iterator[int], words: tuple[str, ...]) -> Json:
    """Make a value that fits `schema`; `choices` are endless numbers from 0 to 255 that decide between the ways.

    Raises `InvalidParams` for a schema that it cannot satisfy: one that has no end, no such `$ref`, or that asks for
    what was not found in some tries.
    """
    fault: InvalidParams | None = None
    for _ in range(TRIES):
        try:
            value = _Maker(schema, choices, words).make(schema, 0)
        except InvalidParams as error:
            fault = error
            continue
        if fits(value, schema, schema):
            return value
    raise fault or impossible("no value was found that fits all of it")


class _Maker:
    def __init__(self, root: Schema, choices: Iterator[int], words: tuple[str, ...]) -> None:
        self._root = root
        self._choices = choices
        self._words = words

    def make(self, schema: Json, depth: int) -> Json:
        if depth > DEEPEST:
            raise impossible("it has no end")
        if schema is False:
            raise impossible("nothing fits a part of it")
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
                schema = merged(self._as_table(target(self._root, schema["$ref"])), _without(schema, "$ref"))
            elif isinstance(schema.get("allOf"), list):
                parts = [self._flat(self._as_table(part), depth) for part in schema["allOf"]]
                schema = _without(schema, "allOf")
                for part in parts:
                    schema = merged(schema, part)
            elif schema.get("anyOf") or schema.get("oneOf"):
                schema = self._chosen(schema, "anyOf" if schema.get("anyOf") else "oneOf", depth)
            elif isinstance(schema.get("if"), dict):
                schema = self._decided(schema)
            else:
                return schema
        raise impossible("its references have no end")

    def _as_table(self, schema: Json) -> Schema:
        if schema is False:
            raise impossible("nothing fits a part of it")
        return table(schema)

    def _chosen(self, schema: Schema, key: str, depth: int) -> Schema:
        ways = [way for way in listed(schema[key]) if way is not False]
        rest = _without(schema, key)
        plain = [way for way in ways if "$ref" not in table(way) and _kind(table(way)) not in {"object", "array"}]
        chosen = self._one_of((plain if depth >= SHALLOW and plain else ways) or [{}])
        return merged(rest, table(chosen))

    def _decided(self, schema: Schema) -> Schema:
        """Take the one way or the other of a condition."""
        condition, then, other = schema["if"], schema.get("then", {}), schema.get("else", {})
        rest = {key: value for key, value in schema.items() if key not in {"if", "then", "else"}}
        if other is False or (then is not False and next(self._choices) % 2 == 0):
            return merged(merged(rest, condition), table(then))
        return merged(rest, table(other))

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = table(schema.get("properties"))
        required = [name for name in listed(schema.get("required")) if isinstance(name, str)]
        names = [name for name in properties if name in required or (depth < SHALLOW and properties[name] is not False)]
        least, most = whole(schema.get("minProperties"), 0), whole(schema.get("maxProperties"), len(names))
        optional = [name for name in names if name not in required]
        names = [name for name in names if name in required or optional.index(name) < most - len(required)]
        names += [name for name in properties if name not in names][: max(0, least - len(names))]
        names = self._with_dependents(schema, [*names, *(name for name in required if name not in names)])
        made = {name: self.make(self._property(schema, name), depth + 1) for name in names}
        for number in range(TRIES):
            if len(made) >= least:
                break
            name = self._name(schema, number, depth)
            made[name] = self.make(self._property(schema, name), depth + 1)
        return made

    def _with_dependents(self, schema: Schema, names: list[str]) -> list[str]:
        for name, wanted in table(schema.get("dependentRequired")).items():
            if name in names:
                names += [other for other in listed(wanted) if other not in names]
        return names

    def _property(self, schema: Schema, name: str) -> Json:
        patterns = table(schema.get("patternProperties"))
        wanted = [part for pattern, part in patterns.items() if found_in(pattern, name)]
        if name in table(schema.get("properties")):
            wanted.insert(0, schema["properties"][name])
        if not wanted:
            return schema.get("additionalProperties", {})
        return wanted[0] if len(wanted) == 1 else {"allOf": wanted}

    def _name(self, schema: Schema, number: int, depth: int) -> str:
        """Invent the name of one more property."""
        if isinstance(schema.get("propertyNames"), dict):
            return cast("str", self.make({"type": "string", **schema["propertyNames"]}, depth + 1))
        patterns = list(table(schema.get("patternProperties")))
        if patterns and schema.get("additionalProperties") is False:
            return self._string({"pattern": self._one_of(patterns)})
        return f"key{number + 1}"

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix, items = listed(schema.get("prefixItems")), schema.get("items", {})
        contained = whole(schema.get("minContains"), 1) if "contains" in schema else 0
        least = max(whole(schema.get("minItems"), 0), contained)
        most = whole(schema.get("maxItems"), max(least, 2))
        wanted = least if depth >= SHALLOW else max(least, min(most, 1 + next(self._choices) % 2))
        made = [self.make(item, depth + 1) for item in prefix[: min(most, max(wanted, len(prefix)))]]
        missing = wanted - len(made) if items is not False else 0
        both = items if not contained else {"allOf": [items, schema["contains"]]}
        made.extend(self.make(both if number < contained else items, depth + 1) for number in range(missing))
        return self._distinct(made, items, least, depth) if schema.get("uniqueItems") else made

    def _distinct(self, made: list[Any], items: Json, least: int, depth: int) -> list[Any]:
        kept: list[Any] = []
        for value in made + listed(table(items).get("enum")):
            if (len(kept) < least or len(kept) < len(made)) and not any(same(value, one) for one in kept):
                kept.append(value)
        for _ in range(1000):
            if len(kept) >= least:
                return kept
            value = self.make(items, depth + 1)
            if isinstance(value, str) and value in kept:
                value = f"{value}{len(kept)}"
            if not any(same(value, one) for one in kept):
                kept.append(value)
        raise impossible("it wants more different items than there are")

    def _string(self, schema: Schema) -> str:
        least, most = whole(schema.get("minLength"), 0), whole(schema.get("maxLength"), 1 << 16)
        form = schema.get("format")
        text = _FORMATS[form] if isinstance(form, str) and form in _FORMATS else self._word()
        if isinstance(schema.get("pattern"), str):
            return self._matching(schema["pattern"], text, least, most)
        while len(text) < least:
            text = f"{text} {self._word()}"
        return text[:most]

    def _matching(self, pattern: str, text: str, least: int, most: int) -> str:
        if found_in(pattern, text) and least <= len(text) <= most:
            return text
        found = matching(re.compile(pattern), self._choices, least=least, most=most)
        if found is None:
            raise impossible("no string was found that fits a `pattern`")
        return found

    def _number(self, schema: Schema, *, is_integer: bool) -> float:
        multiple = schema.get("multipleOf")
        step: float = multiple if is_number(multiple) and multiple > 0 else 1
        low, high, is_inside = _bounds(schema)
        first = -(-low // step) * step
        if is_integer or isinstance(step, int):
            ways = [value for number in range(100) if is_inside(value := first + step * number)]
        else:
            ways = [
                v for number in range(1000) if is_inside(v := round(first + step * number, 9)) and is_multiple(v, step)
            ]
        ways = [value for value in ways if not is_integer or float(value).is_integer()]
        if not is_integer and multiple is None:
            ways += [value + 0.5 for value in ways if is_inside(value + 0.5)]
        if not ways and not is_integer and step == 1 and is_inside((low + high) / 2):
            return (low + high) / 2
        if not ways:
            raise impossible("its bounds leave no number")
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
    for kind, words in _TELLING.items():
        if words & schema.keys():
            return kind
    return None


_TELLING = {
    "object": {"properties", "required", "patternProperties", "minProperties", "propertyNames"},
    "array": {"items", "prefixItems", "contains", "minItems", "uniqueItems"},
    "string": {"pattern", "format", "minLength", "maxLength"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}


def _bounds(schema: Schema) -> tuple[float, float, Callable[[float], bool]]:
    """Return a low and a high end that are not too far apart, and whether a number keeps all four bounds."""
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    least, above, most, below = (schema[name] if is_number(schema.get(name)) else None for name in names)
    lows = [end for end in (least, above) if end is not None]
    highs = [end for end in (most, below) if end is not None]
    low = max(lows) if lows else min([0, *(end - 50 for end in highs)])
    high = min(highs) if highs else low + 100

    def is_inside(value: float) -> bool:
        return bool(low <= value <= high and value not in {above, below})

    return low, high, is_inside


def _without(schema: Schema, name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}
