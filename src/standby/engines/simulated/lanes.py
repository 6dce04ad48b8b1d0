"""Time for an API that has room: every request takes its own time, whoever runs beside it, once it has a seat."""

from __future__ import annotations

import asyncio

from standby.emulation.clock import MovableClock
from standby.engines.simulated.jobs import Gauges, Job, late
from standby.engines.simulated.slots import Slots
from standby.records import SECOND, Load


class Lanes:
    """`seats` lanes of the same two speeds, in tokens a second; 0 takes no time."""

    def __init__(self, *, clock: MovableClock, seats: int, prefill: float, decode: float) -> None:
        """Begin with all seats free."""
        self._clock = clock
        self._slots = Slots(seats)
        self._read_us = SECOND / prefill if prefill else 0.0
        self._token_us = SECOND / decode if decode else 0.0
        self._sums = [0, 0, 0]

    async def enter(self, job: Job) -> None:
        """Wait for a seat, live requests in front."""
        if job.deadline_us is not None and job.deadline_us <= self._clock():
            raise late()
        if self._slots.is_full and job.deadline_us is not None:
            await self._wait(job, job.deadline_us)
        else:
            await self._slots.take(live=job.live)
        job.started_us = self._clock()

    async def reach(self, job: Job, tokens: int) -> None:
        """Sleep until this many tokens are out; even no time lets others have their turn before the first."""
        due_us = self.due_us(job, tokens)
        now_us = self._clock()
        if job.deadline_us is not None and due_us > job.deadline_us:
            await self._clock.sleep_until(job.deadline_us)
            raise late()
        if due_us > now_us or tokens <= 1:
            await self._clock.sleep_until(due_us)

    def due_us(self, job: Job, tokens: int) -> int:
        """Return when this many tokens are out."""
        return job.started_us + int((job.prompt_tokens - job.cached) * self._read_us + tokens * self._token_us)

    def leave(self, job: Job) -> None:
        """Give the seat to the next."""
        self._slots.give(live=job.live)
        for number, tokens in enumerate((job.prompt_tokens, job.cached, job.answer_tokens)):
            self._sums[number] += tokens

    def load(self) -> Load:
        """Count who has a seat and who waits."""
        return self._slots.load()

    def gauges(self) -> Gauges:
        """Say what a metric would; there is no cache to be full."""
        load = self.load()
        prompt, cached, output = self._sums
        return Gauges(
            running=load.live + load.batch,
            waiting=load.waiting,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
        )

    async def _wait(self, job: Job, deadline_us: int) -> None:
        over = asyncio.ensure_future(self._clock.sleep_until(deadline_us))
        try:
            await self._slots.take(live=job.live, over=over)
        except TimeoutError:
            raise late() from None
        finally:
            over.cancel()
