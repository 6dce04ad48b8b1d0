"""A whole house on a loop whose time is virtual: the real store, blobs, intake, worker and pool over simulated engines.

Only what needs a socket or a child process is left out: the HTTP server, and the child that splits large bodies.
Seconds are those of the loop, from 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from prometheus_client import CollectorRegistry

from bench.traffic import Lengths
from bench.virtual import VirtualLoop
from standby.blobs.local import LocalBlobs
from standby.config import BatchSettings, EngineSettings, SimulatorSettings, WorkerSettings
from standby.emulation.clock import MovableClock
from standby.engines.base import NO_CONTEXT, Context, Engine, EngineProfile, Watch
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.records import BatchId, Load, Principal, Rules, WorkspaceId
from standby.scheduler import intake as intake_room
from standby.scheduler.admission import FixedWindow
from standby.scheduler.control import Control
from standby.scheduler.intake import Intake
from standby.scheduler.meters import Meters
from standby.scheduler.runner import run as run_loop
from standby.scheduler.sweeper import Sweeper
from standby.scheduler.worker import Worker
from standby.store.sqlite import SqliteStore
from standby.wire.messages import Accumulator, CountParams, Event, Message, MessageParams

SWEEP_S = 0.1
LEASE_BEATS = 3
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of ours is made in it
"""Where it exists, files of a house lie in memory: nothing here is about the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is built."""

    engines: tuple[SimulatorSettings, ...]
    admission: str = "ours"
    """`ours`: as the server has it; `fixed`: at most `cap` items an engine; `ungated`: every slot, live or not."""
    cap: int = 20
    batch: BatchSettings = field(default_factory=BatchSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at an item, as the engine saw it."""

    custom_id: str
    start_s: float
    first_s: float | None = None
    """When its first token was out, if the engine told."""
    end_s: float = 0.0
    tokens: int = 0
    """Of its answer, as far as it came."""
    prompt: int = 0
    cached: int = 0
    """Of the prompt, out of the engine's cache."""
    is_whole: bool = False
    """Whether it came to its end."""


