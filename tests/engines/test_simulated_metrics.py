from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from standby.config import SimulatorSettings
from standby.engines.simulated import Simulated
from tests.engines.simulating import Held, ask, finish, started
from tests.engines.suite import until

NAMES = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
    "llamacpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", None),
}


def read(engine: Simulated) -> dict[str, float]:
    """Read the text as Prometheus does."""
    families = text_string_to_metric_families(engine.metrics_text())
    return {sample.name: sample.value for family in families for sample in family.samples}


async def busy(profile: str, metrics: str = "true") -> tuple[Simulated, Held, list[asyncio.Task[object]]]:
    """Start an engine with two seats, three requests, and one answer behind it."""
    clock = Held()
    made = SimulatorSettings(profile=profile, slots=2, metrics=metrics)
    engine = await started(Simulated(made, clock=clock))
    await finish(clock, asyncio.create_task(engine.generate(ask("lake " * 500))))
    asked = [ask("lake " * 500 + str(number)) for number in range(3)]
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(engine.generate(params)) for params in asked]
    await until(lambda: engine.load().waiting == 1)
    return engine, clock, tasks


@pytest.mark.parametrize("profile", NAMES)
async def test_metrics_tell_what_runs_waits_and_was_done(profile: str) -> None:
    """Signals and the text in the engine's own names say the same, and it is true."""
    engine, clock, tasks = await busy(profile)
    signals, shown = await engine.signals(), read(engine)
    running, waiting, used = NAMES[profile]
    assert signals is not None
    assert (signals.running, signals.waiting) == (shown[running], shown[waiting]) == (2, 1)
    if used is not None:
        assert signals.kv_used is not None
        assert 0 < signals.kv_used == pytest.approx(shown[used])
    await finish(clock, *tasks)
    after = await engine.signals()
    assert after is not None
    assert (after.running, after.waiting, after.output_tokens) == (0, 0, 4 * 24)
    if profile != "llamacpp":
        assert after.prompt_tokens is not None
        assert after.cached_tokens is not None
        assert 0 < after.cached_tokens < after.prompt_tokens


@pytest.mark.parametrize("profile", ["claude", "remote"])
async def test_an_api_has_no_metrics(profile: str) -> None:
    """Nobody sees into Claude, or into a hosted engine."""
    engine = await started(Simulated(SimulatorSettings(profile=profile)))
    assert (await engine.signals(), engine.metrics_text()) == (None, "")


async def test_metrics_can_be_missing() -> None:
    """There is nothing to read."""
    engine, clock, tasks = await busy("vllm", "missing")
    assert (await engine.signals(), engine.metrics_text()) == (None, "")
    await finish(clock, *tasks)


async def test_metrics_can_be_stuck_at_nothing() -> None:
    """A full engine says that it is idle."""
    engine, clock, tasks = await busy("vllm", "zero")
    assert set(read(engine).values()) == {0.0}
    await finish(clock, *tasks)


async def test_metrics_can_be_stuck_at_full() -> None:
    """An idle engine says that it is full."""
    engine, clock, tasks = await busy("sglang", "full")
    await finish(clock, *tasks)
    signals = await engine.signals()
    assert signals is not None
    assert (signals.running, signals.kv_used) == (2, 1.0)


async def test_metrics_can_be_stale() -> None:
    """What was read first is read for ever."""
    engine, clock, tasks = await busy("vllm", "stale")
    before = read(engine)
    await finish(clock, *tasks)
    assert read(engine) == before


async def test_metrics_can_be_noisy() -> None:
    """Readings of the same state differ, by no more than a half, and the same again with the same seed."""
    readings = []
    for _ in range(2):
        engine, clock, tasks = await busy("vllm", "noisy")
        readings.append([read(engine)["vllm:kv_cache_usage_perc"] for _ in range(20)])
        await finish(clock, *tasks)
    assert readings[0] == readings[1]
    assert len(set(readings[0])) > 5
    assert max(readings[0]) <= 3.1 * min(readings[0])
