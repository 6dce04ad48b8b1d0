"""The loop that drives the endpoints: leases runs, keeps the admitted number in flight, hands rows to the committer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator

import structlog

from standby.blobs.base import Blobs
from standby.config import WorkerSettings
from standby.engines.base import Engine
from standby.errors import ApiError, BlobError, EngineError, Failure
from standby.ids import random_id
from standby.pricing.bills import bill_of
from standby.pricing.book import PriceBook
from standby.records import SECOND, Backlog, BatchId, Bill, Clock
from standby.scheduler import policy
from standby.scheduler.admission import FixedWindow, OneRoom, rooms_of
from standby.scheduler.attempt import attempt, errored
from standby.scheduler.committer import Committer
from standby.scheduler.held import HeldRun, Queued, Settled, hold, read_items
from standby.scheduler.meters import Meters
from standby.scheduler.retry import Again, RetryBudget, backoff_s, decide
from standby.store.base import Store
from standby.wire.messages import Message

TICK_S = 0.05
MOST_HELD = 32
STARTS_A_PASS = 8
"""Live requests get their turn on the event loop after this many items were started."""
MOST_BUDGETS = 1024
"""Models whose retries are counted; names are the clients' to choose."""
UNCOMMITTED_GROUPS = 8
"""Dispatch pauses while more than this many full commits wait: a full disk must not burn engine time."""

Later = Callable[[float, Callable[[], None]], asyncio.Handle]
"""Calls something after a number of seconds, unless its handle is canceled first."""

log = structlog.get_logger("standby.worker")


