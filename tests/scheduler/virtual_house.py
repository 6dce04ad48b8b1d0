"""The house of `bench/house.py` in virtual time, with engines that break as told, and all its books in view."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bench.house import House, Plan, opened, seeded
from bench.interference import Asked, ask
from bench.traffic import Jobs, Lengths, Live, live_request
from bench.virtual import VirtualLoop, run_virtually
from standby.config import BatchSettings, EngineSettings, SimulatorSettings, WorkerSettings
from standby.emulation.clock import MovableClock
from standby.engines.base import NO_CONTEXT, Context, Watch
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.errors import EngineError, Failure
from standby.records import Batch, BatchId, WorkspaceId
from standby.states import BatchState
from standby.wire.messages import Event, Message, MessageParams

T = TypeVar("T")
PROFILES = ("vllm", "sglang", "llamacpp", "remote")
LOOK_S = 0.25


@dataclass(slots=True, kw_only=True)
class Seen:
    """One attempt at an item, at one endpoint. Seconds of the virtual loop."""

    endpoint: str
    custom_id: str
    slot: int | None
    start_s: float
    end_s: float = 0.0
    first_s: float | None = None
    tokens: int = 0
    prompt: int = 0
    cached: int = 0
    is_whole: bool = False

    @property
    def group(self) -> str:
        """The group that its name tells (`bench/traffic.py`)."""
        return self.custom_id.rsplit("-", 2)[0]


class Machine(Simulated):
    """A simulator that writes down its attempts, and that may be away, break attempts and be slow to let go of them."""

    def __init__(self, name: str, settings: SimulatorSettings, loop: VirtualLoop, seen: list[Seen]) -> None:
        """Be up and well."""
        super().__init__(settings, clock=MovableClock(loop.now_us), script=Lengths())
        self.name = name
        self.breaks: Callable[[Context], EngineError | None] = lambda _: None
        """Asked for each attempt; what it returns is raised after a while."""
        self.lets_go_after_s = 0.0
        self._loop = loop
        self._seen = seen
        self._away = asyncio.Event()

    def ready(self) -> bool:
        """Whether it is there."""
        return super().ready() and not self._away.is_set()

    def leave(self) -> None:
        """Go away; what is in flight breaks."""
        self._away.set()

    def come_back(self) -> None:
        """Be there again."""
        self._away.clear()

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer, unless something breaks."""
        if not context.custom_id:
            return await super().generate(params, deadline_us=deadline_us, live=live, context=context)
        with self._noted(context) as seen:
            told = replace(context, watch=_Counting(seen, self._loop, context.watch))
            answering = super().generate(params, deadline_us=deadline_us, live=live, context=told)
            message = await self._unless_broken(answering, context)
            seen.is_whole, seen.tokens = True, message.usage.output_tokens
            return message

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event]:
        """The same as events: live requests, and the trials of a breaker."""
        if self._away.is_set():
            raise EngineError(Failure.UNREACHABLE, "away")
        events = super().stream(params, deadline_us=deadline_us, live=live, context=context)
        with self._noted(context) if context.custom_id else contextlib.nullcontext() as seen:
            async with contextlib.aclosing(events) as passed:
                async for event in passed:
                    yield event
            if seen is not None:
                seen.is_whole = True

    async def _unless_broken(self, answering: Coroutine[Any, Any, Message], context: Context) -> Message:
        fault = EngineError(Failure.UNREACHABLE, "away") if self._away.is_set() else self.breaks(context)
        if fault is not None:
            answering.close()
            await asyncio.sleep(0.05)
            raise fault
        work = asyncio.ensure_future(answering)
        gone = asyncio.ensure_future(self._away.wait())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise EngineError(Failure.UNREACHABLE, "went away")
            return await work
        finally:
            try:
                if self.lets_go_after_s and not work.done():
                    await asyncio.sleep(self.lets_go_after_s)
            finally:
                work.cancel()
                gone.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)

    @contextlib.contextmanager
    def _noted(self, context: Context) -> Iterator[Seen]:
        seen = Seen(endpoint=self.name, custom_id=context.custom_id, slot=context.slot, start_s=self._loop.time())
        self._seen.append(seen)
        try:
            yield seen
        finally:
            seen.end_s = self._loop.time()


class _Counting:
    """Counts tokens on their way to whoever watches."""

    def __init__(self, seen: Seen, loop: VirtualLoop, watch: Watch | None) -> None:
        self._seen = seen
        self._loop = loop
        self._watch = watch

    def tokens(self, count: int) -> None:
        if self._seen.first_s is None:
            self._seen.first_s = self._loop.time()
        self._seen.tokens += count
        if self._watch is not None:
            self._watch.tokens(count)

    def prompt(self, tokens: int, reused: int) -> None:
        self._seen.prompt, self._seen.cached = tokens, reused
        if self._watch is not None:
            self._watch.prompt(tokens, reused)


