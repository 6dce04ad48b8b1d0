"""What another Messages server answers, read without losing anything (contract 3.4, 3.5).

Engines are more careless than the contract: counts may be null or missing, blocks may lack what is empty. Types and
keys of blocks that are not ours are kept as they came (`OtherBlock`, `OtherDelta`); keys beside the contract's on the
message itself and on its usage are left out.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from standby.wire.events import (
    CitationsDelta,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Delta,
    Ending,
    EndUsage,
    ErrorEvent,
    Event,
    InputJsonDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    OtherDelta,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)
from standby.wire.reply import (
    CacheCreation,
    ContentBlock,
    Message,
    OtherBlock,
    Part,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)

Json = dict[str, Any]
_BLOCKS: dict[str, tuple[type[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock], Json]] = {
    "text": (TextBlock, {"text": ""}),
    "thinking": (ThinkingBlock, {"thinking": "", "signature": ""}),
    "redacted_thinking": (RedactedThinkingBlock, {}),
    "tool_use": (ToolUseBlock, {"input": {}}),
}
"""By type: ours, and what an engine may leave out."""
_DELTAS: dict[str, type[TextDelta | InputJsonDelta | ThinkingDelta | SignatureDelta | CitationsDelta]] = {
    "text_delta": TextDelta,
    "input_json_delta": InputJsonDelta,
    "thinking_delta": ThinkingDelta,
    "signature_delta": SignatureDelta,
    "citations_delta": CitationsDelta,
}
_CHOICES = {"service_tier": {"standard", "priority", "batch"}, "speed": {"standard", "fast"}}
_PLAIN: dict[str, type[ContentBlockStop | MessageStop | Ping | ErrorEvent]] = {
    "content_block_stop": ContentBlockStop,
    "message_stop": MessageStop,
    "ping": Ping,
    "error": ErrorEvent,
}
_READS = re.compile(rb'"cache_read_input_tokens"\s*:\s*\d')
_decode = msgspec.json.Decoder(Json).decode


def read_event(data: bytes) -> Event | None:
    """Read the data of one event; None for a type that is not known. `ValueError` if it cannot be read."""
    try:
        return _event(_decode(data))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"an event cannot be read ({type(error).__name__})") from None


def read_answer(data: bytes) -> Message:
    """Read a whole message. `ValueError` if it cannot be read."""
    try:
        return _message(_decode(data))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"the message cannot be read ({type(error).__name__})") from None


def tells_reads(data: bytes) -> bool:
    """Whether a message, or an event with usage, says what was read from a cache; if left out, it reads as 0."""
    return _READS.search(data) is not None


def _event(raw: Json) -> Event | None:
    match raw["type"]:
        case "content_block_delta":
            return ContentBlockDelta(index=int(raw["index"]), delta=_delta(raw["delta"]))
        case "content_block_start":
            return ContentBlockStart(index=int(raw["index"]), content_block=_block(raw["content_block"]))
        case "message_start":
            return MessageStart(message=_message(raw["message"]))
        case "message_delta":
            return MessageDelta(delta=_ending(raw["delta"]), usage=_end_usage(raw.get("usage")))
        case "content_block_stop" | "message_stop" | "ping" | "error" as tag:
            return msgspec.convert(raw, _PLAIN[tag])
        case _:
            return None


def _delta(raw: Json) -> Delta:
    ours = _DELTAS.get(raw["type"])
    return msgspec.convert(raw, ours) if ours is not None and _knows(ours, raw) else OtherDelta(raw)


def _block(raw: Json) -> ContentBlock:
    ours, empty = _BLOCKS.get(raw["type"], (None, {}))
    if ours is None or not _knows(ours, raw):
        return OtherBlock(raw)
    return msgspec.convert({**empty, **raw}, ours)


def _knows(ours: type[Part], raw: Json) -> bool:
    return raw.keys() <= {"type", *ours.__struct_fields__}


def _message(raw: Json) -> Message:
    return Message(
        id=str(raw["id"]),
        model=str(raw["model"]),
        content=[_block(block) for block in raw.get("content") or ()],
        diagnostics=raw.get("diagnostics"),
        usage=_usage(raw.get("usage")),
        **msgspec.structs.asdict(_ending(raw)),
    )


def _ending(raw: Json) -> Ending:
    return msgspec.convert({"stop_reason": None, **raw}, Ending)


def _usage(raw: Json | None) -> Usage:
    told = _told(raw)
    written = int(told.get("cache_creation_input_tokens", 0))
    divided = msgspec.convert(_told(told.get("cache_creation")), CacheCreation)
    if not divided.ephemeral_5m_input_tokens + divided.ephemeral_1h_input_tokens:
        divided = CacheCreation(ephemeral_5m_input_tokens=written)
    told["cache_creation"] = divided
    for name, known in _CHOICES.items():
        if told.get(name) not in known:
            told.pop(name, None)
    return msgspec.convert(_counted(told), Usage)


def _end_usage(raw: Json | None) -> EndUsage:
    return msgspec.convert({"output_tokens": 0, **_counted(_told(raw))}, EndUsage)


def _counted(told: Json) -> Json:
    """Leave out what is no count among the uses of server tools."""
    uses = told.get("server_tool_use")
    if isinstance(uses, dict):
        told["server_tool_use"] = {name: count for name, count in uses.items() if isinstance(count, int)}
    return told


def _told(raw: Json | None) -> Json:
    return {key: value for key, value in (raw or {}).items() if value is not None}
