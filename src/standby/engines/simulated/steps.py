"""Time of an engine that works in steps: who has a seat, what a step does, how long it takes."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from dataclasses import dataclass, field

from standby.emulation.clock import MovableClock
from standby.engines.simulated.jobs import Gauges, Job, late
from standby.engines.simulated.prefixes import Place, Prefixes
from standby.engines.simulated.profiles import Steps
from standby.errors import EngineError, Failure, invalid
from standby.records import SECOND, Load


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """A job in this engine."""

    job: Job
    rank: tuple[int, int]
    """Whom to serve first: the least."""
    arrived_us: int
    place: Place | None = None
    unread: int = 0
    """Tokens of its prompt still to be read."""
    out: int = -1
    """Tokens of its answer that are out; -1 until its prompt was read."""
    wanted: int = 0
    waiter: asyncio.Future[None] | None = None
    error: EngineError | None = None
    was_seated: bool = False

    @property
    def is_done(self) -> bool:
        """Whether its answer is complete."""
        return self.out >= self.job.answer_tokens


@dataclass(slots=True)
class _Totals:
    prompt: int = 0
    cached: int = 0
    output: int = 0
    preempted: int = 0


@dataclass(slots=True, kw_only=True)
class _Step:
    writing: list[_Run]
    reading: list[tuple[_Run, int]]
    """With the tokens that each reads in this step."""
    seconds: float = 0.0


@dataclass(slots=True)
class _Books:
    """Everybody who entered and did not leave."""

    runs: dict[Job, _Run] = field(default_factory=dict)
    waiting: list[_Run] = field(default_factory=list)
    """In the order in which they will be served."""
    running: list[_Run] = field(default_factory=list)
    """In the order in which they were admitted."""


class Stepper:
    """An engine with `seats`, of which each step serves all it can. One task steps while there is work.

    The same requests in the same order take the same steps. Deadlines are looked at between steps.
    """

    def __init__(self, *, clock: MovableClock, seats: int, steps: Steps, prefixes: Prefixes) -> None:
        """Begin idle."""
        self._clock = clock
        self._seats = seats
        self._steps = steps
        self._prefixes = prefixes
        self._books = _Books()
        self._totals = _Totals()
        self._arrivals = itertools.count()
        self._task: asyncio.Task[None] | None = None

    async def enter(self, job: Job) -> None:
        """Wait for a seat; raises `EngineError` once the deadline is past, `InvalidParams` for what never fits."""
        if job.deadline_us is not None and job.deadline_us <= self._clock():
            raise late()
        if not self._prefixes.fits(job.prompt_tokens + job.answer_tokens):
            raise invalid("prompt is too long: with its answer it exceeds what the engine's cache holds")
        is_behind = self._steps.live_first and not job.live
        run = _Run(job=job, rank=(int(is_behind), next(self._arrivals)), arrived_us=self._clock())
        self._books.runs[job] = run
        bisect.insort(self._books.waiting, run, key=lambda run: run.rank)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        try:
            while not run.was_seated:
                await self._hear_of(run)
        except BaseException:
            self.leave(job)
            raise

    async def reach(self, job: Job, tokens: int) -> None:
        """Wait until this many tokens are out."""
        run = self._books.runs[job]
        run.wanted = tokens
        while run.out < tokens:
            await self._hear_of(run)

    def leave(self, job: Job) -> None:
        """Give the seat to whoever is next in the step to come."""
        run = self._books.runs.pop(job)
        if run in self._books.waiting:
            self._books.waiting.remove(run)
        self._unseat(run)
        if not self._books.runs and self._task is not None:
            self._task.cancel()
            self._task = None

    def load(self) -> Load:
        """Count who was given a seat and is still here, and who waits for the first time."""
        seated = [run.job.live for run in self._books.runs.values() if run.was_seated]
        return Load(
            live=sum(seated),
            batch=len(seated) - sum(seated),
            slots=self._seats,
            waiting=len(self._books.runs) - len(seated),
        )

    def gauges(self) -> Gauges:
        """Say what the engine's metrics would."""
        return Gauges(
            running=len(self._books.running),
            waiting=len(self._books.waiting),
            kv_used=self._prefixes.used,
            prompt_tokens=self._totals.prompt,
            cached_tokens=self._totals.cached,
            output_tokens=self._totals.output,
            preempted=self._totals.preempted,
        )

    async def _hear_of(self, run: _Run) -> None:
        if run.error is not None:
            raise run.error
        run.waiter = asyncio.get_running_loop().create_future()
        await run.waiter

    async def _work(self) -> None:
        """Step after step, each beginning where the last one ended, however late the clock wakes us."""
        at_us = self._clock()
        try:
            while self._books.waiting or self._books.running:
                if not self._books.running:
                    at_us = max(at_us, min(run.arrived_us for run in self._books.waiting))
                self._expire(at_us)
                self._admit(at_us)
                step = self._plan()
                at_us += int(step.seconds * SECOND)
                await self._clock.sleep_until(at_us)
                self._finish(step)
        except Exception:
            for run in self._books.runs.values():
                self._fail(run, EngineError(Failure.BROKEN, "The simulator's engine broke."))
            raise
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    def _expire(self, now_us: int) -> None:
        """Fail those whose time is over."""
        for run in [*self._books.waiting, *self._books.running]:
            if run.job.deadline_us is not None and run.job.deadline_us <= now_us:
                if run in self._books.waiting:
                    self._books.waiting.remove(run)
                self._unseat(run)
                self._fail(run, late())

    def _admit(self, now_us: int) -> None:
        """Give seats to those who wait, in their order, until one does not fit.

        While a jump of the clock is caught up, some of them came later than the step that begins.
        """
        books = self._books
        for run in [run for run in books.waiting if run.arrived_us <= now_us]:
            found = self._found_place(run)
            if found is None and run.job.slot is not None:
                continue  # it waits for its slot, others need not
            if found is None:
                return
            run.place, cached = found
            run.unread = run.job.prompt_tokens + max(run.out, 0) - cached
            books.waiting.remove(run)
            books.running.append(run)
            if not run.was_seated:
                run.was_seated, run.job.cached, run.job.started_us = True, cached, now_us
                self._totals.cached += cached
                self._wake(run)

    def _found_place(self, run: _Run) -> tuple[Place, int] | None:
        while True:
            if len(self._books.running) < self._seats:
                # without, an engine that reads prompts first would admit, put off and read again, and write nothing
                spare = self._steps.spare * len(self._books.running)
                tokens = run.job.prompt_tokens + max(run.out, 0)
                found = self._prefixes.admit(run.job.chain, tokens, run.job.slot, spare=spare)
                if found is not None:
                    return found
            victim = max(self._books.running, key=lambda other: other.rank, default=None)
            if not self._steps.preempts or victim is None or victim.rank[0] <= run.rank[0]:
                return None
            self._preempt(victim)

    def _plan(self) -> _Step:
        """Choose what the next step does."""
        # llama.cpp goes from slot to slot; elsewhere everybody has slot 0, and the order is that of admission
        unread = sorted((run for run in self._books.running if run.unread), key=_slot_of)
        writing = [run for run in self._books.running if not run.unread]
        if unread and not self._steps.mixes:
            writing = []
        left = self._steps.most_tokens - len(writing)
        reading = []
        for run in unread:
            size = min(run.unread, left)
            if size > 0:
                reading.append((run, size))
                left -= size
        read = sum(size for _, size in reading)
        seconds = self._steps.base_s + self._steps.each_s * (len(writing) + len(reading)) + self._steps.read_s * read
        return _Step(writing=writing, reading=reading, seconds=seconds)

    def _finish(self, step: _Step) -> None:
        """Book what a step did; who left or was put off meanwhile has no place any more."""
        for run, size in step.reading:
            if run.place is not None:
                run.unread -= size
                if not run.unread:
                    self._begin(run, run.place)
        for run in step.writing:
            if run.place is not None:
                self._write(run, run.place)

    def _begin(self, run: _Run, place: Place) -> None:
        """The prompt was read, and with the same step comes the first token."""
        self._prefixes.read(place)
        if run.out < 0:
            run.out = 0
            self._totals.prompt += run.job.prompt_tokens
        self._write(run, place)

    def _write(self, run: _Run, place: Place) -> None:
        if not run.is_done:
            if not self._found_room(run, place):
                return
            run.out += 1
            self._totals.output += 1
            run.job.tell(run.out)
        if run.is_done:
            self._unseat(run)
        if run.out >= run.wanted:
            self._wake(run)

    def _found_room(self, run: _Run, place: Place) -> bool:
        """Make room for a token; if there is none, the last of the least important is put off, perhaps this one."""
        while not self._prefixes.grow(place):
            victim = max(self._books.running, key=lambda other: other.rank)
            self._preempt(victim)
            if victim is run:
                return False
        return True

    def _preempt(self, run: _Run) -> None:
        """Put a request off: it keeps its answer so far, and its prompt is read again, or found in the cache."""
        self._totals.preempted += 1
        self._unseat(run)
        bisect.insort(self._books.waiting, run, key=lambda run: run.rank)

    def _unseat(self, run: _Run) -> None:
        if run.place is not None:
            self._prefixes.release(run.place)
            run.place = None
            self._books.running.remove(run)

    def _fail(self, run: _Run, error: EngineError) -> None:
        run.error = error
        self._wake(run)

    def _wake(self, run: _Run) -> None:
        if run.waiter is not None and not run.waiter.done():
            run.waiter.set_result(None)


def _slot_of(run: _Run) -> int:
    return run.place.slot if run.place is not None else 0
