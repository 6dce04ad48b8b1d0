"""Whether a value fits a JSON Schema, as far as this module knows the keywords (formats are not looked at). Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeGuard

from standby.errors import InvalidParams, invalid

DEEPEST = 64

Json = Any
"""Any JSON value: an instance can be anything."""
Schema = dict[str, Json]

_TYPES: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: is_number(value),  # noqa: PLW0108 - it stands below
    "integer": lambda value: is_number(value) and float(value).is_integer(),
}


def fits(value: Json, schema: Json, root: Schema, depth: int = 0) -> bool:
    """Check a value; `root` is where references point into. Raises `InvalidParams` for one that points nowhere."""
    if not isinstance(schema, dict):
        return schema is not False
    if depth > DEEPEST:
        return False
    check = _Check(value, schema, root, depth)
    if not (check.fits_itself() and check.fits_combined()):
        return False
    if isinstance(value, dict):
        return check.fits_as_object(value)
    if isinstance(value, list):
        return check.fits_as_array(value)
    return check.fits_as_text(value) if isinstance(value, str) else not is_number(value) or check.fits_as_number(value)


def target(root: Schema, reference: str) -> Json:
    """Return what a reference points to."""
    found: Json = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    if not reference.startswith("#") or not isinstance(found, (dict, bool)):
        raise impossible(f"it has no {reference[:100]}")
    return found


def same(one: Json, other: Json) -> bool:
    """Compare as JSON does: 1 is 1.0, but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def is_number(value: Json) -> TypeGuard[float]:
    """Whether it is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def impossible(why: str) -> InvalidParams:
    """Return the fault of a request whose schema has no instance here."""
    return invalid(f"schema: the simulator cannot make an instance: {why}")


def found_in(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text; raises `InvalidParams` if it is none."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        raise impossible("a `pattern` is not a regular expression") from None


class _Check:
    """One value against one schema."""

    def __init__(self, value: Json, schema: Schema, root: Schema, depth: int) -> None:
        self._value = value
        self._schema = schema
        self._root = root
        self._depth = depth

    def fits_itself(self) -> bool:
        """Check type, `const` and `enum`."""
        kinds = self._schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        known = [_TYPES[kind] for kind in kinds if isinstance(kind, str) and kind in _TYPES]
        if known and not any(is_kind(self._value) for is_kind in known):
            return False
        if "const" in self._schema and not same(self._value, self._schema["const"]):
            return False
        enum = self._schema.get("enum")
        return not isinstance(enum, list) or any(same(self._value, one) for one in enum)

    def fits_combined(self) -> bool:
        """Check references, combinations and conditions."""
        get = self._schema.get
        reference = get("$ref")
        if isinstance(reference, str) and not self._fits(target(self._root, reference)):
            return False
        if not all(map(self._fits, listed(get("allOf")))):
            return False
        if get("anyOf") and not any(map(self._fits, listed(get("anyOf")))):
            return False
        if get("oneOf") and sum(map(self._fits, listed(get("oneOf")))) != 1:
            return False
        if "not" in self._schema and self._fits(get("not")):
            return False
        if "if" in self._schema:
            return self._fits(get("then", True) if self._fits(get("if")) else get("else", True))
        return True

    def fits_as_object(self, value: dict[str, Json]) -> bool:
        """Check properties, and their number and names."""
        get = self._schema.get
        if not whole(get("minProperties"), 0) <= len(value) <= whole(get("maxProperties"), len(value)):
            return False
        if any(name not in value for name in listed(get("required"))):
            return False
        for name, wanted in table(get("dependentRequired")).items():
            if name in value and any(other not in value for other in listed(wanted)):
                return False
        if any(not fits(name, get("propertyNames", True), self._root, self._depth + 1) for name in value):
            return False
        return all(self._fits_property(name, one) for name, one in value.items())

    def fits_as_array(self, value: list[Json]) -> bool:
        """Check items, and their number and kinds."""
        get = self._schema.get
        if not whole(get("minItems"), 0) <= len(value) <= whole(get("maxItems"), len(value)):
            return False
        first = listed(get("prefixItems"))
        wanted = [*first[: len(value)], *[get("items", True)] * (len(value) - len(first))]
        if not all(map(self._fits_inside, value, wanted)):
            return False
        if get("uniqueItems") and any(same(one, other) for n, one in enumerate(value) for other in value[:n]):
            return False
        if "contains" not in self._schema:
            return True
        count = sum(self._fits_inside(one, get("contains")) for one in value)
        return whole(get("minContains"), 1) <= count <= whole(get("maxContains"), count)

    def fits_as_text(self, value: str) -> bool:
        """Check length and pattern."""
        get = self._schema.get
        if not whole(get("minLength"), 0) <= len(value) <= whole(get("maxLength"), len(value)):
            return False
        pattern = get("pattern")
        return not isinstance(pattern, str) or found_in(pattern, value)

    def fits_as_number(self, value: float) -> bool:
        """Check bounds and steps."""
        low, above, high, below, step = (
            self._schema.get(name)
            for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
        )
        if (is_number(low) and value < low) or (is_number(high) and value > high):
            return False
        if (is_number(above) and value <= above) or (is_number(below) and value >= below):
            return False
        return not is_number(step) or step <= 0 or is_multiple(value, step)

    def _fits_property(self, name: str, value: Json) -> bool:
        properties, patterns = table(self._schema.get("properties")), table(self._schema.get("patternProperties"))
        wanted = [properties[name]] if name in properties else []
        wanted += [schema for pattern, schema in patterns.items() if found_in(pattern, name)]
        return all(
            self._fits_inside(value, schema) for schema in wanted or [self._schema.get("additionalProperties", True)]
        )

    def _fits(self, schema: Json) -> bool:
        return self._fits_inside(self._value, schema)

    def _fits_inside(self, value: Json, schema: Json) -> bool:
        return fits(value, schema, self._root, self._depth + 1)


def is_multiple(value: float, step: float) -> bool:
    """Whether a number is a multiple of another, exactly."""
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return math.isfinite(quotient) and quotient.is_integer()


def table(value: Json) -> dict[str, Any]:
    """Read an object; anything else is empty."""
    return value if isinstance(value, dict) else {}


def listed(value: Json) -> list[Any]:
    """Read a list; anything else is empty."""
    return value if isinstance(value, list) else []


def whole(value: Json, default: int) -> int:
    """Read a whole number; anything else is the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
