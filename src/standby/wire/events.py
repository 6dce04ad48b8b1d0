"""Streaming events (contract 3.5): a Message taken apart, and put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, assert_never

import msgspec
from msgspec.structs import replace

from standby.wire.reply import (
    CacheCreation,
    ContentBlock,
    Message,
    OtherBlock,
    OutputDetails,
    Part,
    RedactedThinkingBlock,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)


class TextDelta(Part, tag="text_delta", frozen=True, kw_only=True):
    """More text."""

    text: str


class InputJsonDelta(Part, tag="input_json_delta", frozen=True, kw_only=True):
    """More of the JSON text of a tool's input."""

    partial_json: str


class ThinkingDelta(Part, tag="thinking_delta", frozen=True, kw_only=True):
    """More thinking."""

    thinking: str


class SignatureDelta(Part, tag="signature_delta", frozen=True, kw_only=True):
    """The signature of a thinking block, right before its end."""

    signature: str


class CitationsDelta(Part, tag="citations_delta", frozen=True, kw_only=True):
    """One more citation of a text block."""

    citation: dict[str, Any]


class OtherDelta(dict[str, Any]):
    """A delta that is only passed on, as its own JSON object."""


Delta = TextDelta | InputJsonDelta | ThinkingDelta | SignatureDelta | CitationsDelta | OtherDelta


class MessageStart(Part, tag="message_start", frozen=True, kw_only=True):
    """The first event; all input and cache counts are already here."""

    message: Message


class ContentBlockStart(Part, tag="content_block_start", frozen=True, kw_only=True):
    """An empty block."""

    index: int
    content_block: ContentBlock


class ContentBlockDelta(Part, tag="content_block_delta", frozen=True, kw_only=True):
    """A piece of a block."""

    index: int
    delta: Delta


class ContentBlockStop(Part, tag="content_block_stop", frozen=True, kw_only=True):
    """The end of a block."""

    index: int


class Ending(Part, frozen=True, kw_only=True):
    """Why the answer ended."""

    stop_reason: StopReason | None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    container: dict[str, Any] | None = None


class EndUsage(Part, frozen=True, kw_only=True):
    """Cumulative counts at the end."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int
    server_tool_use: dict[str, int] | None = None
    output_tokens_details: OutputDetails | None = None
    cache_creation: CacheCreation | msgspec.UnsetType = msgspec.UNSET
    """The cache writes by lifetime, only where `message_start` could not tell them."""


class MessageDelta(Part, tag="message_delta", frozen=True, kw_only=True):
    """The ending, with cumulative counts."""

    delta: Ending
    usage: EndUsage


class MessageStop(Part, tag="message_stop", frozen=True, kw_only=True):
    """The last event."""


class Ping(Part, tag="ping", frozen=True, kw_only=True):
    """Nothing; keeps the connection busy."""


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong: `{"type":…,"message":…}`, with `details` if there are any."""

    type: str
    message: str
    details: dict[str, Any] | None = None


class ErrorEvent(Part, tag="error", frozen=True, kw_only=True):
    """Instead of the rest, after the status was sent."""

    error: ErrorInfo
    request_id: str | None = None


Event = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | Ping
    | ErrorEvent
)


def events_of(message: Message, *, piece: int = 0) -> Iterator[Event]:
    """Take a finished Message apart; text comes in pieces of `piece` characters, 0 gives it whole."""
    yield MessageStart(message=opening(message))
    for index, block in enumerate(message.content):
        yield ContentBlockStart(index=index, content_block=_emptied(block))
        for delta in _deltas(block, piece):
            yield ContentBlockDelta(index=index, delta=delta)
        yield ContentBlockStop(index=index)
    yield closing(message)
    yield MessageStop()


def opening(message: Message) -> Message:
    """Return the message as `message_start` shows it: no content, no ending, no output yet."""
    return replace(
        message,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        stop_details=None,
        container=None,
        usage=replace(message.usage, output_tokens=0, output_tokens_details=None),
    )


