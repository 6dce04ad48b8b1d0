"""One endpoint of a pool: an engine, what it serves, what we have in flight there, how fast it answers, its breaker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import msgspec
import structlog

from standby.config import EngineSettings
from standby.engines.base import Context, Engine, EngineProfile, Model, Signals, Watch
from standby.engines.breaker import Breaker, BreakerState
from standby.engines.gaps import Answering, Gaps
from standby.engines.http import InFlight
from standby.engines.pool_meters import AWAY, EndpointMeters
from standby.engines.seats import Seats
from standby.errors import ApiError, EngineError, Failure
from standby.records import SECOND, Clock, Load
from standby.wire.messages import ContentBlockDelta, Event, MessageParams

log = structlog.get_logger("standby.engines")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a name leads: the id that is served, and who serves it."""

    model_id: str
    endpoints: tuple[Endpoint, ...]


class Endpoint:
    """Mutable, of one event loop."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        settings: EngineSettings,
        *,
        clock: Clock,
        routes: Mapping[str, Route],
        meters: EndpointMeters | None = None,
    ) -> None:
        """Begin with nothing in flight; `routes` are those that the pool found so far, by the name asked for."""
        self.name = name
        self.engine = engine
        self.models: Sequence[Model] = ()
        """What it served when it was last asked."""
        self.is_seen = False
        """Whether it ever told what it serves."""
        self.in_flight = InFlight()
        self.breaker = Breaker(
            most_failures=settings.breaker_failures, first_pause_us=int(settings.breaker_pause_s * SECOND)
        )
        self._clock = clock
        self._routes = routes
        self._meters = meters
        self._was_ready = False
        self._rejected = 0
        self._gaps = {True: Gaps(), False: Gaps()}
        self._seats = Seats()
        if meters is not None:
            meters.watch(
                name,
                state=self.state,
                live=lambda: self.in_flight.live,
                batch=lambda: self.in_flight.batch,
                slots=lambda: self.load().slots,
                gap_s=lambda: self.gap_s(now_us=self._clock()),
            )

    @property
    def profile(self) -> EngineProfile:
        """What its engine declares."""
        return self.engine.profile

    def takes(self, model: str) -> bool:
        """Whether it serves this name, as far as is known; a name that was never asked for may be anywhere."""
        route = self._routes.get(model)
        return route is None or self in route.endpoints

    def gap_s(self, *, now_us: int) -> float | None:
        """Return the time between two tokens of an answer, as seen lately; None if nobody can say.

        Live answers tell if there are any; where the engine puts batch work off for live work, nobody else does then.
        When none is under way any more, they no longer hide that batches get their tokens sooner by now.
        """
        live_s, batch_s = (self._gaps[live].gap_s(now_us) for live in (True, False))
        if live_s is None:
            return None if self.profile.yields_to_live and self.in_flight.live else batch_s
        is_of_now = self.in_flight.live or self._gaps[True].is_fresh(now_us)
        return live_s if is_of_now or batch_s is None else batch_s

    def busy_live(self) -> frozenset[int]:
        """Return the slots in which live requests are, as far as they were told theirs."""
        return self._seats.busy_live()

    def reading_live(self) -> int:
        """Return the last slot in which the prompt of a live request is being read; -1 if there is none."""
        return self._seats.reading_live()

    def take_taken_over(self) -> frozenset[int]:
        """Return the slots whose cache live requests took from batches since this was last asked."""
        return self._seats.take_taken_over()

    def take_rejected(self) -> int:
        """Return how many attempts it refused as overloaded since this was last asked."""
        rejected, self._rejected = self._rejected, 0
        return rejected

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics."""
        return await self.engine.signals()

    def came_back(self) -> bool:
        """Whether it is ready and was not when this was last asked; it is then tried at once."""
        before, self._was_ready = self._was_ready, self.engine.ready()
        if self._was_ready and not before:
            self._seats.lost()
            self.breaker = self.breaker.came_back(self._clock())
            return True
        return False

    def is_up(self) -> bool:
        """Whether a request may be sent there now."""
        return self.engine.ready() and self.breaker.allows(self._clock())

    def state(self) -> str:
        """Return the breaker's state, or that the engine is away."""
        return self.breaker.state(self._clock()) if self.engine.ready() else AWAY

    def is_ready(self) -> bool:
        """Whether work can be expected to be done there, as far as is known."""
        return self.engine.ready() and self.breaker.state(self._clock()) is not BreakerState.OPEN

    def is_on_trial(self) -> bool:
        """Whether it failed so often that one request has to show first that it works again."""
        return self.breaker.is_trial(self._clock())

    def wait_us(self) -> int:
        """How long it will certainly get no work."""
        return self.breaker.wait_us(self._clock())

    def load(self) -> Load:
        """What we have in flight there, and how much it can do."""
        own = self.engine.load()
        slots = own.slots or self.engine.profile.slots
        return Load(live=self.in_flight.live, batch=self.in_flight.batch, slots=slots, waiting=own.waiting)

    def serves(self, model_id: str) -> bool:
        """Whether it listed this id."""
        return any(model.id == model_id for model in self.models)

    def turn(self, *, live: bool, deadline_us: int | None) -> Turn:
        """Take a place for one request; enter it at once."""
        return Turn(self, live=live, deadline_us=deadline_us)

    def _note(self, result: str) -> None:
        if self._meters is not None:
            self._meters.attempts.labels(self.name, result).inc()

    def _reused(self, tokens: int, reused: int) -> None:
        if self._meters is not None:
            self._meters.prompt_tokens.labels(self.name).inc(tokens)
            self._meters.reused_tokens.labels(self.name).inc(reused)


