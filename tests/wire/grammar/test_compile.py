from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from standby.wire.grammar.compile import check_schema, language_of
from standby.wire.grammar.formats import FORMATS

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
NODE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}, "required": ["v"]}
GOOD += [
    {"type": "string", "pattern": "^[A-Z]{2,3}-\\d{4}$"},
    {"type": "string", "pattern": '["\\\\]a+?(b|c)?\\u00e9$'},
    *({"type": "string", "format": form} for form in FORMATS),
    {"type": "number", "minimum": -0.5, "maximum": 12.25},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "exclusiveMinimum": 9, "maximum": 1001},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"enum": ["a", 2.5, True, None, [1, "x"], {"k": "v"}], "minLength": 1},
    {"type": "string", "enum": ["yes", 1, "no"]},
    {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    {"allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"minimum": 3}}}], "$defs": {"A": NODE, "Node": NODE}},
    {"allOf": [{"type": ["string", "null"], "minLength": 2}, {"type": "string", "maxLength": 4}]},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    {
        "type": "array",
        "allOf": [
            {"items": {"type": "string", "pattern": "^[a-c]{2,4}$"}},
            {"prefixItems": [{"type": "string"}], "items": False},
        ],
    },
    {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": k}, k: {"type": "boolean"}}, "required": ["kind", k]}
            for k in ("cat", "dog")
        ]
    },
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "maxProperties": 3},
    {"type": "object", "additionalProperties": {}, "propertyNames": {"pattern": "^[a-z]{1,4}$"}, "minProperties": 1},
    {"type": "object", "required": ["a"]},
    {"properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": False}, "required": ["b"]},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
    {"type": "array", "items": {"type": "array", "items": {}}, "uniqueItems": False},
    {"const": 'naïve 你好 🙂 "q" \\ \n'},
]
BAD: list[tuple[Any, str]] = [
    ([], ":"),
    ({"type": "objekt"}, ".type"),
    ({"type": []}, ".type"),
    ({"enum": []}, ".enum"),
    ({"type": "string", "enum": [1]}, ":"),
    ({"pattern": "(?=a)"}, ".pattern"),
    ({"pattern": "(a"}, ".pattern"),
    ({"pattern": "\\p{L}"}, ".pattern"),
    ({"pattern": "a{1,9999}"}, ".pattern"),
    ({"pattern": "^a+$", "maxLength": 3}, ".pattern"),
    ({"format": "colour"}, ".format"),
    ({"not": {}}, ".not"),
    ({"if": {}}, ".if"),
    ({"patternProperties": {}}, ".patternProperties"),
    ({"properties": {"a": {"type": "x"}}}, ".properties.a.type"),
    ({"properties": []}, ".properties"),
    ({"required": [1]}, ".required"),
    ({"properties": {"b": False}, "required": ["b"]}, ":"),
    ({"properties": {"a": {}}, "minProperties": 1}, ".minProperties"),
    ({"anyOf": []}, ".anyOf"),
    ({"anyOf": [{"type": "x"}]}, ".anyOf[0].type"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf"),
    ({"oneOf": [{"const": "a"}, {"type": "string", "format": "date-time"}]}, ".oneOf"),
    ({"oneOf": [{"properties": {}, "additionalProperties": False}, {"type": "array"}]}, ".oneOf"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, ".pattern"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, ":"),
    ({"items": [{}]}, ".items"),
    ({"minItems": 3, "maxItems": 2}, ".minItems"),
    ({"maxLength": 10**9}, ".maxLength"),
    ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
    ({"type": "number", "multipleOf": 0.5}, ".multipleOf"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, ".minimum"),
    ({"type": "number", "minimum": 1e-12}, ".minimum"),
    ({"$ref": "#/$defs/none"}, ".$ref"),
    ({"$ref": "http://somewhere"}, ".$ref"),
    ({"$ref": "#"}, ":"),
    (
        {
            "$ref": "#/$defs/A",
            "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
        },
        ":",
    ),
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


def test_no_hex_digit_follows_a_character_beyond_ascii() -> None:
    """XGrammar keeps that as a number of two digits and reads the next as its third: it wrote U+0FCA for "üa"."""
    language = language_of(msgspec.json.encode({"enum": ["Grüße", "üa", "naïve 你好 🙂 face"]}))
    text = language.text(language.root)
    assert r'("\U000000fc" "a' in text.replace(r"\"", "")
    assert not re.search(r"\\U[0-9a-f]{8}[0-9a-fA-F]", text)
