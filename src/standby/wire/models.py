"""Models as bytes (contract 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from standby.wire.batches import page_object, timestamp

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a catalogue says of a model; when it was deprecated, none does."""

    lifecycle: str = "active"
    line: str | None = None
    retires_us: int | None = None
    thinking: frozenset[str] | None = None
    """The types of thinking that it takes; None: all, if it thinks at all."""


UNLISTED = Listing()


def model_object(
    model_id: str,
    *,
    display_name: str,
    created_us: int,
    max_input_tokens: int | None,
    max_output_tokens: int | None,
    features: frozenset[str] = frozenset(),
    listing: Listing = UNLISTED,
) -> dict[str, Any]:
    """Return a ModelInfo as plain JSON values.

    `features` are what it can do beyond batches, out of `FEATURES`; what is not named is not supported.
    """
    return {
        "type": "model",
        "id": model_id,
        "display_name": display_name,
        "created_at": timestamp(created_us),
        "lifecycle": listing.lifecycle,
        "deprecated_at": None,
        "retires_at": None if listing.retires_us is None else timestamp(listing.retires_us),
        "line": listing.line,
        "max_input_tokens": max_input_tokens,
        "max_tokens": max_output_tokens,
        "capabilities": _capabilities(features, listing.thinking),
    }


FEATURES = frozenset({"citations", "image_input", "pdf_input", "structured_outputs", "thinking"})
_THINKING = ("adaptive", "between_tools", "disabled", "enabled")


def encode_model(model: dict[str, Any]) -> bytes:
    """Write one ModelInfo."""
    return _encode(model)


def encode_models(models: list[dict[str, Any]], *, has_more: bool) -> bytes:
    """Write a page of models, newest first."""
    return _encode(page_object(models, has_more=has_more))


def _capabilities(features: frozenset[str], thinking: frozenset[str] | None) -> dict[str, Any]:
    no = {"supported": False}
    thinks = "thinking" in features
    types = (_THINKING if thinks else {"disabled"}) if thinking is None else thinking
    return {
        "batch": {"supported": True},
        "citations": {"supported": "citations" in features},
        "code_execution": no,
        "context_management": {
            "supported": False,
            "clear_thinking_20251015": no,
            "clear_tool_uses_20250919": no,
            "compact_20260112": no,
        },
        "effort": {"supported": False, "low": no, "medium": no, "high": no, "xhigh": no, "max": no},
        "image_input": {"supported": "image_input" in features},
        "pdf_input": {"supported": "pdf_input" in features},
        "server_tools": {"supported": False, "code_execution": no, "web_search": no},
        "structured_outputs": {"supported": "structured_outputs" in features},
        "thinking": {
            "supported": thinks,
            "types": {name: {"supported": name in types} for name in _THINKING},
        },
    }
