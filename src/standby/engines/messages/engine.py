"""Any engine with `/v1/messages`: what a client sent goes on as it is, what comes back is passed on as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals, Watch
from standby.engines.http import InFlight
from standby.engines.messages.connection import Connection
from standby.engines.messages.failures import NoRoute, from_event
from standby.engines.messages.served import Served, named, read_models, resolve_here
from standby.engines.patience import Pace, Patience, limits_for
from standby.errors import ApiError, EngineError, Failure, InvalidParams, invalid, unknown_model
from standby.ids import random_id
from standby.records import Load
from standby.wire.messages import (
    Accumulator,
    ContentBlockDelta,
    ContentBlockStart,
    CountParams,
    EndUsage,
    ErrorEvent,
    Event,
    Message,
    MessageDelta,
    MessageParams,
    MessageStart,
    MessageStop,
    Ping,
    ThinkingDisabled,
    Usage,
    encode_params,
    events_of,
)
from standby.wire.received import read_answer, read_event, tells_reads

MESSAGES = "/v1/messages?beta=true"
COUNT = "/v1/messages/count_tokens?beta=true"
DEFAULT_SLOTS = 8
LOOK_AGAIN_S = 2.0
REFRESH_S = 600.0
"""How often the list of models is read again: services add some."""
PAGE = 1000
MOST_PAGES = 20
MOST_ALIASES = 1024
Params = TypeVar("Params", MessageParams, CountParams)


class Messages:
    """One endpoint that speaks the Messages API."""

    def __init__(
        self, settings: EngineSettings, *, base_url: str, name: str = "messages", uds: str | None = None
    ) -> None:
        """Keep the address; `uds` is the path of a unix socket."""
        self._settings = settings
        self._name = name
        self._connection = Connection(settings, base_url=base_url, uds=uds, lost=self._look_again)
        self._pace = Pace()
        self._served: Served | None = None
        self._aliases: dict[str, str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._away = asyncio.Event()
        self._ready = self._closed = False
        self._in_flight = InFlight()

    @property
    def profile(self) -> EngineProfile:
        """What it declares: its cache is the one of the contract unless the settings know better."""
        cache = self._settings.cache
        return EngineProfile(
            name=self._name,
            slots=self._settings.slots or DEFAULT_SLOTS,
            cache=CacheProfile.SHARED_AFTER_FIRST_TOKEN if cache == "auto" else CacheProfile(cache),
            yields_to_live=False,
        )

    async def start(self) -> None:
        """Look at the endpoint; if it does not answer, keep looking."""
        with suppress(EngineError, ApiError):
            await self._look()
        self._looking = asyncio.ensure_future(self._look_on())

    async def close(self) -> None:
        """Close every connection."""
        self._ready, self._closed = False, True
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
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
        whole = Accumulator()
        async with aclosing(self.stream(params, deadline_us=deadline_us, live=live, context=context)) as events:
            async for event in events:
                whole.add(event)
        try:
            return whole.message
        except ValueError:
            raise EngineError(Failure.BROKEN, "the engine's events do not add up to a message") from None

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events; always streams from the engine, but for an answer of no tokens."""
        model = await self.resolve(params.model)
        body = encode_params(self._sent(params, model))
        limits = limits_for(self._settings, self._pace, body_bytes=len(body), max_tokens=params.max_tokens)
        patience = Patience(limits, deadline_us)
        betas = params.betas or ()
        with self._in_flight.one(live=live):
            if not params.max_tokens:
                data = await self._connection.whole(MESSAGES, body, patience, betas=betas)
                message = _read(data)
                if context.watch is not None and tells_reads(data):
                    context.watch.prompt(*_prompt_of(message.usage))
                for event in events_of(message):
                    yield event
                return
            async with aclosing(self._connection.events(MESSAGES, body, patience, betas=betas)) as found:
                async for event in self._checked(found, patience, context.watch):
                    yield event

    async def count_tokens(self, params: CountParams) -> int:
        """Let the engine count."""
        model = await self.resolve(params.model)
        body = encode_params(_addressed(params, model))
        try:
            answer = await self._connection.ask(COUNT, body, betas=params.betas or ())
        except NoRoute:
            raise invalid(f"model: the engine behind {model} cannot count tokens") from None
        try:
            return int(answer["input_tokens"])
        except (KeyError, TypeError, ValueError):
            raise EngineError(Failure.BROKEN, "the engine's count cannot be read") from None

    async def models(self) -> list[Model]:
        """List what it serves, newest first."""
        return sorted((await self._known()).models, key=lambda model: -model.created_us)

    async def resolve(self, model: str) -> str:
        """Return the id that serves requests for `model`: the list's, the settings', or what the server says."""
        served = await self._known()
        try:
            return resolve_here(model, served, self._settings.aliases)
        except InvalidParams:
            if not served.resolves:
                raise
        if model not in self._aliases:
            found = await self._ask_for(model)
            if len(self._aliases) >= MOST_ALIASES:
                self._aliases.clear()
            self._aliases[model] = found
        return self._aliases[model]

    async def signals(self) -> Signals | None:
        """No such server has metrics in a form that all share."""
        return None

    def _sent(self, params: MessageParams, model: str) -> MessageParams:
        params = replace(_addressed(params, model), stream=True if params.max_tokens else None)
        thinks = params.thinking is not None and not isinstance(params.thinking, ThinkingDisabled)
        names_one = params.temperature is not None or params.top_p is not None or params.top_k is not None
        if self._settings.temperature < 0 or thinks or names_one:
            return params
        return replace(params, temperature=min(1.0, self._settings.temperature))

    async def _checked(
        self, found: AsyncGenerator[bytes, None], patience: Patience, watch: Watch | None
    ) -> AsyncGenerator[Event, None]:
        """Read events, hold them to the contract's order, learn from them."""
        started: Message | None = None
        ending: MessageDelta | None = None
        tells = False
        async for data in found:
            event = _read_event(data)
            tells = tells or (isinstance(event, (MessageStart, MessageDelta)) and tells_reads(data))
            if isinstance(event, ErrorEvent):
                raise from_event(event.error.type, event.error.message)
            if event is None or isinstance(event, Ping):
                continue
            if isinstance(event, (ContentBlockStart, ContentBlockDelta)):
                patience.token()
                if watch is not None and isinstance(event, ContentBlockDelta):
                    watch.tokens(1)  # such servers count at the end only
            elif isinstance(event, MessageDelta):
                event = ending = _ended(event)
            elif isinstance(event, MessageStart):
                event = MessageStart(message=_identified(event.message))
                started = event.message
            if started is None or (isinstance(event, MessageStop) and _ends_badly(ending)):
                raise EngineError(Failure.BROKEN, "the engine's events are not those of a message")
            yield event
        if started is not None and ending is not None:
            prompt, cached = _prompt_of(started.usage, ending.usage)
            self._pace.learn(
                prompt=prompt,
                cached=cached,
                first_s=patience.first_s or 0.0,
                output=ending.usage.output_tokens,
                rest_s=patience.rest_s,
            )
            if watch is not None and tells:
                watch.prompt(prompt, cached)

    async def _known(self) -> Served:
        if self._served is None:
            await self._look()
        assert self._served is not None
        return self._served

    async def _look(self) -> None:
        """Read the list of models; a server that has none serves what the settings name."""
        try:
            pages = [await self._connection.ask(f"/v1/models?limit={PAGE}")]
            while _has_more(pages[-1]) and len(pages) < MOST_PAGES:
                after = urlencode({"limit": PAGE, "after_id": pages[-1]["last_id"]})
                pages.append(await self._connection.ask(f"/v1/models?{after}"))
            self._served = read_models(pages)
        except NoRoute:
            self._served = named(self._settings.model_name)
        self._aliases.clear()
        self._ready = not self._closed

    async def _ask_for(self, name: str) -> str:
        try:
            found = await self._connection.ask(f"/v1/models/{quote(name, safe='')}")
        except (InvalidParams, NoRoute):
            raise unknown_model(name) from None
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise EngineError(Failure.BROKEN, "the engine's word about a model cannot be read")
        return str(found["id"])

    def _look_again(self) -> None:
        self._ready = False
        self._away.set()

    async def _look_on(self) -> None:
        """Look often until it answers; then seldom, for what is new."""
        while True:
            if self._ready:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await self._away.wait()
            if not self._ready:
                await asyncio.sleep(LOOK_AGAIN_S)
            self._away.clear()
            with suppress(EngineError, ApiError):
                await self._look()


