"""Two JSON Schemas made one: what fits the result fits both, as far as keywords can say so. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from standby.engines.simulated.fitting import Json, Schema, is_number, listed, same, table

_TIGHTER: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"), min),
}


def merged(first: Schema, second: Schema) -> Schema:
    """Return one schema; where both say something that cannot be put into one keyword, the second is meant."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        if name in _TIGHTER and is_number(first[name]) and is_number(second[name]):
            both[name] = _TIGHTER[name](first[name], second[name])
        elif name in _JOINED:
            both[name] = _JOINED[name](first[name], second[name])
    apart: list[Schema] = [
        {name: first[name]} for name in ("anyOf", "oneOf", "not") if name in first and name in second
    ]
    if "if" in first and "if" in second:
        apart.append({name: first[name] for name in ("if", "then", "else") if name in first})
    if apart:
        both["allOf"] = [*listed(both.get("allOf")), *apart]
    if "additionalProperties" in first.keys() ^ second.keys():
        _close(both, first, second)
    return both


def _names(one: Json, other: Json) -> Json:
    return [*listed(one), *(entry for entry in listed(other) if entry not in listed(one))]


def _enum(one: Json, other: Json) -> Json:
    return [value for value in listed(one) if any(same(value, entry) for entry in listed(other))] or other


def _multiple(one: Json, other: Json) -> Json:
    return math.lcm(one, other) if isinstance(one, int) and isinstance(other, int) and one * other else other


def _tables(one: Json, other: Json) -> Json:
    one, other = table(one), table(other)
    return {**one, **other, **{name: _one_of_both(one[name], other[name]) for name in one.keys() & other.keys()}}


def _one_of_both(one: Json, other: Json) -> Json:
    """Want both of two schemas, or of two lists of names."""
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *(entry for entry in other if entry not in one)]
    if one is False or other is False:
        return False
    if not isinstance(one, dict) or one == other:
        return other
    return {"allOf": [one, other]} if isinstance(other, dict) else one


def _types(one: Json, other: Json) -> Json:
    first, second = (kind if isinstance(kind, list) else [kind] for kind in (one, other))
    shared = [kind for kind in first if kind in second]
    if not shared and "integer" in [*first, *second] and "number" in [*first, *second]:
        shared = ["integer"]
    return shared[0] if len(shared) == 1 else shared or other


def _close(both: Schema, first: Schema, second: Schema) -> None:
    """Leave properties out that only the one names and the other does not allow."""
    closed, other = (first, second) if "additionalProperties" in first else (second, first)
    if closed["additionalProperties"] is False and "patternProperties" not in closed:
        known = table(closed.get("properties"))
        wanted = table(both.get("properties"))
        both["properties"] = {
            name: schema for name, schema in wanted.items() if name in known or name in listed(other.get("required"))
        }


_JOINED: dict[str, Callable[[Json, Json], Json]] = {
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentRequired"), _tables),
    **dict.fromkeys(("items", "additionalProperties", "propertyNames", "contains"), _one_of_both),
    "allOf": lambda one, other: [*listed(one), *listed(other)],
    "enum": _enum,
    "multipleOf": _multiple,
    "required": _names,
    "type": _types,
}
