"""Which JSON Schemas the embedded engine can enforce. Pure.

A schema that its grammar compiler refuses would end the whole pipeline in the middle of a step, so
each is checked at the door against what is known to compile. Keywords that only describe are allowed.
"""

from __future__ import annotations

from typing import Any

TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
DESCRIBING = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"})
KNOWN = frozenset(
    {
        *DESCRIBING,
        *("type", "enum", "const", "anyOf", "$ref", "$defs", "definitions"),
        *("properties", "required", "additionalProperties"),
        *("items", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"),
    }
)
COUNTS = {"minItems": "maxItems", "minLength": "maxLength"}
MOST_REPEATS = 1000
DEEPEST = 64


def check_schema(schema: Any) -> str | None:
    """Return None if the schema can be enforced, else the fault with its path, such as `.properties.a.type: …`."""
    root = schema if isinstance(schema, dict) else {}
    return _check(schema, "", root, 0)


def _check(schema: Any, path: str, root: dict[str, Any], depth: int) -> str | None:
    if not isinstance(schema, dict):
        return f"{path}: must be an object"
    if depth > DEEPEST:
        return f"{path}: is nested too deeply"
    for key in schema:
        if key not in KNOWN:
            return f"{path}.{key}: is not supported by this engine"
    own = _type(schema, path) or _values(schema, path) or _ref(schema, path, root) or _bounds(schema, path)
    return own or _object(schema, path) or _children(schema, path, root, depth)


def _type(schema: dict[str, Any], path: str) -> str | None:
    kind = schema.get("type", "object")
    kinds = kind if isinstance(kind, list) else [kind]
    if not kinds or not all(isinstance(k, str) and k in TYPES for k in kinds):
        return f"{path}.type: must be one of {', '.join(sorted(TYPES))}"
    return None


def _values(schema: dict[str, Any], path: str) -> str | None:
    values = schema.get("enum", [None])
    if not isinstance(values, list) or not values:
        return f"{path}.enum: must be a list with at least one value"
    return None


def _ref(schema: dict[str, Any], path: str, root: dict[str, Any]) -> str | None:
    if "$ref" not in schema:
        return None
    ref = schema["$ref"]
    if ref == "#":
        return None
    if isinstance(ref, str):
        parts = ref.split("/")
        if len(parts) == 3 and parts[0] == "#" and parts[1] in {"$defs", "definitions"}:
            known = root.get(parts[1])
            if isinstance(known, dict) and parts[2] in known:
                return None
    return f"{path}.$ref: must be `#` or `#/$defs/NAME` of a definition in this schema"


def _bounds(schema: dict[str, Any], path: str) -> str | None:
    for low, high in COUNTS.items():
        for key in (low, high):
            value = schema.get(key, 0)
            if type(value) is not int or not 0 <= value <= MOST_REPEATS:
                return f"{path}.{key}: must be a whole number between 0 and {MOST_REPEATS}"
        if schema.get(low, 0) > schema.get(high, MOST_REPEATS):
            return f"{path}.{low}: is greater than {high}"
    for key in ("minimum", "maximum"):
        if key in schema and (type(schema[key]) is not int or schema.get("type") != "integer"):
            return f"{path}.{key}: is supported for whole numbers of type integer only"
    if schema.get("minimum", 0) > schema.get("maximum", schema.get("minimum", 0)):
        return f"{path}.minimum: is greater than maximum"
    return None


def _object(schema: dict[str, Any], path: str) -> str | None:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return f"{path}.properties: must be an object"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{path}.required: must be a list of names"
    missing = [name for name in required if name not in properties]
    if missing:
        return f"{path}.required: {missing[0]} is not in properties"
    return None


def _children(schema: dict[str, Any], path: str, root: dict[str, Any], depth: int) -> str | None:
    for key in ("properties", "$defs", "definitions"):
        group = schema.get(key, {})
        if not isinstance(group, dict):
            return f"{path}.{key}: must be an object"
        for name, child in group.items():
            if fault := _check(child, f"{path}.{key}.{name}", root, depth + 1):
                return fault
    branches = schema.get("anyOf")
    if branches is not None and (not isinstance(branches, list) or not branches):
        return f"{path}.anyOf: must be a list with at least one schema"
    for number, child in enumerate(branches or ()):
        if fault := _check(child, f"{path}.anyOf[{number}]", root, depth + 1):
            return fault
    for key in ("items", "additionalProperties"):
        child = schema.get(key, True)
        if isinstance(child, bool) and (key == "additionalProperties" or child):
            continue
        if fault := _check(child, f"{path}.{key}", root, depth + 1):
            return fault
    return None
