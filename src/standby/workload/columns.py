"""The columns that a schema promises, and values that fit into them. Pure."""

from __future__ import annotations

from typing import Any

KINDS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
LARGEST = 2**63
DEPTH = 8


def fields_of(schema: dict[str, Any] | None) -> dict[str, str]:
    """Name the columns of a schema's properties; what is no plain type is JSON."""
    whole = schema or {}
    top = _resolved(whole, whole)
    return {name: _kind(about, whole, DEPTH) for name, about in (top.get("properties") or {}).items()}


def fitted(value: Any, kind: str) -> Any:
    """Return a value that its column can hold, else None: the whole answer stands beside it."""
    match kind:
        case "VARCHAR":
            return value if isinstance(value, str) else None
        case "BOOLEAN":
            return value if isinstance(value, bool) else None
        case "BIGINT":
            return _integer(value)
        case "DOUBLE":
            return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        case _:
            return value


def _integer(value: Any) -> int | None:
    """Take 7 and 7.0, which JSON Schema does not tell apart."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        return None
    return int(value) if -LARGEST <= value < LARGEST else None


def _kind(about: Any, whole: dict[str, Any], depth: int) -> str:
    if not isinstance(about, dict) or not depth:
        return "JSON"
    about = _resolved(about, whole)
    for way in ("anyOf", "oneOf"):
        if way in about:
            return _one({_kind(one, whole, depth - 1) for one in about[way] if one != {"type": "null"}})
    given = about.get("type")
    if isinstance(given, str):
        return KINDS.get(given, "JSON")
    if isinstance(given, list):
        return _one({KINDS.get(one, "JSON") for one in given if one != "null"})
    values = about.get("enum") or ([about["const"]] if "const" in about else [])
    return "VARCHAR" if values and all(isinstance(value, str) for value in values) else "JSON"


def _one(kinds: set[str]) -> str:
    return kinds.pop() if len(kinds) == 1 else "JSON"


def _resolved(about: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Follow `#/$defs/…`, which pydantic writes for classes."""
    name = str(about.get("$ref", ""))
    kept = whole.get("$defs") if name.startswith("#/$defs/") else whole.get("definitions")
    found = (kept or {}).get(name.rpartition("/")[2]) if name.startswith("#/") else None
    return found if isinstance(found, dict) else about
