"""The answer: a Message, its blocks and its usage (contract 3.4). Every documented key is always written."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from standby.records import Tokens

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "compaction",
    "refusal",
    "model_context_window_exceeded",
]
ServiceTier = Literal["standard", "priority", "batch"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that we answer with."""


class TextBlock(Part, tag="text", frozen=True, kw_only=True):
    """Text."""

    text: str
    citations: list[dict[str, Any]] | None = None


class ThinkingBlock(Part, tag="thinking", frozen=True, kw_only=True):
    """Thinking; `signature` comes last in a stream."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Part, tag="redacted_thinking", frozen=True, kw_only=True):
    """Thinking that may not be read."""

    data: str


class ToolUseBlock(Part, tag="tool_use", frozen=True, kw_only=True):
    """A call of a client's tool."""

    id: str
    name: str
    input: dict[str, Any]


class OtherBlock(dict[str, Any]):
    """A block that is only passed on, as its own JSON object: server tools and what they gave, blocks of betas.

    Also a block of a known type with keys beyond ours, so that nothing of it is lost.
    """


ContentBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | OtherBlock


class CacheCreation(Part, frozen=True, kw_only=True):
    """Tokens written to the cache, by lifetime."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputDetails(Part, frozen=True, kw_only=True):
    """Of the output tokens, those that were thinking."""

    thinking_tokens: int = 0


class Usage(Part, frozen=True, kw_only=True):
    """Tokens (contract 9.2): `input_tokens` are those after the last cache breakpoint."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation = CacheCreation()
    output_tokens: int = 0
    service_tier: ServiceTier | None = None
    inference_geo: str | None = None
    server_tool_use: dict[str, int] | None = None
    output_tokens_details: OutputDetails | None = None
    speed: Literal["standard", "fast"] | None = None


class Message(Part, tag="message", frozen=True, kw_only=True):
    """A finished answer, or the empty start of one (`content` empty, `stop_reason` None)."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    container: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    usage: Usage


_encoder = msgspec.json.Encoder()


def encode_message(message: Message) -> bytes:
    """Write a Message as one line of JSON."""
    return _encoder.encode(message)


def tokens_of(usage: Usage) -> Tokens:
    """Turn usage into the five columns of a price book."""
    return Tokens(
        input=usage.input_tokens,
        write_5m=usage.cache_creation.ephemeral_5m_input_tokens,
        write_1h=usage.cache_creation.ephemeral_1h_input_tokens,
        read=usage.cache_read_input_tokens,
        output=usage.output_tokens,
    )
