"""Chunks of a chat-completions stream to events of the Messages API. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.errors import EngineError, Failure
from standby.ids import random_id
from standby.wire.chat.dialect import Dialect
from standby.wire.chat.request import has_marker
from standby.wire.messages import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Ending,
    EndUsage,
    Event,
    Message,
    MessageDelta,
    MessageParams,
    MessageStart,
    MessageStop,
    StopReason,
    TextBlock,
    TextDelta,
    Usage,
)
from standby.wire.stops import StopFinder


class Writing:
    """Turns chunks into events, and knows when the answer is over."""

    def __init__(self, params: MessageParams, *, model: str, dialect: Dialect) -> None:
        """Begin an answer to `params` by the engine's `model`."""
        self._params = params
        self._model = model
        self._finder = None if dialect.says_stop else StopFinder(params.stop_sequences or ())
        self._marked = has_marker(params)
        self._started = False
        self._open = False
        self._prompt = self._cached = self._output = 0
        self._finish: str | None = None
        self._stop: str | None = None
        self.is_over = False
        """Whether a stop sequence was found here: the rest of the stream is not wanted."""

    def take(self, chunk: Chunk) -> list[Event]:
        """Take one chunk."""
        if chunk.is_refusal:
            raise EngineError(Failure.INVALID, "output_config.format.schema: the engine cannot enforce this schema")
        if chunk.is_error:
            raise EngineError(Failure.BROKEN, "the engine gave up in the middle of the answer")
        if chunk.prompt is not None:
            self._prompt, self._cached, self._output = chunk.prompt, chunk.cached, chunk.output or 0
        if chunk.finish is not None:
            self._finish, self._stop = chunk.finish, chunk.stop
        text = chunk.text if self._finder is None else self._finder.feed(chunk.text)
        events = self._start() if chunk.prompt is not None or text else []
        if self._finder is not None and self._finder.matched is not None:
            self._stop, self.is_over = self._finder.matched, True
        return [*events, *self._text(text)]

    def end(self) -> list[Event]:
        """End the answer; raises `EngineError` if there is none."""
        tail = self._finder.finish() if self._finder is not None else ""
        events = [*self._start(), *self._text(tail)]
        if self._finish is None and self._stop is None:
            raise EngineError(Failure.BROKEN, "the engine ended the stream without a reason")
        if not self._open and not self._output and self._stop is None:
            raise EngineError(Failure.EMPTY, "the engine answered with no tokens")
        if self._open:
            events.append(ContentBlockStop(index=0))
        usage = self._usage(0 if self._params.max_tokens == 0 else self._output)
        end_usage = EndUsage(
            input_tokens=usage.input_tokens,
            cache_read_input_tokens=usage.cache_read_input_tokens,
            output_tokens=usage.output_tokens,
        )
        ending = Ending(stop_reason=self._reason(), stop_sequence=self._stop)
        return [*events, MessageDelta(delta=ending, usage=end_usage), MessageStop()]

    def _start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        message = Message(id=random_id("msg"), model=self._model, content=[], stop_reason=None, usage=self._usage(0))
        return [MessageStart(message=message)]

    def _text(self, text: str) -> list[Event]:
        if not text or self._params.max_tokens == 0:
            return []
        delta = ContentBlockDelta(index=0, delta=TextDelta(text=text))
        if self._open:
            return [delta]
        self._open = True
        return [ContentBlockStart(index=0, content_block=TextBlock(text="")), delta]

    def _usage(self, output: int) -> Usage:
        return usage_of(self._prompt, self._cached, output, marked=self._marked)

    def _reason(self) -> StopReason:
        if self._stop is not None:
            return "stop_sequence"
        if self._finish == "length":
            full = 0 < self._output < self._params.max_tokens
            return "model_context_window_exceeded" if full else "max_tokens"
        return "refusal" if self._finish == "content_filter" else "end_turn"


def usage_of(prompt: int, cached: int, output: int, *, marked: bool) -> Usage:
    """Turn an engine's counts into usage."""
    read = min(cached, prompt) if marked else 0
    return Usage(input_tokens=prompt - read, cache_read_input_tokens=read, output_tokens=output)


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk of a stream says."""

    text: str = ""
    finish: str | None = None
    stop: str | None = None
    prompt: int | None = None
    cached: int = 0
    output: int | None = None
    is_error: bool = False
    is_refusal: bool = False
    """The error is the request's own fault."""


def read_chunk(data: bytes) -> Chunk:
    """Read the data of one event; `ValueError` if it is no chunk."""
    try:
        body = msgspec.json.decode(data, type=_Chunk)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if body.error is not None:
        code = body.error.get("code") if isinstance(body.error, dict) else None
        return Chunk(is_error=True, is_refusal=code == "invalid_schema")
    choice = body.choices[0] if body.choices else _Choice()
    prompt, cached, output = _counts(body)
    stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
    text = choice.delta.content or ""
    return Chunk(text=text, finish=choice.finish_reason, stop=stop, prompt=prompt, cached=cached, output=output)


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


def _counts(body: _Chunk) -> tuple[int | None, int, int | None]:
    if body.usage is not None:
        details = body.usage.prompt_tokens_details or _Details()
        return body.usage.prompt_tokens, details.cached_tokens or 0, body.usage.completion_tokens
    if body.timings is not None and body.timings.predicted_n:
        timings = body.timings
        return timings.prompt_n + timings.cache_n, timings.cache_n, timings.predicted_n
    return None, 0, None
