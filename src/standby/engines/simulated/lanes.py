"""Time for an API that has room: every request takes its own time, whoever runs beside it, once it has a seat."""

from __future__ import annotations

import asyncio

from standby.emulation.clock import MovableClock
from standby.engines.simulated.jobs import Gauges, Job, late
from standby.engines.simulated.prefixes import Place, Prefixes
from standby.engines.simulated.slots import Slots
from standby.errors import EngineError, Failure
from standby.records import SECOND, Load

WATCHED = 8
"""Tokens that whoever watches an answer hears of at once."""
RETRY_S = 1.0
"""When a client may come again that was refused a seat."""


class Lanes:
    """`seats` lanes of the same two speeds, in tokens a second; 0 takes no time."""

    def __init__(
        self,
        *,
        clock: MovableClock,
        seats: int,
        prefill: float = 0.0,
        decode: float = 0.0,
        prefixes: Prefixes | None = None,
        refuses: bool = False,
    ) -> None:
        """Begin with all seats free; one that `refuses` lets nobody wait for a seat."""
        self._clock = clock
        self._slots = Slots(seats)
        self._read_us = SECOND / prefill if prefill else 0.0
        self._token_us = SECOND / decode if decode else 0.0
        self._prefixes = prefixes
        self._places: dict[Job, Place] = {}
        self._refuses = refuses

    async def enter(self, job: Job) -> None:
        """Wait for a seat, live requests in front; raises `EngineError`."""
        if job.deadline_us is not None and job.deadline_us <= self._clock():
            raise late()
        if self._slots.is_full and self._refuses:
            raise EngineError(Failure.OVERLOADED, "Too many requests at once.", retry_after_s=RETRY_S)
        if self._slots.is_full and job.deadline_us is not None:
            await self._wait(job, job.deadline_us)
        else:
            await self._slots.take(live=job.live)
        job.started_us = self._clock()
        found = self._prefixes.admit(job.chain, job.prompt_tokens, job.slot) if self._prefixes is not None else None
        if found is not None:
            self._places[job], job.cached = found

    async def reach(self, job: Job, tokens: int) -> None:
        """Sleep until this many tokens are out, in one go unless somebody watches.

        Even no time lets others have their turn before the first.
        """
        while job.watch is not None and self._token_us and tokens - job.told > WATCHED:
            await self._reach(job, job.told + WATCHED)
        await self._reach(job, tokens)

    async def _reach(self, job: Job, tokens: int) -> None:
        due_us = job.started_us + int((job.prompt_tokens - job.cached) * self._read_us + tokens * self._token_us)
        if job.deadline_us is not None and due_us > job.deadline_us:
            await self._clock.sleep_until(job.deadline_us)
            raise late()
        if due_us > self._clock() or tokens <= 1:
            await self._clock.sleep_until(due_us)
        place = self._places.get(job)
        if self._prefixes is not None and place is not None and not place.is_read:
            self._prefixes.read(place)
        job.tell(tokens)

    def leave(self, job: Job) -> None:
        """Give the seat to the next."""
        self._slots.give(live=job.live)
        place = self._places.pop(job, None)
        if self._prefixes is not None and place is not None:
            self._prefixes.release(place)

    def load(self) -> Load:
        """Count who has a seat and who waits."""
        return self._slots.load()

    def gauges(self) -> Gauges:
        """Count who has a seat and who waits; such an API has no metrics that would say more."""
        load = self.load()
        return Gauges(running=load.live + load.batch, waiting=load.waiting)

    async def _wait(self, job: Job, deadline_us: int) -> None:
        over = asyncio.ensure_future(self._clock.sleep_until(deadline_us))
        try:
            await self._slots.take(live=job.live, over=over)
        except TimeoutError:
            raise late() from None
        finally:
            over.cancel()
