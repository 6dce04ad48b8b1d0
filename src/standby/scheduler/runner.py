"""The one loop of the house: it alone knows sleeping, stopping, back-off and what to log when work fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

from standby.scheduler.retry import backoff_s

log = structlog.get_logger("standby.runner")


async def run(
    name: str,
    work: Callable[[], Awaitable[float | None]],
    *,
    stop: asyncio.Event,
    wake: asyncio.Event | None = None,
    idle_s: float,
) -> None:
    """Call `work` until `stop` is set.

    `work` returns how long to sleep, None for `idle_s`; `wake` ends a sleep early. An exception is logged by type and
    the work is repeated after a growing, jittered pause: a chore never dies of one bad pass.
    """
    wake = wake or asyncio.Event()
    stopping = asyncio.ensure_future(_wake_at_the_end(stop, wake))
    try:
        await _repeat(name, work, stop=stop, wake=wake, idle_s=idle_s)
    finally:
        stopping.cancel()


async def _repeat(
    name: str, work: Callable[[], Awaitable[float | None]], *, stop: asyncio.Event, wake: asyncio.Event, idle_s: float
) -> None:
    failures = 0
    while not stop.is_set():
        try:
            pause_s = await work()
            failures = 0
        except Exception as error:  # noqa: BLE001 - the runner is where all work's errors end
            failures += 1
            pause_s = backoff_s(failures, jitter=random.random())  # noqa: S311 - no secret
            log.error(  # noqa: TRY400 - a traceback every pass would drown the reason
                "pass failed", loop=name, error=type(error).__name__, reason=str(error)[:300], retry_s=round(pause_s, 2)
            )
        await _sleep(idle_s if pause_s is None else pause_s, wake)


async def _wake_at_the_end(stop: asyncio.Event, wake: asyncio.Event) -> None:
    await stop.wait()
    wake.set()


async def _sleep(seconds: float, wake: asyncio.Event) -> None:
    """Sleep until it is over or `wake` is set; without a task, which a pass every few items would feel."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    if wake.is_set():
        await asyncio.sleep(0)  # or work that wakes itself would let nobody else run
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()
    wake.clear()