def closing(message: Message) -> MessageDelta:
    """Return the `message_delta` that ends this message."""
    usage = message.usage
    return MessageDelta(
        delta=Ending(
            stop_reason=message.stop_reason,
            stop_sequence=message.stop_sequence,
            stop_details=message.stop_details,
            container=message.container,
        ),
        usage=EndUsage(
            input_tokens=usage.input_tokens,
            cache_creation_input_tokens=usage.cache_creation_input_tokens,
            cache_read_input_tokens=usage.cache_read_input_tokens,
            output_tokens=usage.output_tokens,
            server_tool_use=usage.server_tool_use,
            output_tokens_details=usage.output_tokens_details,
        ),
    )


def _emptied(block: ContentBlock) -> ContentBlock:
    match block:
        case TextBlock():
            return TextBlock(text="", citations=None if block.citations is None else [])
        case ThinkingBlock():
            return ThinkingBlock(thinking="")
        case ToolUseBlock():
            return ToolUseBlock(id=block.id, name=block.name, input={})
        case RedactedThinkingBlock() | OtherBlock():
            return block
        case _:
            assert_never(block)


def _deltas(block: ContentBlock, piece: int) -> Iterator[Delta]:
    match block:
        case TextBlock():
            yield from (TextDelta(text=text) for text in _pieces(block.text, piece))
            yield from (CitationsDelta(citation=citation) for citation in block.citations or ())
        case ThinkingBlock():
            yield from (ThinkingDelta(thinking=text) for text in _pieces(block.thinking, piece))
            yield SignatureDelta(signature=block.signature)
        case ToolUseBlock():
            text = msgspec.json.encode(block.input).decode()
            yield from (InputJsonDelta(partial_json=part) for part in _pieces(text, piece))
        case RedactedThinkingBlock() | OtherBlock():
            return
        case _:
            assert_never(block)


def _pieces(text: str, piece: int) -> Iterator[str]:
    if piece <= 0 or len(text) <= piece:
        if text:
            yield text
        return
    for start in range(0, len(text), piece):
        yield text[start : start + piece]


class Accumulator:
    """Puts a Message together event by event; `message` is what there is so far."""

    __slots__ = ("_blocks", "_ending", "_parts", "_start", "_usage", "is_finished")

    def __init__(self) -> None:
        """Begin before `message_start`."""
        self._start: Message | None = None
        self._blocks: list[ContentBlock] = []
        self._parts: list[list[Delta]] = []
        self._ending = Ending(stop_reason=None)
        self._usage: EndUsage | None = None
        self.is_finished = False

    def add(self, event: Event) -> None:
        """Take the next event; `ValueError` if it cannot come here."""
        match event:
            case MessageStart():
                self._start = event.message
            case ContentBlockStart():
                if event.index != len(self._blocks):
                    raise ValueError(f"content block {event.index} starts after {len(self._blocks)} blocks")
                self._blocks.append(event.content_block)
                self._parts.append([])
            case ContentBlockDelta():
                if not 0 <= event.index < len(self._parts):
                    raise ValueError(f"content block {event.index} goes on but did not start")
                self._parts[event.index].append(event.delta)
            case MessageDelta():
                self._ending, self._usage = event.delta, event.usage
            case MessageStop():
                self.is_finished = True
            case ErrorEvent():
                raise ValueError(f"the stream ended with {event.error.type}")
            case ContentBlockStop() | Ping():
                pass
            case _:
                assert_never(event)

    @property
    def message(self) -> Message:
        """The message so far; `ValueError` before `message_start` or if a tool's input is not JSON."""
        if self._start is None:
            raise ValueError("the stream has no message_start")
        content = [*self._start.content, *map(_filled, self._blocks, self._parts)]
        return replace(
            self._start,
            content=content,
            stop_reason=self._ending.stop_reason,
            stop_sequence=self._ending.stop_sequence,
            stop_details=self._ending.stop_details,
            container=self._ending.container,
            usage=final_usage(self._start.usage, self._usage),
        )


