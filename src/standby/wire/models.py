"""Models as bytes (contract 5)."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.wire.batches import page_object, timestamp

_encode = msgspec.json.Encoder().encode


def model_object(
    model_id: str,
    *,
    display_name: str,
    created_us: int,
    max_input_tokens: int | None,
    max_output_tokens: int | None,
    features: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return a ModelInfo as plain JSON values.

    `features` are what it can do beyond batches, out of `FEATURES`; what is not named is not supported.
    """
    return {
        "type": "model",
        "id": model_id,
        "display_name": display_name,
        "created_at": timestamp(created_us),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": max_input_tokens,
        "max_tokens": max_output_tokens,
        "capabilities": _capabilities(features),
    }


FEATURES = frozenset({"citations", "image_input", "pdf_input", "structured_outputs", "thinking"})


def encode_model(model: dict[str, Any]) -> bytes:
    """Write one ModelInfo."""
    return _encode(model)


def encode_models(models: list[dict[str, Any]], *, has_more: bool) -> bytes:
    """Write a page of models, newest first."""
    return _encode(page_object(models, has_more=has_more))


def _capabilities(features: frozenset[str]) -> dict[str, Any]:
    no = {"supported": False}
    thinks = {"supported": "thinking" in features}
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
            **thinks,
            "types": {"adaptive": thinks, "between_tools": thinks, "disabled": {"supported": True}, "enabled": thinks},
        },
    }
