"""What yielding costs on the embedded engine: bursts of live requests beside batch items. Needs the model."""

# ruff: noqa: S311 - words, no secrets

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import aclosing

import msgspec

from bench.measure import percentile, spread
from bench.rows import Row
from bench.traffic import words
from standby.config import EngineSettings
from standby.engines.local import Local
from standby.wire.messages import MessageParams

SLOTS = 8
BURST = 3
"""Live requests of one burst."""
LIVE_TOKENS, ITEM_TOKENS = 16, 96
PAUSE_S = 3.0
"""Between two bursts: batch items get on."""


async def _ask_live(engine: Local, number: int) -> float:
    """Ask once; return the seconds to the first token."""
    began = time.perf_counter()
    first_s = 0.0
    async with aclosing(engine.stream(_params(f"live {number}", 48, LIVE_TOKENS), live=True)) as events:
        async for event in events:
            if not first_s and type(event).__name__ == "ContentBlockDelta":
                first_s = time.perf_counter() - began
    return first_s


async def _keep_busy(engine: Local, place: int, stop: asyncio.Event) -> int:
    """Run one batch item after the other; return how many tokens came of them."""
    tokens = number = 0
    while not stop.is_set():
        message = await engine.generate(_params(f"item {place} {number}", 96, ITEM_TOKENS), live=False)
        tokens += message.usage.output_tokens
        number += 1
    return tokens


async def _bursts(engine: Local, count: int, *, first: int) -> list[float]:
    found: list[float] = []
    for burst in range(count):
        await asyncio.sleep(PAUSE_S)
        numbers = range(first + burst * BURST, first + (burst + 1) * BURST)
        found += await asyncio.gather(*(_ask_live(engine, number) for number in numbers))
    return found


async def _measure(bursts: int) -> tuple[list[float], list[float], dict[str, float]]:
    engine = Local(EngineSettings(kind="local", slots=SLOTS), backend="openvino")
    await engine.start()
    try:
        await engine.wait_ready()
        await _bursts(engine, 1, first=10_000)
        alone = await _bursts(engine, bursts, first=0)
        stop = asyncio.Event()
        busy = [asyncio.create_task(_keep_busy(engine, place, stop)) for place in range(SLOTS)]
        before = await _counters(engine)
        beside = await _bursts(engine, bursts, first=20_000)
        after = await _counters(engine)
        stop.set()
        await asyncio.gather(*busy)
        grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
        return alone, beside, grown
    finally:
        await engine.close()


async def _counters(engine: Local) -> dict[str, float]:
    """Read the host's own counters, by name and labels."""
    text = (await engine.connection.read("/metrics")).decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def _params(text: str, prompt: int, most: int) -> MessageParams:
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": most,
        "messages": [{"role": "user", "content": f"{text}: {words(random.Random(text), prompt)} Write a long story."}],
    }
    return msgspec.convert(body, MessageParams)


def yielding_rows(bursts: int) -> list[Row]:
    """Compare live requests alone with those beside a full engine, and count what pausing computes again."""
    alone, beside, grown = asyncio.run(_measure(bursts))
    pauses = grown["standby_host_pauses_total"]
    again = grown["standby_host_recomputed_tokens_total"]
    made = grown['standby_host_generated_tokens_total{class="batch"}']
    ratio = statistics.median(beside) / statistics.median(alone)
    worst = percentile(beside, 0.95) / percentile(alone, 0.95)
    return [
        Row(
            name=f"embedded engine: first live token in {bursts} bursts of {BURST} beside {SLOTS} batch items",
            ours=spread([1000 * one for one in beside], " ms", 0),
            against=spread([1000 * one for one in alone], " ms alone", 0),
            ratio=f"median {ratio:.2f}x, p95 {worst:.2f}x",
            target="p95 ≤ 1.5x",
            is_met=worst <= 1.5,
        ),
        Row(
            name="embedded engine: computed again because of pauses",
            ours=f"{again:.0f} tokens in {pauses:.0f} pauses",
            against=f"{made:.0f} tokens generated for items",
            ratio=f"{again / max(1.0, made):.2f} a token; {again / max(1.0, pauses):.1f} a pause",
            target="≤ 32 tokens a pause",
            is_met=again <= 32 * max(1.0, pauses),
        ),
    ]
