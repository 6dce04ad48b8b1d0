from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from standby.emulation.clock import MovableClock
from standby.emulation.stage import EXACT_STEPS, Stage, build_stage
from standby.errors import ScriptError

HOUR = 3600 * 1_000_000


def still() -> int:
    """Tell one time for ever."""
    return 1_000


async def test_each_thing_happens_at_its_own_moment() -> None:
    """A chain of waits that begins in the middle of the jump is gone through within it, not pushed behind it."""
    stage = Stage(clock=MovableClock(still))
    moments: list[int] = []

    async def chain() -> None:
        for _ in range(3):
            await stage.clock.sleep_until(stage.clock() + HOUR)
            moments.append((stage.clock() - still()) // HOUR)

    async def settle() -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        return True

    stage.settle = settle
    work = asyncio.create_task(chain())
    assert await stage.advance(10 * HOUR)
    await work
    assert moments == [1, 2, 3]
    assert stage.clock() == still() + 10 * HOUR


async def test_very_many_moments_are_taken_together() -> None:
    """A jump has an end, however much is due within it; nothing that is due is left out."""
    stage, settled, rang = Stage(clock=MovableClock(still)), [], []
    for number in range(3 * EXACT_STEPS):
        stage.clock.call_later(number + 1, lambda: rang.append(1))
    await asyncio.sleep(0)

    async def settle() -> bool:
        settled.append(1)
        await asyncio.sleep(0)
        return True

    stage.settle = settle
    await stage.advance(HOUR)
    assert len(settled) < 3 * EXACT_STEPS
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(rang) == 3 * EXACT_STEPS


async def test_what_must_last_is_told_before_each_move() -> None:
    """Leases are extended before the clock goes by their end."""
    stage, held = Stage(clock=MovableClock(still)), []

    async def hold(until_us: int) -> None:
        assert stage.clock() < until_us
        held.append(until_us - still())

    stage.hold = hold
    await stage.advance(HOUR)
    assert held == [HOUR]


async def test_work_that_does_not_end_is_told() -> None:
    """A server that never comes to rest does not keep a test waiting for ever, and says so."""
    stage = Stage(clock=MovableClock(still))

    async def settle() -> bool:
        return False

    stage.settle = settle
    assert not await stage.advance(HOUR)
    assert stage.clock() == still() + HOUR


def test_the_setting(tmp_path: Path) -> None:
    """A line, a file, or nothing."""
    assert build_stage("").script.filed == ()
    assert [rule.source for rule in build_stage("a=refusal; never").script.filed] == ["a=refusal", "never"]
    file = tmp_path / "script.toml"
    file.write_text('[[rule]]\ndo = "never"\n[[fault]]\ndo = "500"\n', encoding="utf-8")
    stage = build_stage(str(file))
    assert len(stage.script.filed) == len(stage.faults.shown()) == 1
    file.write_text('[[fault]]\nat = "nowhere"\ndo = "500"\n', encoding="utf-8")
    with pytest.raises(ScriptError, match=r"script\.toml: fault 1: \"nowhere\" is no place"):
        build_stage(str(file))
    with pytest.raises(ScriptError, match="is no action"):
        build_stage("explode")