class World(House):
    """A house whose machines a test can break."""

    def __init__(self, root: Path, loop: VirtualLoop, plan: Plan) -> None:
        """Build it."""
        self.seen: list[Seen] = []
        self.machines: list[Machine] = []
        self.batches: list[BatchId] = []
        self.owners: dict[BatchId, WorkspaceId] = {}
        super().__init__(root, loop, plan)

    def _pool(self) -> Pool:
        self.machines = [
            Machine(f"engine{number}", own, self.loop, self.seen) for number, own in enumerate(self.plan.engines)
        ]
        named = [(machine.name, machine) for machine in self.machines]
        return Pool(named, [EngineSettings(breaker_pause_s=1.0) for _ in named], clock=self.loop.now_us)

    async def create(
        self, items: list[dict[str, Any]], *, prefix: str = "", workspace: WorkspaceId | None = None
    ) -> BatchId:
        """Submit a batch; `prefix` tells its items from those of others."""
        named = [{**item, "custom_id": prefix + item["custom_id"]} for item in items]
        await asyncio.sleep(0.001)  # two batches of one moment would be told apart by the chance in their ids
        batch_id = await self.submit(named, workspace=workspace)
        self.batches.append(batch_id)
        self.owners[batch_id] = workspace or self.workspace
        return batch_id

    async def batch(self, batch_id: BatchId) -> Batch:
        """Look at a batch."""
        return await self.store.get_batch(self.owners[batch_id], batch_id)

    async def cancel(self, batch_id: BatchId) -> None:
        """Cancel a batch."""
        await self.store.cancel_batch(self.owners[batch_id], batch_id, now_us=self.loop.now_us())

    async def ended(self, *batch_ids: BatchId, within_s: float = 7200.0) -> list[Batch]:
        """Wait until batches ended."""
        until_s = self.loop.time() + within_s
        while True:
            found = [await self.batch(batch_id) for batch_id in batch_ids]
            if all(batch.state is BatchState.ENDED for batch in found):
                return found
            if self.loop.time() > until_s:
                raise AssertionError(f"not ended: {found}; {self.books()}")
            await asyncio.sleep(LOOK_S)

    async def rows(self, batch_id: BatchId) -> dict[str, str]:
        """Read how each item ended; every `custom_id` must stand there once."""
        found: dict[str, str] = {}
        for segment in await self.store.manifest(batch_id):
            data = await self.blobs.read(segment.key, start=0, end=segment.length)
            for line in data.splitlines():
                row = json.loads(line)
                assert row["custom_id"] not in found, "an item has two results"
                found[row["custom_id"]] = row["result"]["type"]
        return found

    async def whole(self, batch_id: BatchId) -> Counter[str]:
        """Check that a batch that ended has one result for each item, and that its counts say so; return them."""
        batch, rows = await self.batch(batch_id), await self.rows(batch_id)
        counts = Counter(rows.values())
        assert batch.state is BatchState.ENDED
        assert len(rows) == batch.size
        assert batch.counts.processing == 0
        assert counts == +Counter(
            succeeded=batch.counts.succeeded,
            errored=batch.counts.errored,
            canceled=batch.counts.canceled,
            expired=batch.counts.expired,
        )
        return counts

    def books(self) -> dict[str, object]:
        """Return everything that must be empty when nothing is left to do, and is not."""
        worker, dispatcher, policy = self.worker, self.worker.dispatcher, self.worker.dispatcher.policy
        books: dict[str, object] = {
            "attempts": worker.in_flight,
            "runs": worker.held_runs,
            "flights": len(list(dispatcher.flights())),
            "unread": {name: tokens for name, tokens in dispatcher._unread.items() if tokens},
            "gates": not dispatcher.gates.is_empty,
            "slots": [
                slot.in_flight
                for endpoint in dispatcher.gates._endpoints.values()
                for slot in endpoint.slots.values()
                if slot.in_flight
            ],
            "batches of the policy": list(policy._seen),
            "workspaces of the policy": list(policy._tenants),
            "rates": list(worker.rates._done),
            "rows": worker.committer.backlog,
            "requests": self.pool.load().batch,
            "waiting in the pool": self.pool._waiting.total(),
        }
        return {name: what for name, what in books.items() if what}

    async def at_rest(self, *, within_s: float = 120.0) -> None:
        """Wait until the worker's books are empty, and check the store."""
        until_s = self.loop.time() + within_s
        while self.books():
            assert self.loop.time() < until_s, self.books()
            await asyncio.sleep(LOOK_S)
        assert await self.store.check() == []


def play(
    main: Callable[[World], Awaitable[T]],
    *profiles: str,
    seed: int = 1,
    slots: int = 16,
    batch: BatchSettings | None = None,
    worker: WorkerSettings | None = None,
    **how: Any,
) -> T:
    """Run `main` in a world of its own; one engine for each profile."""
    plan = Plan(
        engines=tuple(SimulatorSettings(profile=name, slots=slots, **how) for name in profiles),
        batch=batch or BatchSettings(),
        worker=worker or WorkerSettings(),
        seed=seed,
    )

    async def run(loop: VirtualLoop) -> T:
        with seeded(seed) as root:
            async with opened(World(root, loop, plan)) as house:
                assert isinstance(house, World)
                return await main(house)

    return run_virtually(run)


@contextlib.asynccontextmanager
async def live(house: World, live: Live) -> AsyncIterator[list[Asked]]:
    """Send live requests meanwhile, from now on."""
    asked: list[Asked] = []
    begun_s = house.loop.time()

    async def send() -> None:
        async with asyncio.TaskGroup() as group:
            for number, at_s in enumerate(live.arrivals(house.plan.seed)):
                await asyncio.sleep(begun_s + at_s - house.loop.time())
                asked.append(Asked(sent_s=house.loop.time()))
                group.create_task(ask(house, live_request(live, number, house.plan.seed), asked[-1]))

    sending = asyncio.create_task(send())
    try:
        yield asked
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def short(items: int, *, mean: float = 40.0, **how: Any) -> Jobs:
    """Items whose answers are short."""
    return Jobs(**{"items": items, "prefix": 64, "suffix": 16, "mean": mean, "deviation": mean / 2, "most": 400, **how})


def chance(seed: int, what: str) -> random.Random:
    """Return the chance of a test."""
    return random.Random(f"{what} {seed}")
