"""Chunks of a chat-completions stream to events of the Messages API. Pure.

Thinking that was not asked for (`thinking` missing or `disabled`) is not shown, for clients read the first block as
the answer; its tokens are counted. A refusal has no content but its reason in `stop_details`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from standby.errors import EngineError, Failure
from standby.ids import random_id
from standby.wire.caching import usage_parts
from standby.wire.chat.blocks import Blocks
from standby.wire.chat.calls import Call, CallFinder, read_call, read_name
from standby.wire.chat.chunks import CallDelta, Chunk, read_chunk
from standby.wire.chat.dialect import Dialect
from standby.wire.chat.request import sends_stops
from standby.wire.chat.thinking import asks_for_thinking, is_omitted
from standby.wire.chat.tools import is_forced, is_single, mode_of, names_of
from standby.wire.messages import (
    Accumulator,
    Ending,
    EndUsage,
    Event,
    Message,
    MessageDelta,
    MessageParams,
    MessageStart,
    MessageStop,
    OutputDetails,
    PromptParams,
    StopReason,
    ToolUseParam,
    Usage,
)
from standby.wire.stops import StopFinder

__all__ = ["Chunk", "Whole", "Writing", "read_chunk", "usage_of"]

_FINISHES = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("length", "max_tokens"), "length"),
    **dict.fromkeys(("content_filter", "safety", "refusal", "recitation"), "content_filter"),
    "model_length": "model_length",
}
"""Reasons to finish, as engines write them."""


class Writing:
    """Turns chunks into events, and knows when the answer is over."""

    def __init__(self, params: MessageParams, *, model: str, dialect: Dialect) -> None:
        """Begin an answer to `params` by the engine's `model`."""
        self._params = params
        self._model = model
        self._dialect = dialect
        own_calls = bool(params.tools) and mode_of(params, dialect) == "schema"
        names = names_of(params)
        stops = params.stop_sequences or ()
        self._finder = StopFinder(stops) if stops and not sends_stops(params, dialect) else None
        self._calls = CallFinder(names) if own_calls and names and not is_forced(params) else None
        self._whole: list[str] | None = [] if own_calls and is_forced(params) else None
        """Text that is one call as a whole."""
        self._blocks = Blocks(
            may_call=names.__contains__,
            is_taken=_TakenIds(params),
            single=is_single(params),
            omits_thinking=is_omitted(params),
        )
        self._started = False
        self._counts = Chunk()
        self._finish: str | None = None
        self._stop: str | None = None
        self._refusal = ""
        self.usage = Usage()
        """The counts so far."""
        self.is_over = False
        """Whether a stop sequence was found here and nothing more is wanted, counts included."""

    @property
    def takes_runs(self) -> bool:
        """Whether pieces of text may be joined before they are taken: no stop sequence ends the answer among them."""
        return self._finder is None

    def take(self, chunk: Chunk) -> list[Event]:
        """Take one chunk; raises `EngineError` if it is an error or makes no sense."""
        if chunk.error is not None:
            raise chunk.error
        if chunk.prompt is not None:
            self._counts = chunk
        if chunk.finish is not None:
            self._finish = _known(chunk.finish)
        if self._finder is None and chunk.stop in (self._params.stop_sequences or ()):
            self._stop = chunk.stop  # others are the engine's own, such as the end of a turn
        self._refusal += chunk.refusal
        events = self._content(chunk) if self._is_wanted else []
        return [*self._start(), *events] if events or chunk.prompt is not None else events

    def end(self) -> list[Event]:
        """End the answer; raises `EngineError` if there is none."""
        events = self._rest() if self._is_wanted else []
        if self._finish is None and self._stop is None:
            raise EngineError(Failure.BROKEN, "the engine ended the stream without a reason")
        if self._blocks.is_empty and not self._counts.output and self._stop is None and not self._refusal:
            raise EngineError(Failure.EMPTY, "the engine answered with no tokens")
        events += self._blocks.end(cut=self._is_cut)
        self._check_choice()
        ending = Ending(
            stop_reason=self._reason(), stop_sequence=self._stop if self._reason() == "stop_sequence" else None
        )
        if ending.stop_reason == "refusal":
            details = {"type": "refusal", "category": None, "explanation": self._refusal or None}
            ending = msgspec.structs.replace(ending, stop_details=details)
        start, told = self._start(), self.usage
        self.usage = self._usage(0 if self._params.max_tokens == 0 else self._counts.output)
        return [*start, *events, MessageDelta(delta=ending, usage=_end_usage(told, self.usage)), MessageStop()]

    @property
    def _is_wanted(self) -> bool:
        """Whether content still counts: not behind a stop sequence, and not where only the cache is warmed."""
        return self._params.max_tokens > 0 and not (self._finder is not None and self._finder.matched is not None)

    @property
    def _is_cut(self) -> bool:
        return self._finish in {"length", "model_length"}

    def _start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        self.usage = self._usage(0)
        message = Message(id=random_id("msg"), model=self._model, content=[], stop_reason=None, usage=self.usage)
        return [MessageStart(message=message)]

    def _content(self, chunk: Chunk) -> list[Event]:
        events: list[Event] = []
        if chunk.thinking and asks_for_thinking(self._params):
            events += [*self._held(), *self._blocks.thinking(chunk.thinking)]
        events += self._text(chunk.text)
        for delta in chunk.calls if self._is_wanted else ():
            events += [*self._held(), *self._blocks.call(delta)]
        return events

    def _text(self, text: str) -> list[Event]:
        if not text:
            return []
        if self._whole is not None:
            self._whole.append(text)
            return []
        return self._pieces([text] if self._calls is None else self._calls.feed(text))

    def _pieces(self, pieces: Iterable[str | Call]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if not self._is_wanted:
                break
            if isinstance(piece, Call):
                events += [*self._held(), *self._call(piece.name, msgspec.json.encode(piece.input).decode())]
            else:
                events += self._blocks.text(self._searched(piece))
        return events

    def _searched(self, text: str) -> str:
        if self._finder is None:
            return text
        text = self._finder.feed(text)
        if self._finder.matched is not None:
            self._stop, self.is_over = self._finder.matched, self._dialect.usage == "always"
        return text

    def _held(self) -> list[Event]:
        """Give the text that could have begun a stop sequence: something else follows it."""
        return [] if self._finder is None else self._blocks.text(self._finder.finish())

    def _rest(self) -> list[Event]:
        events = [] if self._calls is None else self._pieces(self._calls.finish())
        if self._is_wanted:
            events += self._held()
        if self._whole is not None:
            events += self._one_call("".join(self._whole))
        return events

    def _one_call(self, text: str) -> list[Event]:
        call = read_call(text)
        if call is not None:
            self._finish = "tool_calls"
            return self._call(call.name, msgspec.json.encode(call.input).decode())
        if not self._is_cut:
            return []
        name = read_name(text)
        return [] if name is None else self._call(name, "{}")

    def _call(self, name: str, arguments: str) -> list[Event]:
        return self._blocks.call(CallDelta(id=random_id("toolu"), name=name, arguments=arguments))

    def _check_choice(self) -> None:
        """Refuse an answer without the call that was demanded, or announced."""
        if self._blocks.has_calls or self._refusal or self._params.max_tokens == 0:
            return
        if self._finish == "tool_calls":
            raise EngineError(Failure.BROKEN, "the engine says that it called a tool, but names none")
        if is_forced(self._params) and self._finish == "stop":
            advice = (
                "the engine did not keep to the schema" if self._whole is not None else "set engine.tools to `schema`"
            )
            raise EngineError(Failure.BROKEN, f"no tool was called although `tool_choice` demands it; {advice}")

    def _reason(self) -> StopReason:
        if self._refusal or self._finish == "content_filter":
            return "refusal"
        if self._stop is not None:
            return "stop_sequence"
        if self._finish == "length":
            full = 0 < self._counts.output < self._params.max_tokens
            return "model_context_window_exceeded" if full else "max_tokens"
        if self._finish == "model_length":
            return "model_context_window_exceeded"
        return "tool_use" if self._blocks.has_calls else "end_turn"

    def _usage(self, output: int) -> Usage:
        counts = self._counts
        return usage_of(
            self._params, prompt=counts.prompt or 0, cached=counts.cached, output=output, thought=counts.thought
        )


class Whole:
    """Puts a message together out of chunks, without the events that nobody reads; else just as they would.

    Nearly all chunks are a piece of text or of thinking. Runs of them are joined and taken as one chunk.
    """

    def __init__(self, writing: Writing) -> None:
        """Begin an answer."""
        self._writing = writing
        self._message = Accumulator()
        self._joins = writing.takes_runs
        self._run: list[str] = []
        self._is_thinking = False
        self._counts: Chunk | None = None
        """The last counts of the run."""

    def take(self, chunk: Chunk) -> None:
        """Take one chunk; raises `EngineError` if it is an error or makes no sense."""
        said = chunk.text or chunk.thinking
        if not (said and self._joins) or (chunk.text and chunk.thinking) or chunk.finish is not None or _is_more(chunk):
            self._take_run()
            self._take(chunk)
            return
        is_thinking = not chunk.text
        if is_thinking is not self._is_thinking:
            self._take_run()
            self._is_thinking = is_thinking
        self._run.append(said)
        if chunk.prompt is not None:
            self._counts = chunk

    def end(self) -> Message:
        """End the answer; raises `EngineError` if there is none."""
        self._take_run()
        for event in self._writing.end():
            self._message.add(event)
        return self._message.message

    def _take_run(self) -> None:
        if not self._run:
            return
        said, run, self._counts = "".join(self._run), self._counts or Chunk(), None
        self._run.clear()
        text, thinking = ("", said) if self._is_thinking else (said, "")
        self._take(msgspec.structs.replace(run, text=text, thinking=thinking))

    def _take(self, chunk: Chunk) -> None:
        for event in self._writing.take(chunk):
            self._message.add(event)


def _is_more(chunk: Chunk) -> bool:
    """Whether a chunk says something beside text or thinking."""
    return bool(chunk.calls or chunk.refusal or chunk.error is not None or chunk.stop is not None)


def usage_of(params: PromptParams, *, prompt: int, cached: int | None, output: int, thought: int | None) -> Usage:
    """Turn an engine's counts into usage: the one place where cached tokens become reads (contract 9)."""
    usage = usage_parts(params, prompt=prompt, cached=cached, output=output)
    if thought is None or not output:
        return usage
    return msgspec.structs.replace(usage, output_tokens_details=OutputDetails(thinking_tokens=min(thought, output)))


def _known(finish: str) -> str:
    if finish.lower() not in _FINISHES:
        raise EngineError(Failure.BROKEN, "the engine ended the answer for a reason that is not known here")
    return _FINISHES[finish.lower()]


def _end_usage(told: Usage, usage: Usage) -> EndUsage:
    """Write the counts at the end; the lifetimes of cache writes only if `message_start` told them otherwise."""
    return EndUsage(
        input_tokens=usage.input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        output_tokens=usage.output_tokens,
        output_tokens_details=usage.output_tokens_details,
        cache_creation=msgspec.UNSET if usage.cache_creation == told.cache_creation else usage.cache_creation,
    )


class _TakenIds:
    """Ids of earlier calls; looked up only if the answer has a call."""

    def __init__(self, params: PromptParams) -> None:
        self._params = params
        self._ids: frozenset[str] | None = None

    def __call__(self, id_: str) -> bool:
        if self._ids is None:
            self._ids = frozenset(
                block.id
                for turn in self._params.messages
                if not isinstance(turn.content, str)
                for block in turn.content
                if isinstance(block, ToolUseParam)
            )
        return id_ in self._ids
