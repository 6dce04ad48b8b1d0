"""Combinations of JSON Schema taken apart: `$ref`, allOf, anyOf, oneOf become a list of plain schemas. Pure.

A plain schema has no combinations, `const` is an enum of one, and what only describes is gone. Each keyword is
checked here, so that nothing unknown gets any further.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from standby.wire.grammar.formats import FORMATS
from standby.wire.grammar.language import Language
from standby.wire.grammar.patterns import BadPattern, pattern

JsonObject = dict[str, Any]
KINDS = ("object", "array", "string", "integer", "number", "boolean", "null")
DESCRIBING = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions"),
    }
)
DEPTH = "x-standby-depth"
"""Ours: how deeply a value of any kind may still be nested."""
COUNTS = {"minItems": "maxItems", "minLength": "maxLength", "minProperties": "maxProperties"}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
WHERE: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": (*BOUNDS, "multipleOf"),
}
"""Which keywords speak of which kind of value; a schema without a type is of the kinds it speaks of."""
COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
KNOWN = frozenset({"type", "enum", "const", DEPTH, *COMBINING, *(key for keys in WHERE.values() for key in keys)})
MOST_BRANCHES = 256
MOST_COUNT = 100_000
DEEPEST = 64


class Unsupported(Exception):
    """A schema that cannot be enforced; the words begin with the path of the fault, such as `.properties.a.type: …`."""


class Merger:
    """Takes schemas apart; `root` is where references begin."""

    def __init__(self, root: JsonObject, *, heeds_formats: bool = True) -> None:
        """Keep the whole schema; without `heeds_formats` a `format` only describes, as many a validator has it."""
        self._root = root
        self._heeds_formats = heeds_formats

    def branches(self, schema: Any, path: str, depth: int = 0) -> list[JsonObject]:
        """Return plain schemas: a value is valid if one of them holds. Raises `Unsupported`."""
        if depth > DEEPEST:
            raise Unsupported(f"{path}: refers to itself without an end")
        if isinstance(schema, bool):
            return [{}] if schema else []
        if not isinstance(schema, dict):
            raise Unsupported(f"{path}: must be an object")
        found = [_normal(schema, path)]
        for part, place in self._parts(schema, path):
            found = _both(found, self.branches(part, place, depth + 1), path)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                ways = [
                    self.branches(s, f"{path}.{key}[{n}]", depth + 1) for n, s in enumerate(_list(schema, key, path))
                ]
                if key == "oneOf":
                    self._check_apart(ways, path)
                found = _both(found, [branch for way in ways for branch in way], path)
        return [kept for branch in found if (kept := self._valid(branch, path)) is not None]

    def fits(self, value: Any, schema: Any, path: str = "") -> bool:
        """Whether a value is valid."""
        return any(self._fits_plain(value, branch, path) for branch in self.branches(schema, path))

    def _parts(self, schema: JsonObject, path: str) -> list[tuple[Any, str]]:
        parts = [(s, f"{path}.allOf[{n}]") for n, s in enumerate(_list(schema, "allOf", path))]
        if "$ref" in schema:
            parts.append(self._resolved(schema["$ref"], path))
        return parts

    def _resolved(self, ref: Any, path: str) -> tuple[Any, str]:
        found: Any = self._root
        names = ref.split("/")[1:] if isinstance(ref, str) else []
        if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
            raise Unsupported(f"{path}.$ref: must be `#` or `#/…`, a place in this schema")
        for name in (n.replace("~1", "/").replace("~0", "~") for n in names):
            if not isinstance(found, dict) or name not in found:
                raise Unsupported(f"{path}.$ref: {ref} is not in this schema")
            found = found[name]
        return found, "".join(f".{name}" for name in names)

    def _check_apart(self, ways: list[list[JsonObject]], path: str) -> None:
        """What is written for one branch of a oneOf must never be valid for another."""
        for here, mine in enumerate(ways):
            for there, others in enumerate(ways):
                if here != there and not all(self._apart(a, b, path) for a in mine for b in others):
                    raise Unsupported(
                        f"{path}.oneOf: [{here}] and [{there}] may both hold; tell them apart by a const, or use anyOf"
                    )

    def _apart(self, mine: JsonObject, other: JsonObject, path: str) -> bool:
        """Whether nothing that is written for `mine` is valid for `other`; False if that is not plain to see."""
        if "enum" in mine or "enum" in other:
            one, two = (mine, other) if "enum" in mine else (other, mine)
            lenient = Merger(self._root, heeds_formats=False)
            return not any(lenient._fits_plain(value, two, path) for value in one["enum"])
        # what is written for a schema without a type is narrower than what is valid for it: any kind it is silent on
        valid = {_wider(kind) for kind in other.get("type", KINDS)}
        shared = {_wider(kind) for kind in kinds(mine)} & valid
        return not shared or (shared == {"object"} and self._objects_apart(mine, other, path))

    def _objects_apart(self, mine: JsonObject, other: JsonObject, path: str) -> bool:
        written, known = mine.get("properties", {}), other.get("properties", {})
        must = mine.get("required", [])
        if written and any(name not in written and name not in must for name in other.get("required", ())):
            return True
        if other.get("additionalProperties") is False and any(name not in known for name in must):
            return True
        return any(
            self._apart(a, b, path)
            for name in must
            if name in written and name in known
            for a in self._only(written[name], path)
            for b in self._only(known[name], path)
        )

    def _only(self, schema: Any, path: str) -> list[JsonObject]:
        """The one plain schema that it is, or none."""
        found = self.branches(schema, path)
        return found if len(found) == 1 else []

    def _valid(self, schema: JsonObject, path: str) -> JsonObject | None:
        """Keep the values of an enum that the other keywords allow; None if the schema cannot hold."""
        if "type" in schema and not schema["type"]:
            return None
        if "enum" not in schema:
            return schema
        rest = {key: value for key, value in schema.items() if key != "enum"}
        values = [value for value in schema["enum"] if self._fits_plain(value, rest, path)]
        return {"enum": values} if values else None

    def _fits_plain(self, value: Any, schema: JsonObject, path: str) -> bool:
        if "enum" in schema and not any(same(value, known) for known in schema["enum"]):
            return False
        kind = kind_of(value)
        if "type" in schema and kind not in schema["type"] and _wider(kind) not in schema["type"]:
            return False
        if kind == "object":
            return self._fits_object(value, schema, path)
        if kind == "array":
            return self._fits_array(value, schema, path)
        if kind == "string":
            return self._fits_string(value, schema, path)
        return _fits_number(Decimal(str(value)), schema) if _wider(kind) == "number" else True

    def _fits_object(self, value: JsonObject, schema: JsonObject, path: str) -> bool:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        return (
            _counted(len(value), schema, "minProperties")
            and all(name in value for name in schema.get("required", ()))
            and all(self.fits(v, properties.get(name, more), path) for name, v in value.items())
            and all(self.fits(name, schema.get("propertyNames", True), path) for name in value)
        )

    def _fits_string(self, value: str, schema: JsonObject, path: str) -> bool:
        form = FORMATS.get(schema.get("format", "")) if self._heeds_formats else None
        given = [text for text in (schema.get("pattern"), form) if text is not None]
        inside = msgspec.json.encode(value).decode()[1:-1]
        try:
            return _counted(len(value), schema, "minLength") and all(
                Language(pattern(text), {}).fits(inside) for text in given
            )
        except BadPattern as fault:
            raise Unsupported(f"{path}.pattern: {fault}") from None

    def _fits_array(self, value: list[Any], schema: JsonObject, path: str) -> bool:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        unique = not schema.get("uniqueItems") or all(not same(a, b) for n, a in enumerate(value) for b in value[:n])
        each = all(self.fits(v, first[n] if n < len(first) else rest, path) for n, v in enumerate(value))
        return unique and each and _counted(len(value), schema, "minItems")


def kinds(schema: JsonObject) -> list[str]:
    """Return the kinds of values that are written for a plain schema."""
    if "type" in schema:
        found = schema["type"]
        return [kind for kind in found if kind != "integer" or "number" not in found]
    spoken = [kind for kind, keys in WHERE.items() if any(key in schema for key in keys)]
    return spoken or ["object", "array", "string", "number", "boolean", "null"]


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value; 2.0 is an integer, as the standard says."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, (int, float)):
        return "integer" if value == int(value) else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return kind_of(one) == kind_of(other) and bool(one == other)


def _wider(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _normal(schema: JsonObject, path: str) -> JsonObject:
    """Check the keywords of one schema and put them into one form; combinations are left out."""
    for key in schema:
        if key not in KNOWN and key not in DESCRIBING:
            raise Unsupported(f"{path}.{key}: is not supported by this engine")
    _check_type(schema, path)
    _check_counts(schema, path)
    _check_values(schema, path)
    _check_children(schema, path)
    found = {key: v for key, v in schema.items() if key not in DESCRIBING and key not in COMBINING and key != "const"}
    if "type" in schema:
        found["type"] = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "const" in schema:
        return _merged(found, {"enum": [schema["const"]]}, path)
    return found


def _check_type(schema: JsonObject, path: str) -> None:
    given = schema.get("type", "object")
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) and name in KINDS for name in names):
        raise Unsupported(f"{path}.type: must be one of {', '.join(KINDS)}")
    if type(schema.get(DEPTH, 0)) is not int:
        raise Unsupported(f"{path}.{DEPTH}: is not supported by this engine")


def _check_counts(schema: JsonObject, path: str) -> None:
    for key in (*COUNTS, *COUNTS.values()):
        value = schema.get(key, 0)
        if type(value) is not int or not 0 <= value <= MOST_COUNT:
            raise Unsupported(f"{path}.{key}: must be a whole number between 0 and {MOST_COUNT}")
    for low, high in COUNTS.items():
        if schema.get(low, 0) > schema.get(high, MOST_COUNT):
            raise Unsupported(f"{path}.{low}: is greater than {high}")
    for key in BOUNDS:
        value = schema.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
            raise Unsupported(f"{path}.{key}: must be a number between -1e18 and 1e18")
        if Decimal(str(value)) % Decimal("1e-9"):
            raise Unsupported(f"{path}.{key}: is supported with at most 9 decimal places")
    if schema.get("minimum", 0) > schema.get("maximum", schema.get("minimum", 0)):
        raise Unsupported(f"{path}.minimum: is greater than maximum")
    if schema.get("multipleOf", 1) != 1:
        raise Unsupported(f"{path}.multipleOf: is supported with 1 only")


def _check_values(schema: JsonObject, path: str) -> None:
    values = schema.get("enum", [None])
    if not isinstance(values, list) or not values:
        raise Unsupported(f"{path}.enum: must be a list with at least one value")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise Unsupported(f"{path}.required: must be a list of names")
    if not isinstance(schema.get("uniqueItems", False), bool):
        raise Unsupported(f"{path}.uniqueItems: must be true or false")
    for key in ("pattern", "format"):
        if not isinstance(schema.get(key, ""), str):
            raise Unsupported(f"{path}.{key}: must be a text")
    if "format" in schema and schema["format"] not in FORMATS:
        raise Unsupported(f"{path}.format: must be one of {', '.join(FORMATS)}")


def _check_children(schema: JsonObject, path: str) -> None:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise Unsupported(f"{path}.properties: must be an object")
    if not isinstance(schema.get("prefixItems", []), list):
        raise Unsupported(f"{path}.prefixItems: must be a list of schemas")
    children = [(f"{path}.properties.{name}", child) for name, child in properties.items()]
    children += [(f"{path}.prefixItems[{n}]", child) for n, child in enumerate(schema.get("prefixItems", []))]
    children += [(f"{path}.{k}", schema[k]) for k in ("items", "additionalProperties", "propertyNames") if k in schema]
    for place, child in children:
        if not isinstance(child, (dict, bool)):
            raise Unsupported(f"{place}: must be an object")


def _list(schema: JsonObject, key: str, path: str) -> list[Any]:
    if key not in schema:
        return []
    if not isinstance(schema[key], list) or not schema[key]:
        raise Unsupported(f"{path}.{key}: must be a list with at least one schema")
    found: list[Any] = schema[key]
    return found


def _both(ones: list[JsonObject], others: list[JsonObject], path: str) -> list[JsonObject]:
    if len(ones) * len(others) > MOST_BRANCHES:
        raise Unsupported(f"{path}: has more than {MOST_BRANCHES} combinations")
    return [_merged(one, other, path) for one in ones for other in others]


def _merged(one: JsonObject, other: JsonObject, path: str) -> JsonObject:
    """Return a plain schema that holds where both hold."""
    found = {**one, **other}
    for key in one.keys() & other.keys():
        if not same_or_none(one[key], other[key]):
            found[key] = _MERGE.get(key, _refuse)(one[key], other[key], f"{path}.{key}")
    if "properties" in found or "required" in found:
        found["properties"] = _properties(one, other)
    if ("prefixItems" in one) != ("prefixItems" in other):
        found["prefixItems"] = _first_items(one, other)
    return found


def same_or_none(one: Any, other: Any) -> bool:
    """Whether two values of one keyword say the same."""
    return bool(msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic"))


def _properties(one: JsonObject, other: JsonObject) -> JsonObject:
    """Each property must fit both sides: where one does not name it, its additionalProperties."""
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    found = {}
    for name in dict.fromkeys((*mine, *theirs, *one.get("required", ()), *other.get("required", ()))):
        a = mine.get(name, one.get("additionalProperties", True))
        b = theirs.get(name, other.get("additionalProperties", True))
        if name in mine or name in theirs or a is not True or b is not True:
            found[name] = _all_of(a, b, "")
    return found


def _first_items(one: JsonObject, other: JsonObject) -> list[Any]:
    """Each of the first values must fit both sides: the one names no first ones, so its `items` speaks of them, too."""
    named, silent = (one, other) if "prefixItems" in one else (other, one)
    return [_all_of(schema, silent.get("items", True), "") for schema in named["prefixItems"]]


def _all_of(one: Any, other: Any, _: str) -> Any:
    if one is True or other is True:
        return other if one is True else one
    if one is False or other is False:
        return False
    return one if same_or_none(one, other) else {"allOf": [one, other]}


def _types(one: list[str], other: list[str], _: str) -> list[str]:
    both = [kind for kind in one if kind in other]
    wide = "integer" in (*one, *other) and "number" in (*one, *other) and not {"integer", "number"} & set(both)
    return [*both, "integer"] if wide else both


def _refuse(_: Any, __: Any, path: str) -> Any:
    raise Unsupported(f"{path}: two different ones cannot be combined")


_MERGE: dict[str, Callable[[Any, Any, str], Any]] = {
    "type": _types,
    "enum": lambda a, b, _: [value for value in a if any(same(value, known) for known in b)],
    "required": lambda a, b, _: list(dict.fromkeys((*a, *b))),
    "properties": lambda a, b, _: {**a, **b},
    "additionalProperties": _all_of,
    "propertyNames": _all_of,
    "items": _all_of,
    "uniqueItems": lambda a, b, _: a or b,
    DEPTH: lambda a, b, _: min(a, b),
    **{key: lambda a, b, _: max(a, b) for key in (*COUNTS, "minimum", "exclusiveMinimum")},
    **{key: lambda a, b, _: min(a, b) for key in (*COUNTS.values(), "maximum", "exclusiveMaximum")},
}


def _counted(count: int, schema: JsonObject, low: str) -> bool:
    return bool(schema.get(low, 0) <= count <= schema.get(COUNTS[low], count))


def _fits_number(value: Decimal, schema: JsonObject) -> bool:
    return bool(
        value >= Decimal(str(schema.get("minimum", value)))
        and value <= Decimal(str(schema.get("maximum", value)))
        and ("exclusiveMinimum" not in schema or value > Decimal(str(schema["exclusiveMinimum"])))
        and ("exclusiveMaximum" not in schema or value < Decimal(str(schema["exclusiveMaximum"])))
        and value % Decimal(str(schema.get("multipleOf", value or 1)) or 1) == 0
    )
