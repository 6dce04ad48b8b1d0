"""The loop that drives the endpoints: leases runs, keeps the admitted number in flight, hands rows to the committer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog
from prometheus_client import Counter

from standby.blobs.base import Blobs
from standby.config import WorkerSettings
from standby.engines.base import Engine
from standby.errors import ApiError, BlobError, EngineError, Failure
from standby.ids import random_id
from standby.pricing.bills import bill_of
from standby.pricing.book import PriceBook
from standby.records import SECOND, Backlog, BatchId, Bill, Clock
from standby.scheduler.attempt import attempt, errored
from standby.scheduler.committer import Committer
from standby.scheduler.control import Control
from standby.scheduler.dispatch import Dispatcher, InHand, Purse, may_lease
from standby.scheduler.flight import Flight
from standby.scheduler.held import HeldRun, Queued, Settled, hold, read_items
from standby.scheduler.meters import Meters
from standby.scheduler.outlook import Outlook
from standby.scheduler.policy import Claim
from standby.scheduler.quota import Quota
from standby.scheduler.rates import Rates
from standby.scheduler.retry import Again, backoff_s, decide
from standby.store.base import Store
from standby.wire.messages import Message

TICK_S = 0.05
JUDGE_S = 1.0
"""How often it is judged what becomes of the batches."""
STARTS_A_PASS = 8
"""Live requests get their turn on the event loop after this many items were started."""
TAIL_WINDOWS = 8
"""When fewer windows of items than this are left of a batch, those expected to be longest go first."""
UNCOMMITTED_GROUPS = 8
"""Dispatch pauses while more than this many full commits wait: a full disk must not burn engine time."""

Later = Callable[[float, Callable[[], None]], asyncio.Handle]
"""Calls something after a number of seconds, unless its handle is canceled first."""

log = structlog.get_logger("standby.worker")


class Worker:
    """One worker. `run_once` is one pass; attempts run as tasks between passes and wake it."""

    def __init__(  # noqa: PLR0913 - named once, where the house is put together
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
        control: Control | None = None,
        quota: Quota | None = None,
    ) -> None:
        """Begin with nothing.

        `prices` are those that are published, `control` one of its own, and nobody's spending is limited, if none are
        given.
        """
        self.holder = random_id("worker")
        self.wake = asyncio.Event()
        self.later: Later = _later
        """How time passes for items that are tried again; the emulator's clock has its own way."""
        self._quota = quota or Quota()
        self.committer = Committer(
            store=store, blobs=blobs, settings=settings, clock=clock, meters=meters, when_committed=self._committed
        )
        self._store = store
        self._blobs = blobs
        self._engine = engine
        self._settings = settings
        self._grace_us = int(grace_s * SECOND)
        self._clock = clock
        self._meters = meters
        self._prices = prices or PriceBook()
        self.dispatcher = Dispatcher(
            control or Control(engine, settings, clock=clock),
            clock=clock,
            purse=Purse(self._quota, self._prices),
        )
        self._results: dict[str, Counter] = {}
        self.passes = 0
        """Passes that came to their end."""
        self._held: dict[BatchId, list[HeldRun]] = {}
        self._claims: dict[BatchId, Claim] = {}
        self.outlooks: Mapping[BatchId, Outlook] = {}
        """What is to be expected of the batches that have work left, as of a second ago at most."""
        self.rates = Rates(clock)
        self.in_flight = 0
        """Attempts under way."""
        self._is_draining = False
        self._checked_us = 0
        self._renewed_us = 0
        self._looked_us = 0
        self._judged_us = 0
        self._found_some = False
        self._is_blocked = False
        """Whether endpoints have room that no item at hand may take: each waits for another one's prefix."""

    async def run_once(self) -> float | None:
        """Look after the runs that are held, lease more if there is room, dispatch what is admitted."""
        is_more = False
        # one moment for the whole pass: a stall inside it must not make our own leases look over
        now_us = self._clock()
        await self._renew_late(now_us)
        self.dispatcher.begin_pass()
        await self._heed_stops()
        self._let_go()
        self._yield_to_live()
        if self._may_dispatch():
            await self._read_again()
            await self._lease_more(now_us)
            is_more = self._dispatch()
        self._meters.in_flight.set(self.in_flight)
        self._meters.held_runs.set(self.held_runs)
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
        if self.committer.backlog or self.in_flight > asleep:
            return False
        if any(held.is_finished or held.is_lost or held.is_done for held in self._runs()):
            return False
        is_blocked = self._is_blocked and not self.dispatcher.is_saving
        return is_blocked or not self._queued()[0] or not self.has_room

    def held_of(self, batch_id: BatchId) -> list[HeldRun]:
        """Return the runs of a batch that it holds."""
        return self._held.get(batch_id, [])

    @property
    def held_runs(self) -> int:
        """How many runs it holds."""
        return sum(map(len, self._held.values()))

    @property
    def has_room(self) -> bool:
        """Whether it would start another item if there were one."""
        return self.in_flight < self.dispatcher.allowed()

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
            self._stop_long(batch_id)

    def _stop_long(self, batch_id: BatchId) -> None:
        """Stop what would outlive the grace of a stopped batch at once, in the engine, too."""
        now_us = self._clock()
        for flight in list(self.dispatcher.flights()):
            gap_s = self.dispatcher.gap_s(flight.endpoint) or 0.0
            is_long = flight.remaining_s(now_us, gap_s) * SECOND > self._grace_us
            if is_long and flight.held.lease.batch_id == batch_id and not flight.is_stopping:
                flight.stop()

    def _yield_to_live(self) -> None:
        """Stop the newest attempts that a burst of live requests has no room for; their items come again."""
        for flight in list(self.dispatcher.surplus()):
            flight.is_yielding = flight.item.was_yielded = True
            flight.stop()

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

    async def _lease_more(self, now_us: int) -> None:
        """Look for runs when those at hand run out, and every tick for batches that nobody works on."""
        allowed = self.dispatcher.allowed()
        is_due = now_us - self._looked_us >= TICK_S * SECOND
        while is_due or (self._found_some and (self._is_blocked or self._queued()[0] < allowed)):
            self._looked_us, is_due = now_us, False
            backlogs = await self._store.backlogs(now_us=now_us)
            self._found_some = bool(backlogs)
            self._take_claims(backlogs, now_us)
            if not await self._lease(backlogs, allowed, now_us):
                return
            is_due = True

    def _take_claims(self, backlogs: list[Backlog], now_us: int) -> None:
        """Keep what the policy wants to know of each batch; what is left of one without free runs is in our hands."""
        claims = {backlog.batch_id: _claim(backlog) for backlog in backlogs}
        for batch_id, claim in self._claims.items():
            if batch_id in self._held and batch_id not in claims:
                left = sum(held.left for held in self._held[batch_id])
                cost = round(claim.left_cost * left / max(1, claim.left_items))
                claims[batch_id] = replace(claim, left_items=left, left_cost=cost)
        self._claims = claims
        if now_us - self._judged_us >= JUDGE_S * SECOND:
            self._judged_us = now_us
            self.outlooks = self.dispatcher.judge(claims.values())

    async def _lease(self, backlogs: list[Backlog], allowed: int, now_us: int) -> bool:
        """Lease one more run of a batch that has less at hand than its turn could need; False if there is none."""
        unread = {held.lease.batch_id for held in self._runs() if held.unread_until_us is not None}
        runs = [run for run in self._runs() if not self.dispatcher.is_spent(run.lease.workspace_id)]
        in_hand = InHand(runs=len(runs), left=sum(run.left for run in runs), size=sum(run.size for run in runs))
        is_stuck = self._is_blocked or self._queued()[1] > 0
        claims = [
            self._claims[backlog.batch_id]
            for backlog in backlogs
            if backlog.batch_id not in unread
            and not self.dispatcher.is_spent(backlog.workspace_id)
            and may_lease(
                queued=0 if self._is_blocked else self._startable(self._held.get(backlog.batch_id, ())),
                is_unserved=not backlog.leased_runs,
                held=in_hand,
                window=allowed,
                is_stuck=is_stuck,
            )
        ]
        leased = {backlog.batch_id: backlog.leased_runs for backlog in backlogs}
        batch_id = self.dispatcher.policy.lease(claims, leased, now_us) if claims else None
        if batch_id is None:
            return False
        lease = await self._store.lease_run(batch_id, holder=self.holder, now_us=now_us, until_us=self._until(now_us))
        if lease is None:
            return False
        self._is_blocked = False
        held = hold(lease)
        for earlier in self._held.setdefault(batch_id, []):
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
            reading = await read_items(self._blobs, held.lease)
        except Exception as error:  # noqa: BLE001 - whatever it is, no other batch may have to wait for it
            held.failed_reads += 1
            wait_s = backoff_s(held.failed_reads, jitter=random.random())  # noqa: S311 - no secret
            held.unread_until_us = self._clock() + int(wait_s * SECOND)
            log.error(  # noqa: TRY400 - the reason is enough
                "run cannot be read",
                batch=held.lease.batch_id,
                run=held.lease.number,
                reason=str(error)[:300] if isinstance(error, (BlobError, ValueError)) else type(error).__name__,
                retry_s=round(wait_s, 2),
            )
        else:
            held.unread_until_us = None
            held.fill(reading.queue)
            self.dispatcher.learn(held, reading.shared, reading.groups)
            if self._claims[held.lease.batch_id].left_items < TAIL_WINDOWS * self.dispatcher.allowed():
                held.longest_first(self.dispatcher.expected)

    def _dispatch(self) -> bool:
        """Start what is admitted, a few at a time; True if there is more to start."""
        self._stop_expired()
        self.dispatcher.begin_pass()
        started = 0
        while started < STARTS_A_PASS and self._start_next():
            started += 1
        self._is_blocked = not started and self.dispatcher.is_blocked(self._runs())
        return started == STARTS_A_PASS

    def _stop_expired(self) -> None:
        now_us = self._clock()
        for held in self._runs():
            if held.queue and held.lease.expires_us <= now_us:
                held.stop(now_us)

    def _start_next(self) -> bool:
        flight = self.dispatcher.next(self._held, self._claims)
        if flight is not None:
            self._start(flight)
        return flight is not None

    def _start(self, flight: Flight) -> None:
        flight.task = asyncio.get_running_loop().create_task(self._work(flight))
        # a task that is canceled before its first step runs nothing of itself
        flight.task.add_done_callback(lambda _: self._end(flight, None))
        flight.held.in_flight[flight.item.entry.item] = flight.task
        self.in_flight += 1

    async def _work(self, flight: Flight) -> None:
        held, item = flight.held, flight.item
        settled: Settled | None = None
        try:
            settled = await attempt(self._engine, flight, bill=self._bill)
            self._count(settled.outcome.value)
            self.dispatcher.budgets.succeeded(item.model, self._clock(), is_retry=item.is_retry)
        except asyncio.CancelledError:
            if not flight.is_yielding:
                raise
            self._count("yielded")
        except EngineError as error:
            self._count(error.failure.label)
            settled = self._after_failure(flight, error)
        except ApiError as error:
            settled = self._after_failure(flight, EngineError(Failure.BROKEN, error.message))
        finally:
            self._end(flight, settled)
        if settled is not None and not held.is_lost:
            self.rates.count(held.lease.batch_id)
            self.committer.add(held, replace(settled, token=flight.token) if flight.token else settled)
        elif settled is not None and flight.token is not None:
            self._quota.release(flight.token)

    def _count(self, result: str) -> None:
        counter = self._results.get(result)
        if counter is None:
            counter = self._results[result] = self._meters.attempts.labels(result)
        counter.inc()

    def _end(self, flight: Flight, settled: Settled | None) -> None:
        if flight.is_over:
            return
        held, flight.is_over = flight.held, True
        self.in_flight -= 1
        held.in_flight.pop(flight.item.entry.item, None)
        self.dispatcher.ended(flight, settled)
        if settled is None and flight.token is not None:
            self._quota.release(flight.token)
        if flight.is_yielding and settled is None and not self._is_draining and held.stopped_us is None:
            held.give_back(flight.item, in_front=True)
        self.wake.set()

    def _committed(self, settled: Sequence[Settled], *, is_counted: bool) -> None:
        """Settle what was reserved, now that the ledger has the charges, or never will."""
        for one in settled:
            if one.token is not None and is_counted:
                self._quota.settle(one.token, one.bill.charge_pico if one.bill is not None else 0)
            elif one.token is not None:
                self._quota.release(one.token)
        self.wake.set()

    def _bill(self, message: Message) -> Bill:
        return bill_of(message, self._prices, now_us=self._clock(), is_batch=True)

    def _after_failure(self, flight: Flight, error: EngineError) -> Settled | None:
        held, item = flight.held, flight.item
        flight.is_yielding = False  # it ended by itself, just then: it must not come again twice
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
            held.give_back(item)
            self.wake.set()

        held.delayed[item.entry.item] = self.later(wait_s, again)

    def _remove(self, held: HeldRun) -> None:
        runs = self._held[held.lease.batch_id]
        runs.remove(held)
        if all(other.lease.number != held.lease.number for other in runs):
            # after a stall the same run may be in hand again, under a new lease
            self.dispatcher.forget(held, is_last=not runs)
        if not runs:
            del self._held[held.lease.batch_id]
            self.rates.forget(held.lease.batch_id)

    def _queued(self) -> tuple[int, int]:
        """Count the items that wait: those that could be started, and those that could not though others could."""
        startable = self._startable(self._runs())
        return startable, sum(len(held.queue) for held in self._runs()) - startable

    def _startable(self, runs: Iterable[HeldRun]) -> int:
        """Count items that wait for nothing but their turn; when no endpoint has room those are all."""
        is_full, has_room = not self.dispatcher.has_any_room(), self.dispatcher.has_room
        return sum(
            count for held in runs for model, count in held.models.items() if count and (is_full or has_room(model))
        )

    def _runs(self) -> Iterator[HeldRun]:
        return (held for runs in self._held.values() for held in runs)

    def _until(self, now_us: int) -> int:
        return now_us + int(self._settings.lease_s * SECOND)


def _claim(backlog: Backlog) -> Claim:
    return Claim(
        batch_id=backlog.batch_id,
        workspace_id=backlog.workspace_id,
        created_us=backlog.created_us,
        expires_us=backlog.expires_us,
        size=backlog.size,
        left_items=backlog.left_items,
        left_cost=backlog.left_cost,
    )


def _later(wait_s: float, work: Callable[[], None]) -> asyncio.Handle:
    return asyncio.get_running_loop().call_later(wait_s, work)
