"""Any engine with `/v1/chat/completions`: our host, llama.cpp, vLLM, SGLang, Ollama, hosted ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import msgspec

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals, Watch
from standby.engines.chat.connection import Connection
from standby.engines.chat.counting import count_prompt
from standby.engines.chat.failures import PriorityRefused, read
from standby.engines.chat.recognise import CACHES, DEFAULT_SLOTS, Known, look
from standby.engines.chat.resolve import resolve_name
from standby.engines.chat.signals import Scraper
from standby.engines.chat.slots import Slots
from standby.engines.http import InFlight
from standby.engines.patience import Limits, Pace, Patience, limits_for
from standby.errors import EngineError, Failure
from standby.records import Load
from standby.wire.chat.chunks import Chunk
from standby.wire.chat.dialect import GENERIC, HOST, Dialect
from standby.wire.chat.reply import Whole, Writing
from standby.wire.chat.request import chat_body
from standby.wire.messages import CountParams, Event, Message, MessageParams

LOOK_AGAIN_S = 2.0
MOST_CHUNKS = 4
"""Chunks for each token that a request may have, beyond which an answer does not end; and some for short ones."""
SPARE_CHUNKS = 4096
log = logging.getLogger("standby.engines.chat")


class Chat:
    """One endpoint that speaks chat-completions."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        base_url: str = "http://localhost",
        uds: str | None = None,
        dialect: Dialect | None = None,
        cache: CacheProfile | None = None,
        name: str = "chat",
        slots: int = 0,
    ) -> None:
        """Keep the address; `uds` is the path of a unix socket.

        What is not given (`dialect`, `cache`, `slots`) is taken from the settings, else from the engine itself.
        """
        self._settings = settings
        self._given = dialect
        self._cache = cache
        self._name = name
        self._slots = slots
        self._connection = Connection(settings, base_url=base_url, uds=uds, lost=self._look_again)
        self._scraper = Scraper(self._connection)
        self._kept = Slots(self._connection, is_ours=dialect is not None)
        self._pace = Pace()
        self._tells_reuse = False
        self._known: Known | None = None
        self._looking: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._ready = self._closed = False
        self._in_flight = InFlight()

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        return EngineProfile(
            name=self._name,
            slots=self._known.slots if self._known else self._slots or self._settings.slots or DEFAULT_SLOTS,
            cache=self._cache or (self._known.cache if self._known else CACHES[self.dialect.name]),
            yields_to_live=self.dialect.name == HOST.name and self.dialect.priorities is not None,
            kv_tokens=self._known.kv_tokens if self._known else 0,
        )

    @property
    def dialect(self) -> Dialect:
        """How it is spoken to, as far as is known now."""
        return self._known.dialect if self._known else self._given or GENERIC

    @property
    def known(self) -> Known | None:
        """What is known of the engine; None before it answered."""
        return self._known

    @property
    def pace(self) -> Pace:
        """What it was seen to do."""
        return self._pace

    @property
    def connection(self) -> Connection:
        """The way to it, for questions beyond the contract of an engine."""
        return self._connection

    async def start(self) -> None:
        """Look at the engine; if it does not answer, keep looking."""
        with suppress(EngineError):
            await self._look()
        if not self._ready:
            self._look_again()

    def know(self, known: Known) -> None:
        """Take what was found out about the engine; it is ready from now on."""
        self._known = known
        self._ready = not self._closed

    async def close(self) -> None:
        """Close every connection."""
        self._ready, self._closed = False, True
        for task in (self._looking, self._trying):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._kept.close()
        await self._connection.close()

    def ready(self) -> bool:
        """Whether it answered the last time."""
        return self._ready

    def load(self) -> Load:
        """What we have in flight there."""
        return Load(live=self._in_flight.live, batch=self._in_flight.batch, slots=self.profile.slots)

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request."""
        model = await self.resolve(params.model)
        with self._in_flight.one(live=live):
            body = await self._body(params, model, context, live=live)
            while True:
                answer, data = self._answer(params, model, body, deadline_us, context.watch)
                whole = Whole(answer.writing)
                try:
                    async with aclosing(self._connection.events(data, answer.patience)) as received:
                        async for one in received:
                            whole.take(answer.read(one))
                            if answer.writing.is_over:
                                break
                except PriorityRefused as refused:
                    self._take_back_priority(body, refused, is_late=answer.has_begun)
                else:
                    message = whole.end()
                    self._learn(answer)
                    return message

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events; once more without a priority if the engine turns out to refuse that."""
        model = await self.resolve(params.model)
        with self._in_flight.one(live=live):
            body = await self._body(params, model, context, live=live)
            while True:
                answer, data = self._answer(params, model, body, deadline_us, context.watch)
                writing = answer.writing
                try:
                    async with aclosing(self._connection.events(data, answer.patience)) as received:
                        async for one in received:
                            for event in writing.take(answer.read(one)):
                                yield event
                            if writing.is_over:
                                break
                except PriorityRefused as refused:
                    self._take_back_priority(body, refused, is_late=answer.has_begun)
                else:
                    for event in writing.end():
                        yield event
                    self._learn(answer)
                    return

    async def count_tokens(self, params: CountParams) -> int:
        """Count with the engine's own tokenizer and template; `InvalidParams` if it has no way to tell."""
        model = await self.resolve(params.model)
        return await count_prompt(self._connection, params, model=model, dialect=self.dialect)

    async def models(self) -> list[Model]:
        """List what it serves, newest first."""
        known = self._known if self._known and self._known.models else await self._look()
        return sorted(known.models, key=lambda m: -m.created_us)

    async def resolve(self, model: str) -> str:
        """Return the real id for a name or an alias; raises `unknown_model`."""
        return resolve_name(model, await self.models(), self._settings.aliases)

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics; None if it has none or they cannot be read."""
        return await self._scraper.read(self.dialect.name)

    async def check(self) -> None:
        """Ask for a sign of life; raises `EngineError`."""
        await self._connection.read("/health")

    async def try_priority(self) -> bool:
        """Ask for one token with a priority, and send priorities from now on if the engine takes it."""
        known = self._known or await self._look()
        if known.priority != "try":
            return known.priority == "send"
        if not known.models or known.dialect.ranks is None:
            return False
        body = {
            "model": known.models[0].id,
            "messages": [{"role": "user", "content": "."}],
            "max_tokens": 1,
            "stream": True,
            "priority": known.dialect.ranks[1],
        }
        data = msgspec.json.encode(body)
        try:
            async with aclosing(self._connection.events(data, Patience(self._limits(data, 1), None))) as received:
                async for one in received:
                    read(one)
        except EngineError as error:
            if not error.failure.retriable:
                self._forget_priority()
            return False
        self._learn_priority(known.dialect.with_priority(), "send", "it took one; whether it heeds it, it does not say")
        return True

    async def _body(self, params: MessageParams, model: str, context: Context, *, live: bool) -> dict[str, Any]:
        temperature = self._settings.temperature if self._settings.temperature >= 0 else None
        body = chat_body(params, model=model, dialect=self.dialect, live=live, temperature=temperature)
        return body if context.slot is None else {**body, **await self._pinned(context.slot, model)}

    def _answer(
        self, params: MessageParams, model: str, body: Mapping[str, Any], deadline_us: int | None, watch: Watch | None
    ) -> tuple[_Answer, bytes]:
        """Begin an answer; the bytes are what the engine is sent."""
        data = msgspec.json.encode(body)
        patience = Patience(self._limits(data, params.max_tokens), deadline_us)
        writing = Writing(params, model=model, dialect=self.dialect)
        return _Answer(writing, patience, watch, most=MOST_CHUNKS * params.max_tokens + SPARE_CHUNKS), data

    def _learn(self, answer: _Answer) -> None:
        """Learn from a whole answer; an engine that told once what it reused is silent only where that was nothing."""
        answer.teach(self._pace)
        self._tells_reuse = self._tells_reuse or answer.tells_reuse
        if self._tells_reuse:
            answer.tell_prompt()

    async def _pinned(self, slot: int, model: str) -> dict[str, int]:
        """Ask for the slot that has the beginning of the prompt, where the engine has such slots and keeps them."""
        profile, dialect = self.profile, self.dialect
        if not dialect.pins or profile.cache is not CacheProfile.PER_SLOT or not 0 <= slot < profile.slots:
            return {}
        return {"id_slot": slot} if await self._kept.are_kept(dialect, model) else {}

    def _limits(self, data: bytes, max_tokens: int) -> Limits:
        return limits_for(self._settings, self._pace, body_bytes=len(data), max_tokens=max_tokens)

    async def _look(self) -> Known:
        """Ask the engine who it is; a priority that has to be tried is tried beside the first work."""
        known = await look(self._connection, self._settings, given=self._given, slots=self._slots)
        self.know(known)
        self._kept.forget()
        if known.priority == "try" and known.models and (self._trying is None or self._trying.done()):
            self._trying = asyncio.ensure_future(self._try())
        return known

    async def _try(self) -> None:
        with suppress(EngineError):
            takes = await self.try_priority()
            log.info("%s: %s", self._connection.base, "it takes priorities" if takes else "it takes no priorities")

    def _look_again(self) -> None:
        self._ready = False
        if not self._closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look_until_ready())

    async def _look_until_ready(self) -> None:
        while not self._ready:
            await asyncio.sleep(LOOK_AGAIN_S)
            with suppress(EngineError):
                await self._look()

    def _take_back_priority(self, body: dict[str, Any], refused: PriorityRefused, *, is_late: bool) -> None:
        """Send none from now on, nor with this request; raises if it had none, or was answered already."""
        self._forget_priority()
        if body.pop("priority", None) is None or is_late:
            raise EngineError(Failure.BROKEN, refused.message) from None

    def _forget_priority(self) -> None:
        self._learn_priority(replace(self.dialect, priorities=None), "never", "it refused one")

    def _learn_priority(self, dialect: Dialect, priority: Any, why: str) -> None:
        if self._known is not None:
            how = {**self._known.how, "priority": "tried"}
            self._known = replace(self._known, dialect=dialect, priority=priority, why_priority=why, how=how)


class _Answer:
    """One answer as it comes: reads chunks, watches the clock, tells who watches."""

    def __init__(self, writing: Writing, patience: Patience, watch: Watch | None, *, most: int) -> None:
        self.writing = writing
        self.patience = patience
        self._watch = watch
        self._left = most
        self._counts = Chunk()
        self._told = 0

    @property
    def has_begun(self) -> bool:
        """Whether the engine said something that counts."""
        return self.patience.first_s is not None or self._counts.prompt is not None

    def read(self, data: bytes) -> Chunk:
        """Read the data of one event."""
        chunk = read(data)
        is_said = bool(chunk.text or chunk.thinking or chunk.calls)
        if is_said or chunk.finish or chunk.refusal:
            self.patience.token()
            self._left -= 1
            if self._left < 0:
                raise EngineError(Failure.BROKEN, "the engine does not end its answer at max_tokens")
        if chunk.prompt is not None:
            self._counts = chunk
        if is_said and self._watch is not None:
            self._tell(self._watch, chunk)
        return chunk

    def _tell(self, watch: Watch, chunk: Chunk) -> None:
        """Say how many tokens came: what the engine counts, else one a chunk."""
        new = chunk.output - self._told if chunk.output else 1
        if new > 0:
            self._told += new
            watch.tokens(new)

    @property
    def tells_reuse(self) -> bool:
        """Whether the engine said how much of the prompt it had in its cache."""
        return self._counts.cached is not None

    def tell_prompt(self) -> None:
        """Say what the engine counted of the prompt."""
        if self._watch is not None and self._counts.prompt is not None:
            self._watch.prompt(self._counts.prompt, self._counts.cached or 0)

    def teach(self, pace: Pace) -> None:
        """Say how fast the engine was."""
        pace.learn(
            prompt=self._counts.prompt or 0,
            cached=self._counts.cached or 0,
            first_s=self.patience.first_s or 0.0,
            output=self._counts.output,
            rest_s=self.patience.rest_s,
        )
