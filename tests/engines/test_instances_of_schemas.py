"""Instances against a validator that is not ours."""

from __future__ import annotations

import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.engines.simulated.fitting import fits
from standby.engines.simulated.patterns import matching
from standby.errors import InvalidParams
from tests.engines.test_instances import made

NAMES = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 2.0]) | st.sampled_from(["", "a", "bread"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
# 6 keeps all of these: no choice of them leaves no number at all
BOUNDS = {
    "minimum": st.integers(-20, 5),
    "maximum": st.integers(6, 20) | st.just(7.5),
    "exclusiveMinimum": st.integers(-20, 5),
    "exclusiveMaximum": st.integers(7, 20),
    "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
}
TEXTS = {
    "minLength": st.integers(0, 5),
    "maxLength": st.integers(6, 20),
    "format": st.sampled_from(["date", "uuid", "nonsense"]),
}


def some(keywords: dict[str, st.SearchStrategy[Any]], **always: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Make schemas with some of these keywords."""
    return st.fixed_dictionaries({name: st.just(value) for name, value in always.items()}, optional=keywords)


LEAVES = st.one_of(
    some(BOUNDS, type="number"),
    some({**BOUNDS, "multipleOf": st.sampled_from([1, 2, 3])}, type="integer"),
    some(TEXTS, type="string"),
    st.builds(
        lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(["^[a-c]{2,4}$", r"\d-\d", "x|y"])
    ),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda values: {"enum": values}, st.lists(JSON, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, JSON),
)


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make schemas of lists."""
    return some({"items": inner, "minItems": st.integers(0, 3), "maxItems": st.integers(3, 5)}, type="array")


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make schemas of objects, some of them closed."""

    def closed(schema: dict[str, Any], required: list[str]) -> dict[str, Any]:
        return {**schema, "additionalProperties": False, "required": [n for n in required if n in schema["properties"]]}

    properties = st.dictionaries(NAMES, inner, max_size=3)
    open_ = st.builds(
        lambda props, required, extra: {"type": "object", "properties": props, "required": required, **extra},
        properties,
        st.lists(NAMES, unique=True),
        some({"additionalProperties": inner, "minProperties": st.integers(0, 4)}),
    )
    return open_ | st.builds(
        closed, st.builds(lambda p: {"type": "object", "properties": p}, properties), st.lists(NAMES)
    )


PLAIN = st.recursive(LEAVES, lambda inner: arrays(inner) | objects(inner), max_leaves=8)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make schemas that combine others, whether that makes sense or not."""
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        arrays(inner),
        objects(inner),
        st.builds(lambda key, ways: {key: ways}, st.sampled_from(["allOf", "anyOf", "oneOf"]), several),
        st.builds(lambda one, other: {**one, "anyOf": other}, inner, several),
        st.builds(lambda one, two, three: {"if": one, "then": two, "else": three}, inner, inner, inner),
        st.builds(lambda one, other: {**one, "not": other}, inner, inner),
        st.builds(lambda one: {"type": "array", "contains": one, "uniqueItems": True, "minItems": 2}, inner),
        st.builds(lambda one: {"type": "object", "patternProperties": {"^k": one}, "minProperties": 2}, inner),
        st.builds(
            lambda one: {"$defs": {"x": one}, "type": "object", "properties": {"a": one, "me": {"$ref": "#"}}}, inner
        ),
    )


ODD = st.recursive(LEAVES, combined, max_leaves=8)


def is_valid(value: Any, schema: Any) -> bool:
    """Ask the validator."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@given(schema=PLAIN, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_schema_without_combinations_always_gets_an_instance(schema: dict[str, Any], seed: int) -> None:
    """Types, bounds, lengths, patterns, lists and objects: what can be satisfied is, and the validator agrees."""
    assert is_valid(made(schema, seed), schema)


@given(schema=ODD, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_no_instance_is_ever_wrong(schema: dict[str, Any], seed: int) -> None:
    """Whatever is combined, the schema is refused or its instance is valid."""
    try:
        instance = made(schema, seed)
    except InvalidParams:
        return
    assert is_valid(instance, schema)


@given(schema=ODD, value=JSON)
@settings(deadline=None)
def test_the_check_agrees_with_the_validator(schema: dict[str, Any], value: Any) -> None:
    """Whether a value fits a schema is no matter of opinion."""
    assert fits(value, schema, schema) == is_valid(value, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "string", "minLength": 20}]},
        {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 5, "maxItems": 5},
        {"type": "array", "contains": {"const": "x"}, "minContains": 2},
        {"type": "object", "propertyNames": {"pattern": "^[a-z]{3}$"}, "minProperties": 3},
        {"type": "object", "properties": {"a": {}}, "dependentRequired": {"a": ["b"]}},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "maxProperties": 1},
        {"if": {"properties": {"kind": {"const": "x"}}, "required": ["kind"]}, "then": {"required": ["more"]}},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4}, {"not": {"const": 3}}]},
        {"type": "string", "not": {"const": "bread"}},
        {"allOf": [{"anyOf": [{"minimum": 5}, {"maximum": 2}]}, {"type": "integer"}, {"anyOf": [{"multipleOf": 9}]}]},
        {
            "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}, "v": {"type": "integer"}}}},
            "$ref": "#/$defs/n",
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(10))
def test_combinations_that_people_write_are_satisfied(schema: dict[str, Any], seed: int) -> None:
    """These all have instances, and one is found whatever the choices."""
    assert is_valid(made(schema, seed), schema)


PATTERNS = [
    r"^\d{3}-\d{4}$",
    r"^[A-Z]{2}\d{6}[A-Z]?$",
    r"^(red|green|blue)(, (red|green|blue))*$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"^https?://[\w.-]+(/[\w./-]*)?$",
    r"^#(?:[0-9a-f]{3}){1,2}$",
    r"^(?=.*\d)(?=.*[a-z]).{8,16}$",
    r"^(\w)\1$",
    r"^\+?[1-9]\d{1,14}$",
    r"^[\u4e00-\u9fff]{2}$",
    r"^.{10,}$",
    r"(?i)^abc$",
    r"foo",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 255))
@settings(deadline=None, max_examples=20)
def test_a_text_is_found_for_the_patterns_of_real_schemas(pattern: str, seed: int) -> None:
    """Classes, repeats, alternatives, references back and look-ahead."""
    numbers = random.Random(seed)
    text = matching(re.compile(pattern), iter(lambda: numbers.randrange(256), -1), least=0, most=40)
    assert text is not None
    assert re.search(pattern, text)


def test_a_pattern_keeps_the_length_that_is_asked_for() -> None:
    """Repeats are stretched until the text is long enough."""
    schema = {"type": "string", "pattern": "^[a-z]+$", "minLength": 60, "maxLength": 80}
    assert is_valid(made(schema), schema)
