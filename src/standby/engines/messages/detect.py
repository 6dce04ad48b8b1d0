"""A URL whose language is not known yet: its list of models tells, as soon as it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

import structlog

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, Engine, EngineProfile, Model, Signals
from standby.engines.messages.connection import Connection
from standby.engines.messages.failures import NoRoute
from standby.engines.messages.served import is_contracts
from standby.errors import ApiError, EngineError, Failure
from standby.records import Load
from standby.wire.messages import CountParams, Event, Message, MessageParams

LOOK_AGAIN_S = 2.0

log = structlog.get_logger("standby.engines")


class Either:
    """An endpoint that becomes the one or the other; until it answered it is not ready."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        base_url: str,
        name: str,
        chat: Callable[[], Engine],
        messages: Callable[[], Engine],
    ) -> None:
        """Keep how the two are made; neither is, yet."""
        self._connection = Connection(settings, base_url=base_url, says_bearer=True)
        self._settings = settings
        self._url = base_url
        self._name = name
        self._makers = {"chat": chat, "messages": messages}
        self._engine: Engine | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def profile(self) -> EngineProfile:
        """What it declares; nothing to rely on before it answered."""
        if self._engine is not None:
            return self._engine.profile
        return EngineProfile(
            name=self._name, slots=self._settings.slots or 1, cache=CacheProfile.NONE, yields_to_live=False
        )

    async def start(self) -> None:
        """Ask; if it does not answer, keep asking."""
        if not await self._ask():
            log.warning("engine does not answer yet", url=self._url)
            self._asking = asyncio.ensure_future(self._ask_on())

    async def close(self) -> None:
        """Close what there is."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        await self._connection.close()
        if self._engine is not None:
            await self._engine.close()

    def ready(self) -> bool:
        """Whether it answered and does."""
        return self._engine is not None and self._engine.ready()

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request."""
        return await self._up().generate(params, deadline_us=deadline_us, live=live, context=context)

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events."""
        found = self._up().stream(params, deadline_us=deadline_us, live=live, context=context)
        async with aclosing(found) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    async def count_tokens(self, params: CountParams) -> int:
        """Count the tokens of the prompt."""
        return await self._up().count_tokens(params)

    async def models(self) -> list[Model]:
        """List what it serves."""
        return await self._up().models()

    async def resolve(self, model: str) -> str:
        """Return the id that serves requests for `model`."""
        return await self._up().resolve(model)

    def load(self) -> Load:
        """What it does right now."""
        return self._engine.load() if self._engine is not None else Load(slots=self.profile.slots)

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics."""
        return await self._engine.signals() if self._engine is not None else None

    def _up(self) -> Engine:
        if self._engine is None:
            raise EngineError(Failure.UNREACHABLE, "the engine did not answer yet")
        return self._engine

    async def _ask(self) -> bool:
        """Ask once; True if it is decided and started."""
        try:
            listed = await self._connection.ask("/v1/models")
            api = "messages" if is_contracts(listed) else "chat"
        except (NoRoute, ApiError):
            api = "chat"
        except EngineError:
            return False
        engine = self._makers[api]()
        await engine.start()
        self._engine = engine
        log.info("engine answers", url=self._url, api=api)
        return True

    async def _ask_on(self) -> None:
        while not await self._ask():  # noqa: ASYNC110 - another machine has no event to wait for
            await asyncio.sleep(LOOK_AGAIN_S)
