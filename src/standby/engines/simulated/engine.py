"""The simulator: a Claude that costs nothing, says the same again, and takes as long as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

import msgspec

from standby.config import SimulatorSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.engines.simulated.instances import instance_of
from standby.engines.simulated.slots import Slots
from standby.errors import EngineError, Failure, unknown_model
from standby.ids import random_id
from standby.records import SECOND, Clock, Load
from standby.wire.messages import (
    ContentBlock,
    ContentBlockDelta,
    CountParams,
    Event,
    InputJsonDelta,
    Message,
    MessageParams,
    PromptParams,
    StopReason,
    TextBlock,
    TextDelta,
    Tool,
    ToolChoiceAny,
    ToolChoiceTool,
    ToolUseBlock,
    Usage,
    events_of,
)

NAME = "simulated"
CLAUDES = (
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-fable-5-1",
    "claude-opus-5-5",
    "claude-mythos-5-1",
    "claude-sonnet-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5-20250929",
)
ALIASES = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
CREATED_US = 1_767_225_600 * SECOND
MAX_INPUT = 1_000_000
MAX_OUTPUT = 128_000
BYTES_PER_TOKEN = 4
JSON_PIECE = 4
"""Characters of a token of JSON."""
MEDIA_TOKENS = 1_500
"""Tokens of an image or a PDF, whatever its size."""
WORDS = tuple(
    (  # noqa: SIM905 - 256 quoted words are harder to read
        "a able about above across again air all almost along also and animal answer any area arm as at away back "
        "base be because bed been before began below best better between big bird blue boat body book both box "
        "bread bridge bright bring brother build but by call came can car care carry case cat cause center chair "
        "change child circle city class clean clear close cloud cold color come common cook cool copy corn corner "
        "could count country course cover cross cry cup cut dance dark day deep did distance do dog door down draw "
        "dream dress drink drive dry each ear early earth east easy eat edge egg end energy enough even ever every "
        "eye face fact fall family far farm fast father feel feet few field figure fill final find fine finger "
        "finish fire first fish five flower fly follow food foot for force forest form forward found four free "
        "fresh friend from front fruit full game garden gave get girl give glass go gold gone good great green "
        "grew ground group grow had half hand happy hard has hat have head hear heart heat heavy help here high "
        "hill hold home hope horse hot hour house how idea if in inch island it job join joy jump just keep key "
        "kind king knew know lady lake land large last late laugh lead learn leave left leg less let letter life "
        "light like line list listen little live long look lost love low make man many map mark may meet milk mind"
    ).split()
)
"""One for each byte."""

_encode = msgspec.json.Encoder().encode
_MARKER = re.compile(rb',"cache_control":\{[^{}]*\}')
_MEDIA = re.compile(rb'\{"type":"base64","data":"([^"]*)"')
_LISTED = frozenset((*CLAUDES, NAME))

Fault = Callable[[MessageParams, int], EngineError | None]


class Simulated:
    """An engine whose answers depend on the request alone.

    `fault` may be set by tests: it is asked before every attempt, with the number of the attempt at this prompt
    (from 1), and what it returns is raised.
    """

    def __init__(self, settings: SimulatorSettings, *, seed: int = 0, clock: Clock | None = None) -> None:
        """Take the speed and the slots; another `seed` gives other answers. `clock` is only asked about deadlines."""
        self._settings = settings
        self._seed = seed.to_bytes(8, "big", signed=True)
        self._clock = clock or _now_us
        self._slots = Slots(settings.slots)
        self._is_running = False
        self._attempts: Counter[bytes] = Counter()
        self._models = [_model(name) for name in (*CLAUDES, NAME)]
        self._profile = EngineProfile(name=NAME, slots=settings.slots, cache=CacheProfile.NONE, yields_to_live=False)
        self.fault: Fault | None = None

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        return self._profile

    async def start(self) -> None:
        """Get ready."""
        self._is_running = True

    async def close(self) -> None:
        """Take no more work."""
        self._is_running = False

    def ready(self) -> bool:
        """Whether it was started and not closed."""
        return self._is_running

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,  # noqa: ARG002 - not needed here
    ) -> Message:
        """Answer one request after the time that its tokens take."""
        prompt = self._admit(params)
        await self._take(deadline_us, live=live)
        try:
            answer = self._answer(params, prompt)
            await self._rest(self._prefill_s(prompt) + answer.message.usage.output_tokens * self._token_s, deadline_us)
        finally:
            self._slots.give(live=live)
        return answer.message

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,  # noqa: ARG002 - not needed here
    ) -> AsyncGenerator[Event]:
        """The same as events: the first after the prompt's time, then each piece after the time of a token."""
        prompt = self._admit(params)
        await self._take(deadline_us, live=live)
        try:
            answer = self._answer(params, prompt)
            now = asyncio.get_running_loop().time
            due = now() + self._prefill_s(prompt)
            await self._rest(due - now(), deadline_us)
            for event in _events(answer):
                if self._token_s and isinstance(event, ContentBlockDelta):
                    due += self._token_s
                    await self._rest(due - now(), deadline_us)
                yield event
        finally:
            self._slots.give(live=live)

    async def count_tokens(self, params: CountParams) -> int:
        """Count as `usage.input_tokens` does."""
        await self.resolve(params.model)
        return _prompt(params).tokens

    async def models(self) -> list[Model]:
        """List Claude's models and `simulated`."""
        return self._models

    async def resolve(self, model: str) -> str:
        """Any name of Claude is served; one that is not listed keeps its name."""
        return _resolved(model)

    def load(self) -> Load:
        """What it does right now."""
        return self._slots.load()

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics."""
        return None

    @property
    def _token_s(self) -> float:
        rate = self._settings.decode_tokens_s
        return 1 / rate if rate else 0.0

    def _prefill_s(self, prompt: Prompt) -> float:
        rate = self._settings.prefill_tokens_s
        return prompt.tokens / rate if rate else 0.0

    def _admit(self, params: MessageParams) -> Prompt:
        """Refuse what cannot be answered, then what the test wants to fail."""
        if not self._is_running:
            raise EngineError(Failure.UNREACHABLE, "The simulator is not running.")
        _resolved(params.model)
        prompt = _prompt(params)
        if self.fault is not None:
            self._attempts[prompt.text] += 1
            error = self.fault(params, self._attempts[prompt.text])
            if error is not None:
                raise error
        return prompt

    async def _take(self, deadline_us: int | None, *, live: bool) -> None:
        left_s = self._left_s(deadline_us)
        if left_s is not None and left_s <= 0:
            raise _late()
        try:
            async with asyncio.timeout(left_s):
                await self._slots.take(live=live)
        except TimeoutError:
            raise _late() from None

    async def _rest(self, seconds: float, deadline_us: int | None) -> None:
        """Let time pass; even no time lets others have their turn."""
        left_s = self._left_s(deadline_us)
        if left_s is not None and seconds > left_s:
            await asyncio.sleep(max(left_s, 0))
            raise _late()
        await asyncio.sleep(max(seconds, 0))

    def _left_s(self, deadline_us: int | None) -> float | None:
        return None if deadline_us is None else (deadline_us - self._clock()) / SECOND

    def _answer(self, params: MessageParams, prompt: Prompt) -> Answer:
        tool = _forced_tool(params)
        if tool is not None:
            return _tool_answer(params, prompt, tool, self._choices(prompt))
        form = params.output_config.format if params.output_config is not None else None
        if form is not None:
            value = instance_of(form.schema, self._choices(prompt), WORDS)
            pieces = _cut(_encode(value).decode(), JSON_PIECE)
        else:
            pieces = self._words(prompt)
        return _text_answer(params, prompt, pieces)

    def _words(self, prompt: Prompt) -> list[str]:
        count = self._settings.answer_tokens
        picked = hashlib.shake_128(self._seed + prompt.text).digest(count)
        return [WORDS[byte] if number == 0 else f" {WORDS[byte]}" for number, byte in enumerate(picked)]

    def _choices(self, prompt: Prompt) -> Iterator[int]:
        """Endless numbers from 0 to 255 that depend on the prompt alone."""
        for number in itertools.count():
            yield from hashlib.blake2b(prompt.text, key=self._seed, salt=number.to_bytes(8, "big")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the answer depends on: the model and all that makes the prompt, cache breakpoints taken out."""

    text: bytes
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message of at most one block, and the tokens that this block is made of."""

    message: Message
    pieces: list[str]


def _prompt(params: PromptParams) -> Prompt:
    text = _encode((params.tools, params.system, params.messages))
    if b'"cache_control"' in text:
        text = _MARKER.sub(b"", text)
    tokens = -(-len(text) // BYTES_PER_TOKEN)
    if b'"base64"' in text:
        tokens += sum(MEDIA_TOKENS - len(found) // BYTES_PER_TOKEN for found in _MEDIA.findall(text))
    return Prompt(text=params.model.encode() + text, tokens=tokens)


def _text_answer(params: MessageParams, prompt: Prompt, pieces: list[str]) -> Answer:
    reason: StopReason = "end_turn"
    if len(pieces) > params.max_tokens:
        pieces, reason = pieces[: params.max_tokens], "max_tokens"
    stop = None
    if params.stop_sequences:
        pieces, stop = stopped(pieces, params.stop_sequences)
        reason = reason if stop is None else "stop_sequence"
    text = "".join(pieces)
    content: list[ContentBlock] = [TextBlock(text=text)] if text else []
    return _answer(params, prompt, content, pieces, reason, stop)


def stopped(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    """Cut the pieces before the stop sequence that is complete first; of several, the one that begins first."""
    text = ""
    for number, piece in enumerate(pieces):
        text += piece
        hits = [(place, stop) for stop in stops if (place := text.find(stop)) >= 0]
        if hits:
            place, stop = min(hits)
            return _shortened(pieces[: number + 1], place), stop
    return pieces, None


def _shortened(pieces: list[str], length: int) -> list[str]:
    kept: list[str] = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept


def _tool_answer(params: MessageParams, prompt: Prompt, tool: Tool, choices: Iterator[int]) -> Answer:
    value = instance_of(tool.input_schema, choices, WORDS) if tool.input_schema else {}
    pieces = _cut(_encode(value).decode(), JSON_PIECE)
    reason: StopReason = "tool_use"
    if len(pieces) > params.max_tokens:
        pieces, reason, value = pieces[: params.max_tokens], "max_tokens", {}
    block = ToolUseBlock(id=random_id("toolu"), name=tool.name or "", input=value)
    return _answer(params, prompt, [block], pieces, reason, None)


def _answer(
    params: MessageParams,
    prompt: Prompt,
    content: list[ContentBlock],
    pieces: list[str],
    reason: StopReason,
    stop: str | None,
) -> Answer:
    message = Message(
        id=random_id("msg"),
        model=_resolved(params.model),
        content=content,
        stop_reason=reason,
        stop_sequence=stop,
        usage=Usage(input_tokens=prompt.tokens, output_tokens=len(pieces)),
    )
    return Answer(message=message, pieces=pieces)


def _events(answer: Answer) -> Iterator[Event]:
    """Take the message apart, its one delta token by token."""
    for event in events_of(answer.message):
        if not isinstance(event, ContentBlockDelta):
            yield event
            continue
        for piece in answer.pieces:
            is_text = isinstance(event.delta, TextDelta)
            delta = TextDelta(text=piece) if is_text else InputJsonDelta(partial_json=piece)
            yield ContentBlockDelta(index=event.index, delta=delta)


def _forced_tool(params: MessageParams) -> Tool | None:
    """Return the tool that must be called, if one must be."""
    match params.tool_choice:
        case ToolChoiceTool(name=name):
            return next((tool for tool in params.tools or () if tool.name == name), None)
        case ToolChoiceAny():
            named = [tool for tool in params.tools or () if tool.name]
            return next((tool for tool in named if tool.is_custom), named[0] if named else None)
        case _:
            return None


def _resolved(model: str) -> str:
    if model in _LISTED:
        return model
    if model.startswith("claude-"):
        return ALIASES.get(model, model)
    raise unknown_model(model)


def _cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _model(name: str) -> Model:
    return Model(
        id=name,
        display_name=name.replace("-", " ").title(),
        created_us=CREATED_US,
        max_input_tokens=MAX_INPUT,
        max_output_tokens=MAX_OUTPUT,
    )


def _late() -> EngineError:
    return EngineError(Failure.TIMEOUT, "The time of the request was over before the answer was complete.")


def _now_us() -> int:
    return time.time_ns() // 1000
