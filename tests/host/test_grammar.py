from __future__ import annotations

from typing import Any

import pytest

from standby.host.grammar import check_schema

GOOD: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": ["string", "null"]},
    {"enum": ["a", 1, None]},
    {"const": {"a": [1]}},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "integer", "minimum": -3, "maximum": 9},
    {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"b": {"$ref": "#/$defs/A"}}}}},
    {"title": "t", "description": "d", "type": "string", "minLength": 1, "maxLength": 9},
]
BAD: list[tuple[Any, str]] = [
    ([], ":"),
    ({"type": "objekt"}, ".type"),
    ({"type": []}, ".type"),
    ({"enum": []}, ".enum"),
    ({"pattern": "^a"}, ".pattern"),
    ({"not": {}}, ".not"),
    ({"properties": {"a": {"type": "x"}}}, ".properties.a.type"),
    ({"properties": []}, ".properties"),
    ({"required": ["b"]}, ".required"),
    ({"anyOf": []}, ".anyOf"),
    ({"anyOf": [{"type": "x"}]}, ".anyOf[0].type"),
    ({"items": False}, ".items"),
    ({"items": [{}]}, ".items"),
    ({"minItems": 3, "maxItems": 2}, ".minItems"),
    ({"maxLength": 10**9}, ".maxLength"),
    ({"type": "number", "minimum": 1}, ".minimum"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, ".minimum"),
    ({"$ref": "#/$defs/none"}, ".$ref"),
    ({"$ref": "http://somewhere"}, ".$ref"),
]


@pytest.mark.parametrize("schema", GOOD)
def test_a_schema_that_can_be_enforced_passes(schema: dict[str, Any]) -> None:
    """No fault is found."""
    assert check_schema(schema) is None


@pytest.mark.parametrize(("schema", "place"), BAD)
def test_a_schema_that_cannot_be_enforced_is_named(schema: Any, place: str) -> None:
    """The fault begins with the path of the keyword."""
    fault = check_schema(schema)
    assert fault is not None
    assert fault.startswith(place)


def test_a_schema_nested_too_deeply_is_refused() -> None:
    """Before it can hurt."""
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    assert "too deeply" in (check_schema(schema) or "")
