"""The faults of a create's envelope, in the contract's words (contract 2.2).

Good bodies never come here: the splitter checks them quickly and asks for words only when something is wrong.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

NOT_JSON = "The request body is not valid JSON: "
PATTERN = "^[a-zA-Z0-9_-]{1,64}$"
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""To be used with `fullmatch`: `$` would let a trailing newline pass."""


def envelope_fault(body: bytes) -> str:
    """Say what is wrong with a body that is not `{"requests": [...]}` of objects."""
    try:
        document = msgspec.json.decode(body)
        body.decode()
    except RecursionError:
        return f"{NOT_JSON}it is nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{NOT_JSON}{error if body.strip() else 'it is empty'}"
    if not isinstance(document, dict):
        return "Input should be a valid dictionary"
    for key in document:
        if key != "requests":
            return f"{key}: Extra inputs are not permitted"
    if "requests" not in document:
        return "requests: Field required"
    if not isinstance(document["requests"], list):
        return "requests: Input should be a valid list"
    return "requests: the key stands twice in the body"


def size_fault(count: int, *, max_items: int) -> str:
    """Say that there are no items, or too many."""
    if count == 0:
        return "requests: List should have at least 1 item after validation, not 0"
    return f"requests: List should have at most {max_items} items after validation, not {count}"


def duplicate_fault(custom_id: str) -> str:
    """Say that a `custom_id` stands twice."""
    return f"requests: custom_id's must be unique within a batch. Duplicate custom_id found: {custom_id}"


def item_fault(number: int, raw: bytes) -> str:
    """Say what is wrong with element `number` of `requests`."""
    at = f"requests.{number}"
    try:
        item: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        return f"{NOT_JSON}{error}"
    if not isinstance(item, dict):
        return f"{at}: Input should be a valid dictionary"
    for key in item:
        if key not in {"custom_id", "params"}:
            return f"{at}.{key}: Extra inputs are not permitted"
    fault = custom_id_fault(item)
    if fault:
        return f"{at}.custom_id: {fault}"
    if "params" not in item:
        return f"{at}.params: Field required"
    return f"{at}.params: Input should be a valid dictionary"


def custom_id_fault(item: dict[str, Any]) -> str | None:
    """Say what is wrong with the `custom_id` of an item, if anything is."""
    if "custom_id" not in item:
        return "Field required"
    value = item["custom_id"]
    if not isinstance(value, str):
        return "Input should be a valid string"
    if not value:
        return "String should have at least 1 character"
    if len(value) > 64:
        return "String should have at most 64 characters"
    return None if CUSTOM_ID.fullmatch(value) else f"String should match pattern '{PATTERN}'"
