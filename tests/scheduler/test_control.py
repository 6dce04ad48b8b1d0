"""The shell of admission over a real pool of simulated engines, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bench.virtual import VirtualLoop, run_virtually
from standby.config import EngineSettings, SimulatorSettings, WorkerSettings
from standby.emulation.clock import MovableClock
from standby.engines.base import Signals
from standby.engines.pool import Pool
from standby.engines.simulated import Simulated
from standby.errors import EngineError
from standby.records import Rules
from standby.scheduler.control import TICK_S, AdmissionMeters, Control
from standby.wire.messages import MessageParams, decode_params


def ask(number: int, tokens: int = 200) -> MessageParams:
    """Make a request with an answer of so many tokens."""
    text = f"request {number}"
    body = {"model": "simulated", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)


class Site:
    """A pool with one engine of a profile, its control, and clients that keep it busy."""

    def __init__(self, loop: VirtualLoop, worker: WorkerSettings, **simulator: object) -> None:
        """Build it."""
        settings = SimulatorSettings(answer_tokens=200, **simulator)  # type: ignore[arg-type]
        self.engine = Simulated(settings, clock=MovableClock(loop.now_us))
        self.pool = Pool([("gpu", self.engine)], [EngineSettings()], clock=loop.now_us)
        self.registry = CollectorRegistry()
        self.control = Control(self.pool, worker, clock=loop.now_us, meters=AdmissionMeters(self.registry))
        self.pool.most_batch = self.control.allowed
        self.most = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, *, batch: int, live: int = 0, seconds: float) -> None:
        """Keep so many items and live requests coming for a time, and look every tick."""
        await self.pool.start()
        self._tasks = [asyncio.create_task(self._again(number, live=False)) for number in range(batch)]
        self._tasks += [asyncio.create_task(self._again(batch + number, live=True)) for number in range(live)]
        for _ in range(int(seconds / TICK_S)):
            await asyncio.sleep(TICK_S)
            await self.control.run_once()
            self.most = max(self.most, self.pool.rooms()[0].load().batch)

    async def leave(self) -> None:
        """Break off all that was asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop all."""
        await self.leave()
        await self.control.close()
        await self.pool.close()

    async def _again(self, number: int, *, live: bool) -> None:
        while True:
            try:
                if live:
                    async for _ in self.pool.stream(ask(number), live=True):
                        pass
                else:
                    await self.pool.generate(ask(number))
            except EngineError:
                await asyncio.sleep(1)


def played(test: Callable[[VirtualLoop], object]) -> None:
    """Run a test in virtual time."""
    run_virtually(test)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["vllm", "sglang", "remote"])
def test_an_idle_engine_is_used(profile: str) -> None:
    """Within a minute most of its seats are taken, and never those that live traffic keeps."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(live_slots=3), profile=profile, slots=32)
        await site.run(batch=40, seconds=60)
        now = site.pool.rooms()[0].load().batch
        assert 20 <= now <= site.most <= 29
        await site.close()

    played(run)


def test_the_gap_is_what_a_step_of_the_engine_takes() -> None:
    """A vLLM takes 10 ms, and 0.2 ms for each request."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(), profile="vllm", slots=32)
        await site.run(batch=1, live=9, seconds=20)
        gap_s = site.pool.rooms()[0].gap_s(now_us=loop.now_us())
        assert gap_s == pytest.approx(0.012, rel=0.05)
        await site.close()

    played(run)


def test_the_gap_of_live_answers_that_are_over_hides_nothing() -> None:
    """Beside 20 others a token took 14 ms; four seconds after they went the item that is left tells of its 10."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(), profile="vllm", slots=32)
        await site.run(batch=1, live=20, seconds=20)
        room = site.pool.rooms()[0]
        assert room.gap_s(now_us=loop.now_us()) == pytest.approx(0.0142, rel=0.05)
        await site.leave()
        await site.run(batch=1, seconds=4)
        assert room.gap_s(now_us=loop.now_us()) == pytest.approx(0.0102, rel=0.05)
        await site.close()

    played(run)


def test_live_requests_take_the_place_of_items_at_once() -> None:
    """Before the next look, what is allowed went down by more than came."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(), profile="vllm", slots=32)
        await site.run(batch=40, seconds=60)
        room = site.pool.rooms()[0]
        before = site.control.allowed("gpu", room.load())
        tasks = [asyncio.create_task(site.pool.generate(ask(100 + n), live=True)) for n in range(16)]
        await asyncio.sleep(0.001)
        assert room.load().live == 16
        assert site.control.allowed("gpu", room.load()) <= before - 10
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await site.close()

    played(run)


def test_metrics_that_hang_make_nobody_wait() -> None:
    """A look takes no time; what is old does not count."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(), profile="vllm", slots=32)

        async def hang() -> Signals | None:
            await asyncio.Event().wait()
            return None

        site.engine.signals = hang  # type: ignore[method-assign]
        await site.run(batch=40, seconds=60)
        assert site.pool.rooms()[0].load().batch >= 20
        assert site.control.state()["gpu"]["foreign"] == 0
        await site.close()

    played(run)


def test_what_it_knows_can_be_read() -> None:
    """As metrics and as numbers for people."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(inter_token_ms=15), profile="vllm", slots=32)
        await site.run(batch=40, seconds=30)
        text = generate_latest(site.registry).decode()
        assert 'standby_admission_target_seconds{endpoint="gpu"} 0.015' in text
        allowed = site.control.allowed("gpu", site.pool.rooms()[0].load())
        assert f'standby_admission_allowed{{endpoint="gpu"}} {float(allowed)}' in text
        assert site.control.state()["gpu"]["base_s"] == pytest.approx(0.0102, rel=0.1)
        await site.close()

    played(run)


def test_a_fixed_window_is_fixed() -> None:
    """Whatever the engine says."""

    async def run(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(admission="fixed", window=5), profile="vllm", slots=32)
        await site.run(batch=40, seconds=10)
        assert site.most == 5
        await site.close()

    played(run)


def test_an_engine_without_endpoints_has_the_fixed_window() -> None:
    """One room that is all of it."""
    control = Control(Simulated(SimulatorSettings(slots=8)), WorkerSettings(live_slots=2), clock=lambda: 0)
    (room,) = control.rooms()
    assert control.allowed(room.name, room.load()) == 6
    assert control.surplus(room.name) == 0


def test_an_endpoint_that_failed_is_tried_with_one_item() -> None:
    """While nobody knows whether it works again, no more than one may fail there; then it gets its share at once."""

    async def test(loop: VirtualLoop) -> None:
        site = Site(loop, WorkerSettings(admission="fixed"), slots=8)
        room = site.pool.endpoints[0]
        await site.pool.start()
        allowed = site.control.allowed("gpu", room.load())
        assert allowed > 1
        while room.state() == "closed":
            room.breaker = room.breaker.failed(loop.now_us(), is_trial=False)
        await asyncio.sleep(room.wait_us() / 1e6)
        assert room.state() == "half_open"
        assert site.control.allowed("gpu", room.load()) == 1
        await site.pool.generate(ask(0))
        assert site.control.allowed("gpu", room.load()) == allowed
        await site.close()

    played(test)