class Worker:
    """One worker. `run_once` is one pass; attempts run as tasks between passes and wake it."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        engine: Engine,
        settings: WorkerSettings,
        grace_s: float,
        clock: Clock,
        meters: Meters,
        prices: PriceBook | None = None,
    ) -> None:
        """Begin with nothing; `prices` are those that are published if none are given."""
        self.holder = random_id("worker")
        self.wake = asyncio.Event()
        self.later: Later = _later
        """How time passes for items that are tried again; the emulator's clock has its own way."""
        self.committer = Committer(
            store=store, blobs=blobs, settings=settings, clock=clock, meters=meters, when_committed=self.wake.set
        )
        self._store = store
        self._blobs = blobs
        self._engine = engine
        self._settings = settings
        self._grace_us = int(grace_s * SECOND)
        self._clock = clock
        self._meters = meters
        self._prices = prices or PriceBook()
        self._admission = FixedWindow(window=settings.window, live_slots=settings.live_slots)
        self._rooms = rooms_of(engine)
        self._budgets: dict[str, RetryBudget] = {}
        self._full: set[str] = set()
        self._spent: set[str] = set()
        self.passes = 0
        """Passes that came to their end."""
        self._held: dict[BatchId, list[HeldRun]] = {}
        self._turns: deque[BatchId] = deque()
        self._in_flight = 0
        self._is_draining = False
        self._checked_us = 0
        self._renewed_us = 0
        self._looked_us = 0
        self._found_some = False

    async def run_once(self) -> float | None:
        """Look after the runs that are held, lease more if there is room, dispatch what is admitted."""
        is_more = False
        # one moment for the whole pass: a stall inside it must not make our own leases look over
        now_us = self._clock()
        await self._renew_late(now_us)
        await self._heed_stops()
        self._let_go()
        if self._may_dispatch():
            allowed = sum(map(self._admission.allowed, self._rooms.loads()))
            await self._read_again()
            await self._lease_more(allowed, now_us)
            is_more = self._dispatch(allowed)
        self._meters.in_flight.set(self._in_flight)
        self._meters.held_runs.set(sum(1 for _ in self._runs()))
        self.passes += 1
        return 0.0 if is_more else TICK_S

    async def renew_once(self) -> float | None:
        """Extend all leases; runs that somebody else took are dropped."""
        now_us = self._clock()
        self._renewed_us = now_us
        if not self._held:
            return None
        before = list(self._runs())
        kept = await self._store.renew_leases(holder=self.holder, now_us=now_us, until_us=self._until(now_us))
        for held in before:
            if not held.is_done and (held.lease.batch_id, held.lease.number) not in kept:
                held.is_lost = True
        return None

    async def drain(self, *, grace_s: float) -> None:
        """Dispatch nothing more, wait for what is in flight, commit, give the rest back."""
        self._is_draining = True
        tasks = [task for held in self._runs() for task in held.in_flight.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for held in self._runs():
            held.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            while not self.committer.is_empty:
                await self.committer.commit()
        finally:
            await self._store.release_runs(holder=self.holder)

    async def hold_until(self, until_us: int) -> None:
        """Make its leases outlast a clock that is about to be moved to this moment."""
        if self._held:
            await self._store.renew_leases(holder=self.holder, now_us=self._clock(), until_us=self._until(until_us))

    def look_again(self) -> None:
        """Let the next pass come at once and look at everything, however short ago it was looked at."""
        self._checked_us = self._looked_us = 0
        self.wake.set()

    def is_at_rest(self, *, asleep: int) -> bool:
        """Whether all that it can do is done, while the engine lets `asleep` requests wait for a moment to come."""
        if self.committer.backlog or self._in_flight > asleep:
            return False
        if any(held.is_finished or held.is_lost or held.is_done for held in self._runs()):
            return False
        return not self._queued()[0] or not self.has_room

    @property
    def has_room(self) -> bool:
        """Whether it would start another item if there were one."""
        return self._in_flight < sum(map(self._admission.allowed, self._rooms.loads()))

    def _may_dispatch(self) -> bool:
        return (
            not self._is_draining
            and self._engine.ready()
            and self.committer.backlog < UNCOMMITTED_GROUPS * self._settings.commit_items
        )

    async def _renew_late(self, now_us: int) -> None:
        """After a stall the heartbeat comes before all else, or the worker would lease its own runs again."""
        if now_us - self._renewed_us > self._settings.lease_s * SECOND / 2:
            await self.renew_once()

    async def _heed_stops(self) -> None:
        """Find the batches that were canceled, deleted or expired meanwhile, at most every tick."""
        now_us = self._clock()
        if not self._held or now_us - self._checked_us < TICK_S * SECOND:
            return
        self._checked_us = now_us
        for batch_id in await self._store.stopped_batches(list(self._held), now_us=now_us):
            for held in self._held.get(batch_id, []):
                held.stop(now_us)

    def _let_go(self) -> None:
        """Drop runs that are lost or done, end those that were stopped, cut short what outlives its grace."""
        now_us = self._clock()
        for held in list(self._runs()):
            if held.is_lost:
                self._meters.leases_lost.inc()
                held.abandon()
                self._remove(held)
            elif held.is_done:
                self._remove(held)
            elif held.is_finished and held.uncommitted == 0:
                self.committer.finish(held)
            elif held.stopped_us is not None and now_us - held.stopped_us > self._grace_us:
                held.abandon()

    async def _lease_more(self, allowed: int, now_us: int) -> None:
        """Look for runs when those at hand run out, and every tick for batches that nobody works on."""
        is_due = now_us - self._looked_us >= TICK_S * SECOND
        while is_due or (self._found_some and self._queued()[0] < allowed):
            self._looked_us, is_due = now_us, False
            backlogs = await self._store.backlogs(now_us=now_us)
            self._found_some = bool(backlogs)
            startable, stuck = self._queued()
            wants = policy.wants_another(
                queued=startable,
                is_stuck=stuck > 0,
                held=sum(1 for _ in self._runs()),
                window=allowed,
                most_held=MOST_HELD,
                unserved=any(b.pending_runs and not b.leased_runs for b in backlogs),
            )
            if not wants or not await self._lease(backlogs, now_us):
                return
            is_due = True

    async def _lease(self, backlogs: list[Backlog], now_us: int) -> bool:
        unread = {held.lease.batch_id for held in self._runs() if held.unread_until_us is not None}
        batch_id = policy.choose([backlog for backlog in backlogs if backlog.batch_id not in unread])
        if batch_id is None:
            return False
        lease = await self._store.lease_run(batch_id, holder=self.holder, now_us=now_us, until_us=self._until(now_us))
        if lease is None:
            return False
        held = hold(lease)
        if batch_id not in self._held:
            self._held[batch_id] = []
            self._turns.append(batch_id)
        for earlier in self._held[batch_id]:
            # after a stall the lease that ran out may be our own: the new epoch fences the old one off
            earlier.is_lost |= earlier.lease.number == lease.number
        self._held[batch_id].append(held)
        await self._read(held)
        return True

    async def _read_again(self) -> None:
        """Read what could not be read before; those runs stay in hand, or their leases would be renewed for nobody."""
        now_us = self._clock()
        for held in list(self._runs()):
            due_us = held.unread_until_us
            if due_us is not None and due_us <= now_us and held.stopped_us is None and not held.is_lost:
                await self._read(held)

    async def _read(self, held: HeldRun) -> None:
        try:
            queue = await read_items(self._blobs, held.lease)
        except (BlobError, ValueError) as error:
            held.failed_reads += 1
            wait_s = backoff_s(held.failed_reads, jitter=random.random())  # noqa: S311 - no secret
            held.unread_until_us = self._clock() + int(wait_s * SECOND)
            log.error(  # noqa: TRY400 - the reason is enough
                "run cannot be read",
                batch=held.lease.batch_id,
                run=held.lease.number,
                reason=str(error)[:300],
                retry_s=round(wait_s, 2),
            )
        else:
            held.unread_until_us = None
            held.queue = queue

    def _dispatch(self, allowed: int) -> bool:
        """Start what is admitted, a few at a time; True if there is more to start."""
        self._full.clear()
        self._spent.clear()
        return all(self._in_flight < allowed and self._start_next() for _ in range(STARTS_A_PASS))

    def _start_next(self) -> bool:
        """Take batches in turn, runs of a batch in the order of the plan; False if nothing can be started."""
        now_us = self._clock()
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            for held in self._held[self._turns[-1]]:
                if held.queue and held.lease.expires_us <= now_us:
                    held.stop(now_us)
                item = None if held.is_lost else held.take(self._may_start)
                if item is not None:
                    self._start(held, item)
                    return True
        return False

    def _may_start(self, item: Queued) -> bool:
        """Ask once a pass for each model: a full queue is walked through quickly."""
        if item.model in self._full or (item.is_retry and item.model in self._spent):
            return False
        if not self._rooms.has_room(item.model):
            self._full.add(item.model)
            return False
        if item.is_retry and not self._budget(item).allows:
            self._spent.add(item.model)
            return False
        return True

    def _budget(self, item: Queued) -> RetryBudget:
        now_us = self._clock()
        return self._budgets.get(item.model, RetryBudget(at_us=now_us)).at(now_us)

    def _count(self, item: Queued, budget: RetryBudget) -> None:
        if len(self._budgets) >= MOST_BUDGETS and item.model not in self._budgets:
            self._budgets.clear()
        self._budgets[item.model] = budget

    def _start(self, held: HeldRun, item: Queued) -> None:
        self._count(item, self._budget(item).attempted(is_retry=item.is_retry))
        task = asyncio.get_running_loop().create_task(self._work(held, item))
        held.in_flight[item.entry.item] = task
        self._in_flight += 1

    async def _work(self, held: HeldRun, item: Queued) -> None:
        number = item.entry.item
        settled: Settled | None
        try:
            settled = await attempt(self._engine, held.lease, item, bill=self._bill)
            self._meters.attempts.labels(settled.outcome.value).inc()
            self._count(item, self._budget(item).succeeded(is_retry=item.is_retry))
        except EngineError as error:
            self._meters.attempts.labels(error.failure.label).inc()
            settled = self._after_failure(held, item, error)
        except ApiError as error:
            settled = self._after_failure(held, item, EngineError(Failure.BROKEN, error.message))
        finally:
            self._in_flight -= 1
            held.in_flight.pop(number, None)
            self.wake.set()
        if settled is not None and not held.is_lost:
            self.committer.add(held, settled)

    def _bill(self, message: Message) -> Bill:
        return bill_of(message, self._prices, now_us=self._clock(), is_batch=True)

    def _after_failure(self, held: HeldRun, item: Queued, error: EngineError) -> Settled | None:
        item.tries = item.tries.after(error.failure)
        jitter = random.random()  # noqa: S311 - no secret
        decision = decide(error, item.tries, most_attempts=self._settings.attempts, jitter=jitter)
        if isinstance(decision, Again):
            if held.stopped_us is None and not self._is_draining:
                self._delay(held, item, decision.wait_s)
            return None
        return errored(item, decision.type, decision.message)

    def _delay(self, held: HeldRun, item: Queued, wait_s: float) -> None:
        def again() -> None:
            held.delayed.pop(item.entry.item, None)
            held.queue.append(item)
            self.wake.set()

        held.delayed[item.entry.item] = self.later(wait_s, again)

    def _remove(self, held: HeldRun) -> None:
        runs = self._held[held.lease.batch_id]
        runs.remove(held)
        if not runs:
            del self._held[held.lease.batch_id]
            self._turns.remove(held.lease.batch_id)

    def _queued(self) -> tuple[int, int]:
        """Count the items that wait: those that could be started, and those whose endpoints are full or down."""
        if isinstance(self._rooms, OneRoom):
            return sum(len(held.queue) for held in self._runs()), 0
        models = Counter(item.model for held in self._runs() for item in held.queue)
        startable = sum(count for model, count in models.items() if self._rooms.has_room(model))
        return startable, models.total() - startable

    def _runs(self) -> Iterator[HeldRun]:
        return (held for runs in self._held.values() for held in runs)

    def _until(self, now_us: int) -> int:
        return now_us + int(self._settings.lease_s * SECOND)


def _later(wait_s: float, work: Callable[[], None]) -> asyncio.Handle:
    return asyncio.get_running_loop().call_later(wait_s, work)