class Turn:
    """One request at one endpoint, from its place to its end; the breaker and the meters learn how it ended."""

    def __init__(self, endpoint: Endpoint, *, live: bool, deadline_us: int | None) -> None:
        """Nothing is taken before it is entered."""
        self._endpoint = endpoint
        self._live = live
        self._deadline_us = deadline_us
        self._is_trial = False
        self._answering = Answering(endpoint._gaps[live])  # noqa: SLF001 - its own class
        self._others: Watch | None = None
        self._seat: int | None = None
        self._is_told = False

    def told(self, context: Context, params: MessageParams) -> Context:
        """Let the endpoint watch the answer beside whoever wants to, and say which slot it has, if it has one."""
        self._others = context.watch
        if context.sent is not None:
            context.sent()
        asked = context.slot if context.at in {"", self._endpoint.name} else None
        return replace(context, watch=self, slot=self._seated(asked, params))

    def _seated(self, slot: int | None, params: MessageParams) -> int | None:
        profile, seats = self._endpoint.profile, self._endpoint._seats  # noqa: SLF001 - its own class
        if not profile.pins_live:
            return slot
        conversation = conversation_of(params) if self._live else b""
        if self._live:
            slot = seats.choose(conversation, self._endpoint.load().slots)
        if slot is not None:
            seats.sit(slot, live=self._live, conversation=conversation)
            self._seat = slot
        return slot

    def tokens(self, count: int) -> None:
        """Hear of tokens from the engine."""
        self._is_told = True
        self._count(count)

    def prompt(self, tokens: int, reused: int) -> None:
        """Hear from the engine what it reused of a prompt; it is not taken at its word where that makes no sense."""
        tokens = max(0, tokens)
        reused = max(0, min(reused, tokens))
        self._endpoint._reused(tokens, reused)  # noqa: SLF001 - its own class
        if self._others is not None:
            self._others.prompt(tokens, reused)

    def passes(self, event: Event) -> None:
        """See an event go by: of an engine that tells nothing, each piece of an answer is a token."""
        self.answered()
        if not self._is_told and isinstance(event, ContentBlockDelta):
            self._count(1)

    def _count(self, tokens: int) -> None:
        at = self._endpoint
        self._answering.tokens(tokens, at._clock())  # noqa: SLF001 - its own class
        if self._seat is not None:
            at._seats.read(self._seat)  # noqa: SLF001
        if self._others is not None:
            self._others.tokens(tokens)

    def held_up(self, since_us: int) -> None:
        """Whoever reads the answer comes back for more."""
        self._answering.held_up(self._endpoint._clock() - since_us)  # noqa: SLF001

    @property
    def is_trial(self) -> bool:
        """Whether others wait for how it goes."""
        return self._is_trial

    def __enter__(self) -> Self:
        """Take the place."""
        at = self._endpoint
        self._is_trial = at.breaker.is_trial(at._clock())  # noqa: SLF001 - its own class
        at.breaker = at.breaker.sent(is_trial=self._is_trial)
        at.in_flight.add(1, live=self._live)
        return self

    def answered(self) -> None:
        """It began to answer: that is enough for a trial."""
        self._endpoint.breaker = self._endpoint.breaker.succeeded(is_trial=self._is_trial)
        self._is_trial = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the place back."""
        at = self._endpoint
        at.in_flight.add(-1, live=self._live)
        if self._seat is not None:
            at._seats.leave(self._seat)  # noqa: SLF001 - its own class
        self._answering.ended()
        if error is None or isinstance(error, ApiError):
            self.answered()
            at._note("ok" if error is None else "refused")  # noqa: SLF001
        elif isinstance(error, EngineError):
            self._fail(error)
            at._note(error.failure.label)  # noqa: SLF001
        else:
            at.breaker = at.breaker.left(is_trial=self._is_trial)
            at._note("left" if not isinstance(error, Exception) else Failure.BROKEN.label)  # noqa: SLF001

    def _fail(self, error: EngineError) -> None:
        at, now_us = self._endpoint, self._endpoint._clock()  # noqa: SLF001
        if not error.failure.retriable:
            self.answered()
        elif error.failure is Failure.OVERLOADED:
            # it answers, only not yet: no failure, but a trial that finds it so proves nothing either
            at._rejected += 1  # noqa: SLF001
            at.breaker = at.breaker.left(is_trial=self._is_trial)
            if error.retry_after_s:
                at.breaker = at.breaker.rested(now_us, int(error.retry_after_s * SECOND))
        elif not self._is_ours(error, now_us):
            before, at.breaker = at.breaker, at.breaker.failed(now_us, is_trial=self._is_trial)
            if at.breaker.openings > before.openings:
                pause_s = at.breaker.wait_us(now_us) / SECOND
                log.warning("endpoint gets a pause", endpoint=at.name, failure=error.failure.label, pause_s=pause_s)
        else:
            at.breaker = at.breaker.left(is_trial=self._is_trial)

    def _is_ours(self, error: EngineError, now_us: int) -> bool:
        """Whether only our own deadline ended it."""
        late = self._deadline_us is not None and self._deadline_us <= now_us
        return late and error.failure is Failure.TIMEOUT


def conversation_of(params: MessageParams) -> bytes:
    """Return what the turns of one conversation have in common: the hash of its system prompt and its first turn."""
    begun = msgspec.json.encode((params.system, params.messages[:1]))
    return hashlib.blake2b(begun, digest_size=8).digest()
