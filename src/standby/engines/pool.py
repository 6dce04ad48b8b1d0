"""Several endpoints as one engine: each request goes where its model is served and there is most room.

A model is looked for by its exact id at every endpoint, then by the aliases of each in the order of the settings.
Among the endpoints that serve it and are up, the one that is wished for (`Context.at`) is taken if it has room, else
the one with the least in flight a slot. What cannot be reached or is overloaded before the first event is tried at the
next one; after that nothing is said twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog
from msgspec.structs import replace as changed

from standby.config import EngineSettings
from standby.engines.base import (
    NO_CONTEXT,
    CacheProfile,
    Context,
    Engine,
    EngineProfile,
    Model,
    Room,
    Signals,
)
from standby.engines.pool_endpoint import Endpoint, Route
from standby.engines.pool_meters import EndpointMeters
from standby.errors import EngineError, Failure, InvalidParams, unknown_model
from standby.records import SECOND, Clock, Load
from standby.wire.messages import Accumulator, CountParams, Event, Message, MessageParams

SPILLS = frozenset({Failure.UNREACHABLE, Failure.OVERLOADED})
"""After these another endpoint is tried."""
LOOK_S = 1.0
"""How often an item that waits for room looks by itself; usually a place that becomes free wakes it."""
MOST_ROUTES = 4096
WEAKEST_FIRST = (
    CacheProfile.NONE,
    CacheProfile.PER_SLOT,
    CacheProfile.SHARED_AFTER_FIRST_TOKEN,
    CacheProfile.SHARED_AT_ONCE,
)

log = structlog.get_logger("standby.engines")


def all_slots(name: str, load: Load) -> int:  # noqa: ARG001 - every endpoint the same
    """Let batch items take every slot."""
    return load.slots


class Pool:
    """An engine made of endpoints.

    `most_batch` says how many batch items may be in flight at the endpoint of this name with this load (the
    scheduler's admission), so that a batch for one model fills no other endpoint's queue.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, Engine]],
        settings: Sequence[EngineSettings],
        *,
        clock: Clock,
        most_batch: Callable[[str, Load], int] = all_slots,
        meters: EndpointMeters | None = None,
    ) -> None:
        """Take endpoints by name, in the order of the settings, and the settings of each."""
        self._routes: dict[str, Route] = {}
        self.endpoints = tuple(
            Endpoint(name, engine, own, clock=clock, routes=self._routes, meters=meters)
            for (name, engine), own in zip(endpoints, settings, strict=True)
        )
        self.most_batch = most_batch
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._freed: set[asyncio.Future[None]] = set()

    @property
    def profile(self) -> EngineProfile:
        """The weakest of what its endpoints declare, and the slots of all."""
        each = [endpoint.engine.profile for endpoint in self.endpoints]
        if len(each) == 1:
            return each[0]
        return EngineProfile(
            name="+".join(endpoint.name for endpoint in self.endpoints),
            slots=sum(one.slots for one in each),
            cache=min((one.cache for one in each), key=WEAKEST_FIRST.index),
            yields_to_live=all(one.yields_to_live for one in each),
        )

    async def start(self) -> None:
        """Start all; those that cannot are reported and left out, unless it is every one."""
        started = await asyncio.gather(*(one.engine.start() for one in self.endpoints), return_exceptions=True)
        failed = [(one, error) for one, error in zip(self.endpoints, started, strict=True) if error is not None]
        for endpoint, error in failed:
            if len(failed) == len(self.endpoints) or not isinstance(error, Exception):
                raise error
            log.error("endpoint did not start", endpoint=endpoint.name, reason=str(error)[:300])

    async def close(self) -> None:
        """Close all."""
        closed = await asyncio.gather(*(one.engine.close() for one in self.endpoints), return_exceptions=True)
        for error in closed:
            if error is not None:
                raise error

    def rooms(self) -> Sequence[Room]:
        """Return its endpoints, in the order of the settings."""
        return self.endpoints

    def ready(self) -> bool:
        """Whether any endpoint is ready."""
        self._notice()
        return any(endpoint.is_ready() for endpoint in self.endpoints)

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request at the best endpoint, or at the next if that one cannot."""
        route = await self._route(params.model)
        params = changed(params, model=route.model_id)
        seeking = _Seeking(route, live=live, deadline_us=deadline_us, at=context.at)
        while True:
            endpoint = await self._take(seeking)
            try:
                with endpoint.turn(live=live, deadline_us=deadline_us) as turn:
                    told = turn.told(context, params)
                    if turn.is_trial:
                        # its first event lets others in; they need not wait for the whole answer
                        events = endpoint.engine.stream(params, deadline_us=deadline_us, live=live, context=told)
                        return await _collected(events, turn.passes)
                    return await endpoint.engine.generate(params, deadline_us=deadline_us, live=live, context=told)
            except EngineError as error:
                seeking.failed(endpoint, error)
            finally:
                self._wake()

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events; another endpoint is tried only before the first."""
        route = await self._route(params.model)
        params = changed(params, model=route.model_id)
        seeking = _Seeking(route, live=live, deadline_us=deadline_us, at=context.at)
        while True:
            endpoint = await self._take(seeking)
            try:
                with endpoint.turn(live=live, deadline_us=deadline_us) as turn:
                    told = turn.told(context, params)
                    begun = endpoint.engine.stream(params, deadline_us=deadline_us, live=live, context=told)
                    async with aclosing(begun) as events:  # type: ignore[type-var]
                        async for event in events:
                            seeking.has_begun = True
                            turn.passes(event)
                            given_us = self._clock()
                            yield event
                            turn.held_up(given_us)
                    return
            except EngineError as error:
                seeking.failed(endpoint, error)
            finally:
                self._wake()

    async def count_tokens(self, params: CountParams) -> int:
        """Count at any endpoint that serves the model."""
        route = await self._route(params.model)
        params = changed(params, model=route.model_id)
        seeking = _Seeking(route, live=True, deadline_us=None)
        while True:
            endpoint = await self._take(seeking)
            try:
                return await endpoint.engine.count_tokens(params)
            except EngineError as error:
                seeking.failed(endpoint, error)

    async def models(self) -> list[Model]:
        """Merge what all serve, newest first; an id that several serve stands there once, with what all of them can."""
        fault = await self._look()
        merged: dict[str, Model] = {}
        for model in (model for endpoint in self.endpoints for model in endpoint.models):
            merged[model.id] = _both(merged[model.id], model) if model.id in merged else model
        if not merged and fault is not None:
            raise fault
        return sorted(merged.values(), key=lambda model: -model.created_us)

    async def resolve(self, model: str) -> str:
        """Return the id that is served for this name."""
        return (await self._route(model)).model_id

    def load(self) -> Load:
        """Sum what all do; `slots` are those of endpoints that are up, `waiting` counts items that wait here, too."""
        loads = [endpoint.load() for endpoint in self.endpoints]
        return Load(
            live=sum(load.live for load in loads),
            batch=sum(load.batch for load in loads),
            slots=sum(load.slots for load in self.loads()),
            waiting=sum(load.waiting for load in loads) + self._waiting.total(),
        )

    def loads(self) -> list[Load]:
        """Return the load of each endpoint that is up."""
        self._notice()
        return [endpoint.load() for endpoint in self.endpoints if endpoint.is_ready()]

    async def signals(self) -> Signals | None:
        """Merge the metrics of all engines: sums, and the fullest cache."""
        each = await asyncio.gather(*(endpoint.engine.signals() for endpoint in self.endpoints))
        told = [one for one in each if one is not None]
        if not told:
            return None
        return Signals(
            running=_total(one.running for one in told),
            waiting=_total(one.waiting for one in told),
            kv_used=max((one.kv_used for one in told if one.kv_used is not None), default=None),
            prompt_tokens=_total(one.prompt_tokens for one in told),
            cached_tokens=_total(one.cached_tokens for one in told),
            output_tokens=_total(one.output_tokens for one in told),
        )

    async def _route(self, model: str) -> Route:
        await self._look()
        model_id, found = await self._resolved(model)
        endpoints = [endpoint for endpoint in self.endpoints if endpoint.serves(model_id)]
        route = Route(model_id, tuple(endpoints or await self._takers(model_id) or (found,)))
        if len(self._routes) >= MOST_ROUTES:
            self._routes.clear()
        self._routes[model] = route
        return route

    async def _look(self) -> EngineError | None:
        """Ask the endpoints that are ready what they serve; keep what the others last said."""
        self._notice()
        fault: EngineError | None = None
        for endpoint in self.endpoints:
            if not endpoint.engine.ready():
                fault = EngineError(Failure.UNREACHABLE, f"the endpoint {endpoint.name} is not up")
                continue
            try:
                endpoint.models = await endpoint.engine.models()
                endpoint.is_seen = True
            except EngineError as error:
                fault = error
        return fault

    async def _resolved(self, model: str) -> tuple[str, Endpoint]:
        for endpoint in self.endpoints:
            if endpoint.serves(model):
                return model, endpoint
        fault: EngineError | None = None
        for endpoint in self.endpoints:
            if not endpoint.is_seen:
                fault = EngineError(
                    Failure.UNREACHABLE,
                    f"no endpoint that was up so far serves this model, and {endpoint.name} was not up yet",
                )
                continue
            try:
                return await endpoint.engine.resolve(model), endpoint
            except InvalidParams:
                continue
            except EngineError as error:
                fault = error
        raise fault or unknown_model(model)

    async def _takers(self, model_id: str) -> list[Endpoint]:
        """Find who takes an id that nobody lists, as an engine may that takes every name."""
        return [one for one in self.endpoints if one.is_seen and await _resolves(one.engine, model_id)]

    async def _take(self, seeking: _Seeking) -> Endpoint:
        """Return the endpoint to try next; a batch item waits for room, nobody waits for an endpoint that is down."""
        model_id = seeking.route.model_id
        while True:
            up = [one for one in seeking.route.endpoints if one not in seeking.tried and one.is_up()]
            if not up:
                raise seeking.fault or self._nobody(seeking.route, live=seeking.live)
            open_to_it = list(filter(self._takes(live=seeking.live), up))
            found = min(open_to_it, key=lambda one: (one.name != seeking.at, _fullness(one)), default=None)
            if found is not None:
                return found
            self._waiting[model_id] += 1
            try:
                await self._room(seeking.deadline_us)
            finally:
                self._waiting[model_id] -= 1

    def _takes(self, *, live: bool) -> Callable[[Endpoint], bool]:
        return (lambda _: True) if live else self._takes_batch

    def _takes_batch(self, endpoint: Endpoint) -> bool:
        return endpoint.is_up() and endpoint.in_flight.batch < self.most_batch(endpoint.name, endpoint.load())

    def _nobody(self, route: Route, *, live: bool) -> EngineError:
        """Say that nobody can; a client is told when to come back, an item is started once there is room again."""
        names = ", ".join(endpoint.name for endpoint in route.endpoints) or "no endpoint"
        wait_us = min((endpoint.wait_us() for endpoint in route.endpoints if endpoint.engine.ready()), default=0)
        wait_s = wait_us / SECOND if wait_us and live else None
        return EngineError(
            Failure.UNREACHABLE, f"nobody who serves this model is up (of {names})", retry_after_s=wait_s
        )

    async def _room(self, deadline_us: int | None) -> None:
        if deadline_us is not None and deadline_us <= self._clock():
            raise EngineError(Failure.TIMEOUT, "the deadline passed before the engine had room")
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._freed.add(freed)
        try:
            await asyncio.wait({freed}, timeout=LOOK_S)
        finally:
            self._freed.discard(freed)
            freed.cancel()

    def _wake(self) -> None:
        for freed in self._freed:
            if not freed.done():
                freed.set_result(None)

    def _notice(self) -> None:
        """An endpoint that came back may serve other models than before."""
        if any([endpoint.came_back() for endpoint in self.endpoints]):  # noqa: C419 - every one must be asked
            self._routes.clear()
            self._wake()


