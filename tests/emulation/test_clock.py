from __future__ import annotations

import asyncio

import pytest

from standby.emulation.clock import MovableClock, seconds_of
from standby.errors import ScriptError

HOUR = 3600 * 1_000_000


class Still:
    """A clock that stands still unless a test moves it."""

    now_us = 1_000

    def __call__(self) -> int:
        """Read it."""
        return self.now_us


async def test_it_runs_with_the_world_and_is_moved_forward() -> None:
    """What it is ahead is added to the clock below."""
    still = Still()
    clock = MovableClock(still)
    clock.advance(500)
    still.now_us += 1
    assert (clock(), clock.ahead_us) == (1_501, 500)
    clock.advance_to(2_000)
    assert clock() == 2_000
    clock.advance_to(1_000)
    assert clock() == 2_000
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(-1)


async def test_sleepers_wake_when_it_is_moved() -> None:
    """Those who are due wake, the others sleep on, and their number is known."""
    clock = MovableClock(Still())
    sleepers = [asyncio.create_task(clock.sleep_until(due)) for due in (clock() + HOUR, clock() + 2 * HOUR, None)]
    await asyncio.sleep(0)
    assert (clock.asleep, clock.next_us) == (3, clock() + HOUR)

    clock.advance(HOUR)
    await sleepers[0]
    assert (clock.asleep, clock.next_us) == (2, clock() + HOUR)

    for sleeper in sleepers[1:]:
        sleeper.cancel()
    await asyncio.wait(sleepers)
    assert (clock.asleep, clock.next_us) == (0, None)


async def test_calls_to_come() -> None:
    """A call is made when its time has come, unless it was canceled; it is nobody who sleeps."""
    clock, called = MovableClock(Still()), asyncio.Event()
    clock.call_later(3600, called.set)
    dropped = clock.call_later(3600, lambda: pytest.fail("was canceled"))
    await asyncio.sleep(0)
    assert (clock.asleep, clock.next_us) == (0, clock() + HOUR)
    dropped.cancel()

    clock.advance(HOUR)

    await asyncio.wait_for(called.wait(), 10)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(2, 2), (2.5, 2.5), ("2.5", 2.5), ("500ms", 0.5), ("90 s", 90), ("5m", 300), ("24h", 86400), ("29d", 29 * 86400)],
)
def test_times(given: object, seconds: float) -> None:
    """Seconds, or a number with a unit."""
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", [-1, "soon", "", "1 y", "h", None, True, float("inf"), float("nan"), [1]])
def test_what_is_no_time(given: object) -> None:
    """The message shows how to write one."""
    with pytest.raises(ScriptError, match="is no time: write seconds, or a number with ms, s, m, h or d"):
        seconds_of(given)
