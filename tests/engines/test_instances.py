from __future__ import annotations

import datetime as dt
import json
import random
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field

from standby.engines.simulated.instances import instance_of
from standby.errors import InvalidParams

WORDS = ("bread", "sea", "light")


def made(schema: dict[str, Any], seed: int = 0) -> Any:
    """Make an instance with random choices, and send it through JSON as an answer does."""
    numbers = random.Random(seed)
    return json.loads(json.dumps(instance_of(schema, iter(lambda: numbers.randrange(256), -1), WORDS)))


class Strict(BaseModel):
    """Refuse what the schema does not name."""

    model_config = ConfigDict(strict=False, extra="forbid")


class Colour(Enum):
    """Two values."""

    RED = "red"
    BLUE = "blue"


class Leaf(Strict):
    """An end."""

    kind: Literal["leaf"]
    weight: Annotated[float, Field(gt=0, le=1)]


class Branch(Strict):
    """A part that holds others of its kind."""

    kind: Literal["branch"]
    children: list[Branch | Leaf] = Field(max_length=3)
    parent: Optional[Branch] = None  # noqa: UP045 - the spelling that people use


class Report(Strict):
    """One field of each kind that schemas know."""

    title: str = Field(min_length=12, max_length=40)
    tags: set[Colour] = Field(min_length=1, max_length=2)
    score: int = Field(ge=3, lt=5)
    step: int = Field(multiple_of=7, ge=1)
    below: int = Field(le=-200)
    on: dt.date
    at: dt.datetime
    code: str = Field(pattern=r"^[A-Z]{2,3}-\d{3}$")
    id: UUID
    pair: tuple[int, str]
    notes: dict[str, bool]
    maybe: int | None
    tree: Branch | Leaf = Field(discriminator="kind")
    ratio: float = Field(ge=0.25, le=0.3)
    five: list[int] = Field(min_length=5, max_length=5)


@pytest.mark.parametrize("seed", range(200))
def test_an_instance_passes_the_validator_that_wrote_its_schema(seed: int) -> None:
    """Pydantic accepts what the simulator makes from pydantic's own schemas, references and recursion included."""
    Report.model_validate(made(Report.model_json_schema(), seed))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"foo": "bar"}, {}),
        ({"const": 5}, 5),
        ({"type": "object", "properties": {"a": "nonsense"}}, {"a": "bread"}),
        ({"type": "array", "items": False}, []),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "null"}, None),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"enum": [None]}, None),
    ],
)
def test_odd_schemas_get_an_instance_too(schema: dict[str, Any], value: Any) -> None:
    """Schemas without a type, nonsense in them, and combinations are read as kindly as they can be."""
    assert instance_of(schema, iter(lambda: 0, 1), WORDS) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/gone"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "string", "pattern": "^a(?<=b)$"},
        {"type": "string", "pattern": "("},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "boolean"}},
    ],
)
def test_what_cannot_be_satisfied_is_the_requests_fault(schema: dict[str, Any]) -> None:
    """No endless loop and no wrong instance: the schema is refused."""
    with pytest.raises(InvalidParams, match="schema: the simulator cannot make an instance"):
        made(schema)


def test_pydantic_is_strict_enough_to_notice() -> None:
    """The validator of this module refuses an instance with one wrong value."""
    instance = made(Report.model_json_schema())
    with pytest.raises(pydantic.ValidationError):
        Report.model_validate({**instance, "score": 5})