def _addressed(params: Params, model: str) -> Params:
    """Name the real model; betas are said in a header."""
    return replace(params, model=model, betas=None)


def _read_event(data: bytes) -> Event | None:
    try:
        return read_event(data)
    except ValueError:
        raise EngineError(Failure.BROKEN, "the engine sent an event that cannot be read") from None


def _read(data: bytes) -> Message:
    try:
        return _identified(read_answer(data))
    except ValueError:
        raise EngineError(Failure.BROKEN, "the engine's answer cannot be read") from None


def _prompt_of(start: Usage, end: EndUsage | None = None) -> tuple[int, int]:
    """Return the tokens of the prompt, and how many of them were read from a cache."""
    end = end or EndUsage(output_tokens=0)
    cached = end.cache_read_input_tokens or start.cache_read_input_tokens
    written = end.cache_creation_input_tokens or start.cache_creation_input_tokens
    return (end.input_tokens or start.input_tokens) + cached + written, cached


def _identified(message: Message) -> Message:
    """Keep the engine's id, unless it is none of this API's, as with llama.cpp."""
    return message if message.id.startswith("msg_") else replace(message, id=random_id("msg"))


def _ended(event: MessageDelta) -> MessageDelta:
    """Say `stop_sequence` where one is named: llama.cpp names it and says `end_turn`."""
    if event.delta.stop_sequence is None or event.delta.stop_reason != "end_turn":
        return event
    return replace(event, delta=replace(event.delta, stop_reason="stop_sequence"))


def _ends_badly(ending: MessageDelta | None) -> bool:
    return ending is None or ending.delta.stop_reason is None


def _has_more(page: Any) -> bool:
    return isinstance(page, dict) and page.get("has_more") is True and isinstance(page.get("last_id"), str)