class _Seeking:
    """One request on its way through the endpoints of its route."""

    def __init__(self, route: Route, *, live: bool, deadline_us: int | None, at: str = "") -> None:
        self.route = route
        self.live = live
        self.deadline_us = deadline_us
        self.at = at
        self.tried: list[Endpoint] = []
        self.fault: EngineError | None = None
        self.has_begun = False

    def failed(self, endpoint: Endpoint, error: EngineError) -> None:
        """Go on to the next endpoint if that may help; raises the error otherwise."""
        if self.has_begun or error.failure not in SPILLS:
            raise error
        self.tried.append(endpoint)
        self.fault = error


async def _collected(events: AsyncIterator[Event], seen: Callable[[Event], None]) -> Message:
    whole = Accumulator()
    async with aclosing(events) as found:  # type: ignore[type-var]
        async for event in found:
            seen(event)
            whole.add(event)
    return whole.message


async def _resolves(engine: Engine, model_id: str) -> bool:
    try:
        return await engine.resolve(model_id) == model_id
    except (InvalidParams, EngineError):
        return False


def _fullness(endpoint: Endpoint) -> float:
    load = endpoint.load()
    return (load.live + load.batch) / max(1, load.slots)


def _both(one: Model, other: Model) -> Model:
    return replace(
        one,
        created_us=max(one.created_us, other.created_us),
        max_input_tokens=_least(one.max_input_tokens, other.max_input_tokens),
        max_output_tokens=_least(one.max_output_tokens, other.max_output_tokens),
        features=one.features & other.features,
    )


def _least(one: int, other: int) -> int:
    """Return the smaller of two limits, of which 0 is one that nobody told."""
    return min([limit for limit in (one, other) if limit], default=0)


def _total(numbers: Iterable[float | None]) -> float | None:
    told = [number for number in numbers if number is not None]
    return sum(told) if told else None