class Tap:
    """An engine that writes down what batches do with the one behind it."""

    def __init__(self, engine: Engine, attempts: list[Attempt], now_s: Callable[[], float]) -> None:
        """Write into `attempts`."""
        self._engine = engine
        self._attempts = attempts
        self._now_s = now_s
        self.start, self.close, self.ready = engine.start, engine.close, engine.ready
        self.models, self.resolve, self.load, self.signals = engine.models, engine.resolve, engine.load, engine.signals

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        return self._engine.profile

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer, and note it."""
        with self._noted(context) as (attempt, told):
            message = await self._engine.generate(params, deadline_us=deadline_us, live=live, context=told)
            _finish(attempt, message)
            return message

    def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncIterator[Event]:
        """Answer as events, and note it if it is an item, as the trials of a breaker are."""
        if live:
            return self._engine.stream(params, deadline_us=deadline_us, live=live, context=context)
        return self._noted_stream(params, deadline_us, context)

    async def _noted_stream(
        self, params: MessageParams, deadline_us: int | None, context: Context
    ) -> AsyncGenerator[Event, None]:
        answer = Accumulator()
        with self._noted(context) as (attempt, told):
            events = self._engine.stream(params, deadline_us=deadline_us, live=False, context=told)
            async with contextlib.aclosing(events) as passed:  # type: ignore[type-var]
                async for event in passed:
                    answer.add(event)
                    yield event
            _finish(attempt, answer.message)

    async def count_tokens(self, params: CountParams) -> int:
        """Count."""
        return await self._engine.count_tokens(params)

    @contextlib.contextmanager
    def _noted(self, context: Context) -> Iterator[tuple[Attempt, Context]]:
        attempt = Attempt(custom_id=context.custom_id, start_s=self._now_s())
        self._attempts.append(attempt)
        try:
            yield attempt, replace(context, watch=_Counting(attempt, self._now_s, context.watch))
        finally:
            attempt.end_s = self._now_s()


class _Counting:
    """Counts tokens on their way to whoever watches."""

    def __init__(self, attempt: Attempt, now_s: Callable[[], float], watch: Watch | None) -> None:
        self._attempt = attempt
        self._now_s = now_s
        self._watch = watch

    def tokens(self, count: int) -> None:
        if self._attempt.first_s is None:
            self._attempt.first_s = self._now_s()
        self._attempt.tokens += count
        if self._watch is not None:
            self._watch.tokens(count)

    def prompt(self, tokens: int, reused: int) -> None:
        self._attempt.prompt, self._attempt.cached = tokens, reused
        if self._watch is not None:
            self._watch.prompt(tokens, reused)


def _finish(attempt: Attempt, message: Message) -> None:
    attempt.tokens = message.usage.output_tokens
    attempt.is_whole = True


class Capped(Control):
    """Admission as others have it: a number, and nothing makes way."""

    def __init__(
        self, engine: Engine, settings: WorkerSettings, *, clock: Callable[[], int], allowed: Callable[[Load], int]
    ) -> None:
        """Admit what `allowed` says."""
        super().__init__(engine, settings, clock=clock)
        self._allowed = allowed

    def allowed(self, name: str, load: Load) -> int:  # noqa: ARG002 - the same everywhere
        """As many as that."""
        return self._allowed(load)

    def surplus(self, name: str) -> int:  # noqa: ARG002 - see above
        """Nobody makes way."""
        return 0

    def takes_prompt(self, name: str, unread: int, prompt_tokens: int) -> bool:  # noqa: ARG002 - see above
        """Nobody looks at prompts."""
        return True


class House:
    """One server without its front."""

    def __init__(self, root: Path, loop: VirtualLoop, plan: Plan) -> None:
        """Build it; `opened` makes it live."""
        self.plan = plan
        self.loop = loop
        self.attempts: list[Attempt] = []
        self.store = SqliteStore(root / "standby.db")
        self.blobs = LocalBlobs(root)
        self.pool = self._pool()
        self.control = self._control()
        self.pool.most_batch = self.control.allowed
        self.worker = self._worker()
        self.meters = Meters(CollectorRegistry())
        self.sweeper = Sweeper(
            store=self.store, blobs=self.blobs, settings=plan.batch, clock=loop.now_us, meters=self.meters
        )
        self.intake = Intake(store=self.store, blobs=self.blobs, settings=plan.batch, clock=loop.now_us)
        self.workspace = WorkspaceId("")

    async def submit(self, items: list[dict[str, Any]], *, workspace: WorkspaceId | None = None) -> BatchId:
        """Create a batch as the API would."""
        upload = self.intake.begin(
            principal=Principal(workspace_id=workspace or self.workspace, credential="bench"),
            rules=Rules(),
            encoding=None,
            idempotency_key=None,
            is_sdk_retry=False,
        )
        try:
            await upload.write(json.dumps({"requests": items}).encode())
            return (await upload.finish()).batch.id
        finally:
            await upload.abort()

    def _pool(self) -> Pool:
        clock = MovableClock(self.loop.now_us)
        named = [(f"engine{number}", self._engine(own, clock)) for number, own in enumerate(self.plan.engines)]
        return Pool(named, [EngineSettings() for _ in named], clock=self.loop.now_us)

    def _engine(self, settings: SimulatorSettings, clock: MovableClock) -> Engine:
        return Tap(Simulated(settings, clock=clock, script=Lengths()), self.attempts, self.loop.time)

    def _worker(self) -> Worker:
        return Worker(
            store=self.store,
            blobs=self.blobs,
            engine=self.pool,
            settings=self.plan.worker,
            grace_s=self.plan.batch.grace_s,
            clock=self.loop.now_us,
            meters=Meters(CollectorRegistry()),
            control=self.control,
        )

    def _control(self) -> Control:
        match self.plan.admission:
            case "ungated":
                return Capped(self.pool, self.plan.worker, clock=self.loop.now_us, allowed=_every_slot)
            case "fixed":
                window = FixedWindow(window=self.plan.cap, live_slots=0)
                return Capped(self.pool, self.plan.worker, clock=self.loop.now_us, allowed=window.allowed)
            case _:
                return Control(self.pool, self.plan.worker, clock=self.loop.now_us)


def _every_slot(load: Load) -> int:
    return load.slots


@contextlib.asynccontextmanager
async def opened(house: House) -> AsyncIterator[House]:
    """Open all, run the loops of a server, and take it down in the end without waiting for its batches."""
    await house.store.open()
    await house.blobs.open()
    house.workspace = (await house.store.list_workspaces())[0].id
    await house.pool.start()
    stop = asyncio.Event()
    tasks = [asyncio.create_task(work) for work in _loops(house, stop)]
    try:
        yield house
    finally:
        stop.set()
        house.worker.wake.set()
        house.worker.committer.wake.set()
        await asyncio.gather(*tasks)
        await house.control.close()
        await house.worker.drain(grace_s=0.0)
        await house.pool.close()
        await house.store.close()


def _loops(house: House, stop: asyncio.Event) -> Iterator[Coroutine[Any, Any, None]]:
    """List what a server runs beside its front (`server.py`)."""
    worker, beat_s = house.worker, house.plan.worker.lease_s / LEASE_BEATS

    async def sweep() -> None:
        await house.sweeper.run_once()

    yield run_loop("worker", worker.run_once, stop=stop, wake=worker.wake, idle_s=1.0)
    yield run_loop("control", house.control.run_once, stop=stop, idle_s=SWEEP_S)
    yield run_loop("sweeper", sweep, stop=stop, idle_s=SWEEP_S)
    yield run_loop("leases", worker.renew_once, stop=stop, idle_s=beat_s)
    yield run_loop("committer", worker.committer.run_once, stop=stop, wake=worker.committer.wake, idle_s=1.0)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[Path]:
    """Make everything the same again for the same seed; yield a folder that goes away afterwards."""
    random.seed(f"house {seed}")
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as name, mock.patch.object(intake_room, "CHILD_FROM", 1 << 40):
        yield Path(name)