def accumulate(events: Iterable[Event]) -> Message:
    """Put a whole stream together; `ValueError` if it is cut short, out of order or ends with an error."""
    accumulator = Accumulator()
    for event in events:
        accumulator.add(event)
    if not accumulator.is_finished:
        raise ValueError("the stream ended without message_stop")
    return accumulator.message


def _filled(block: ContentBlock, parts: list[Delta]) -> ContentBlock:
    if isinstance(block, OtherBlock) or any(isinstance(part, OtherDelta) for part in parts):
        return _merged(msgspec.to_builtins(block), [msgspec.to_builtins(part) for part in parts])
    match block:
        case TextBlock():
            text = block.text + "".join(p.text for p in parts if isinstance(p, TextDelta))
            cited = [p.citation for p in parts if isinstance(p, CitationsDelta)]
            return TextBlock(text=text, citations=[*(block.citations or ()), *cited] if cited else block.citations)
        case ThinkingBlock():
            thinking = block.thinking + "".join(p.thinking for p in parts if isinstance(p, ThinkingDelta))
            signature = block.signature + "".join(p.signature for p in parts if isinstance(p, SignatureDelta))
            return ThinkingBlock(thinking=thinking, signature=signature)
        case ToolUseBlock():
            text = "".join(p.partial_json for p in parts if isinstance(p, InputJsonDelta))
            return replace(block, input=_input(text)) if text.strip() else block
        case RedactedThinkingBlock():
            return block
        case _:
            assert_never(block)


def _merged(block: dict[str, Any], parts: list[dict[str, Any]]) -> OtherBlock:
    """Put a block of any kind together: texts and lists grow, everything else is replaced."""
    block = dict(block)
    text = ""
    for part in parts:
        for key, value in part.items():
            before = block.get(key)
            if key == "partial_json":
                text += value
            elif key == "citation":
                block["citations"] = [*(block.get("citations") or ()), value]
            elif key == "type":
                continue
            elif isinstance(before, str) and isinstance(value, str):
                block[key] = before + value
            elif isinstance(before, list) and isinstance(value, list):
                block[key] = [*before, *value]
            else:
                block[key] = value
    if text.strip():
        block["input"] = _input(text)
    return OtherBlock(block)


def _input(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ValueError("the input of a tool_use block is not a JSON object") from None


def final_usage(start: Usage, end: EndUsage | None) -> Usage:
    """Complete the usage of `message_start` by that of `message_delta`, which is cumulative."""
    if end is None:
        return start
    end = _completed(start, end)
    written = end.cache_creation_input_tokens
    divided = end.cache_creation
    if isinstance(divided, msgspec.UnsetType):
        is_new = written != start.cache_creation_input_tokens
        divided = _divided(start.cache_creation, written) if is_new else start.cache_creation
    return replace(
        start,
        input_tokens=end.input_tokens,
        cache_creation_input_tokens=written,
        cache_creation=divided,
        cache_read_input_tokens=end.cache_read_input_tokens,
        output_tokens=end.output_tokens,
        server_tool_use=end.server_tool_use or start.server_tool_use,
        output_tokens_details=end.output_tokens_details or start.output_tokens_details,
    )


def _completed(start: Usage, end: EndUsage) -> EndUsage:
    """Fill in what the end does not tell; if it tells the same prompt anew, divided otherwise, its zeros count."""
    if _prompt_of(end) == _prompt_of(start):
        return end
    return replace(
        end,
        input_tokens=end.input_tokens or start.input_tokens,
        cache_creation_input_tokens=end.cache_creation_input_tokens or start.cache_creation_input_tokens,
        cache_read_input_tokens=end.cache_read_input_tokens or start.cache_read_input_tokens,
    )


def _prompt_of(usage: Usage | EndUsage) -> int:
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def _divided(told: CacheCreation, written: int) -> CacheCreation:
    """Divide cache writes by lifetime; what the engine did not divide was for 5 minutes, the default."""
    return replace(told, ephemeral_5m_input_tokens=max(0, written - told.ephemeral_1h_input_tokens))
