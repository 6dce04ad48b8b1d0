"""What kinds of chat-completions engines take and tell beyond the common ground. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a kind of engine takes and tells beyond the common ground."""

    name: str
    says_stop: bool = False
    """Whether the last chunk names the stop string that was found (`stop_reason`)."""
    prefill: Mapping[str, Any] | None = None
    """What to send so that it goes on with a last assistant turn; None if it cannot."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    priorities: tuple[int, int] | None = None
    """`priority` of live and of batch requests; None if it must not be sent."""
    counts: Literal["host", "llamacpp", "vllm", "none"] = "none"
    top_k: bool = True


_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
HOST = Dialect(name="host", says_stop=True, prefill={}, extra=_USAGE, priorities=(0, 10), counts="host")
LLAMACPP = Dialect(
    name="llamacpp",
    prefill={},
    extra={"stream_options": {"include_usage": True}, "timings_per_token": True, "return_progress": True},
    counts="llamacpp",
)
VLLM = Dialect(
    name="vllm",
    says_stop=True,
    prefill={"continue_final_message": True, "add_generation_prompt": False},
    extra=_USAGE,
    counts="vllm",
)
GENERIC = Dialect(name="chat", extra={"stream_options": {"include_usage": True}}, top_k=False)
BY_OWNER = {"standby": HOST, "llamacpp": LLAMACPP, "vllm": VLLM}
