"""The scheduler on a real engine: live traffic beside batches, and what the order of a batch saves. Needs the model.

A whole server on a socket, the engine as its child: figures are those of this machine, and a busy machine has no
figures. Everything is scaled to two cores: 1 or 1.5 live requests a second in bursts, answers of 32 tokens, batches of
300 items.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from bench.interference import SIDES, Asked, latencies
from bench.measure import spread
from bench.rows import Row, wait_ended_gently
from bench.traffic import Jobs, Live, words
from bench.weights import eight_bits
from tests.harness import HEADERS, ServerProcess, call, create

CAP = 2
TASK = "Use the words above and write a very long story. Begin at once."
SHARED = Jobs(items=300, open=1, group=30, prefix=384, suffix=48, mean=48, deviation=32, most=160)
"""300 items in 10 groups."""
EIGHTH = replace(SHARED, prefix=48, suffix=16, mean=62, deviation=50, most=256)
"""An eighth of the items of the simulated benchmark, whose engine is quicker by that much and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one engine gets."""

    engine: Mapping[str, Any]
    """The table `[engine]`: as many slots as it gains from on two cores. A cap of 2 of 16 is as tight as 20 of 128."""
    live: Live
    jobs: Jobs
    is_eight_bits: bool = False
    """Whether the demo's model is served with weights of 8 bits."""


TRIALS = {
    # behind prompts of 450 tokens it writes 170, 280, 420 and 590 tokens a second at 2, 4, 8 and 16 at once; it answers
    # a live request in 0.6 s, so that one is in flight in a burst
    "local": Trial(
        engine={"slots": 16},
        live=Live(burst_s=1.5, idle_s=0.15, phase_s=45, cycles=3, warm_up=1, prompt=64, answer=32),
        jobs=SHARED,
    ),
    # slots short enough for a cache each; with one cache for all it wrote no more at 4 at once than under a cap of 2.
    # In phases of 45 s the first answers after a burst were a fifth of an idle phase away
    "llamacpp": Trial(
        engine={"slots": 12, "context": 2048, "kv_cache_mb": 1024},
        live=Live(burst_s=1.0, idle_s=0.1, phase_s=90, cycles=3, warm_up=1, prompt=64, answer=32),
        jobs=EIGHTH,
        is_eight_bits=True,
    ),
}
"""By engine."""
ORDER_SLOTS = 4
LABELS = replace(SHARED, prefix=768, mean=16, deviation=8, most=48)
"""What orders are compared on: 300 short answers about 10 long beginnings."""
UNIQUE = replace(LABELS, group=1, prefix=48)
"""The same without anything in common, prompts of 96 tokens."""
SLOW = {"llamacpp": (replace(LABELS, group=5, prefix=256), replace(UNIQUE, prefix=16))}
"""Instead of these two, once each: llama.cpp reads some 300 tokens of prompts a second here.

It has 60 groups, since it keeps the last prompts in memory besides those of its slots: of 10 groups all, whatever the
order.
"""
CACHE_MB = 64
"""Of the embedded engine while orders are compared: 5,000 tokens, 4 requests at work and 2 or 3 of the 10 prefixes.

Its usual 512 MB hold all that 300 items of a model this small could share, and then no order matters."""
POLL_S = 1.0
PATIENCE_S = 120.0
"""A live request that got nothing for so long counts with that time."""
SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "ungated": {"admission": "fixed", "window": 0, "live_slots": 0},
    "fixed": {"admission": "fixed", "window": CAP, "live_slots": 0},
}
"""The table `[worker]` of each side; the others have the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one side came to."""

    ttft_s: tuple[float, float, float]
    gap_s: float
    idle_tokens_s: float
    """Tokens of batches a second between bursts."""


def live_rows(engine: str, *, is_quick: bool, seed: int) -> list[Row]:
    """Play bursts and idle phases against a server, once for each side."""
    trial = TRIALS[engine]
    trial = replace(trial, live=replace(trial.live, phase_s=15, cycles=2)) if is_quick else trial
    with tempfile.TemporaryDirectory() as name:
        if trial.is_eight_bits:
            trial = replace(trial, engine={**trial.engine, "model": str(eight_bits(Path(name)))})
        seen = {side: play(engine, side, trial, seed) for side in SIDES}
    alone, ungated, fixed, ours = (seen[side] for side in SIDES)
    ttft, tail = ([side.ttft_s[place] * 1000 for side in (alone, ungated, fixed, ours)] for place in (1, 2))
    gaps = [side.gap_s * 1000 for side in (alone, ungated, fixed, ours)]
    to_ungated, to_fixed = ours.idle_tokens_s / ungated.idle_tokens_s, ours.idle_tokens_s / fixed.idle_tokens_s
    return [
        _ratio_row(f"{engine}: live TTFT p95 in bursts", ttft, 1.3),
        _ratio_row(f"{engine}: live TTFT p99 in bursts", tail, 1.5),
        _ratio_row(f"{engine}: live gap p95 in bursts", gaps, 1.5),
        Row(
            name=f"{engine}: batch tokens/s, idle phases",
            ours=f"{ours.idle_tokens_s:.0f}",
            against=f"{ungated.idle_tokens_s:.0f} ungated, {fixed.idle_tokens_s:.0f} fixed cap {CAP}",
            ratio=f"{100 * to_ungated:.0f} % of ungated, {to_fixed:.2f}x fixed",
            target="≥ 75 %, ≥ 1.5x",
            is_met=to_ungated >= 0.75 and to_fixed >= 1.5,
        ),
    ]


def _ratio_row(name: str, values: Sequence[float], most: float) -> Row:
    alone, ungated, fixed, ours = values
    return Row(
        name=name,
        ours=f"{ours:.0f} ms",
        against=f"{alone:.0f} ms alone; {ungated / alone:.2f}x ungated, {fixed / alone:.2f}x fixed cap {CAP}",
        ratio=f"{ours / alone:.2f}x",
        target=f"≤ {most}x",
        is_met=ours / alone <= most,
    )


def play(engine: str, side: str, trial: Trial, seed: int) -> Seen:
    """Run one side on a server of its own."""
    live = trial.live
    config: dict[str, dict[str, Any]] = {
        "engine": dict(trial.engine),
        "worker": dict(SECTIONS.get(side, {})),
        "log": {"level": "warning"},
    }
    with (
        tempfile.TemporaryDirectory() as name,
        ServerProcess(Path(name) / "data", engine=engine, config=config) as running,
    ):
        asyncio.run(warm(running))
        asked, rates = asyncio.run(_both(running, side, trial, seed))
    in_bursts = [one for one in asked if one.sent_s >= live.counted_from_s and live.is_burst(one.sent_s)]
    idle = [rate for at_s, rate in rates if at_s >= live.counted_from_s and not live.is_burst(at_s)]
    ttft_s, gap_s = latencies(in_bursts)
    found = Seen(ttft_s=ttft_s, gap_s=gap_s, idle_tokens_s=statistics.fmean(idle) if idle else 0.0)
    print(f"{engine} {side}: {found}", file=sys.stderr, flush=True)
    return found


async def warm(running: ServerProcess) -> None:
    """Let the engine load what it loads with its first request."""
    async with aiohttp.ClientSession(running.url, headers=HEADERS) as session:
        await ask(session, body_of("warm", 16, stream=True), Asked(sent_s=0.0), time.perf_counter())


async def _both(
    running: ServerProcess, side: str, trial: Trial, seed: int
) -> tuple[list[Asked], list[tuple[float, float]]]:
    start_s = time.perf_counter()
    rates: list[tuple[float, float]] = []
    async with aiohttp.ClientSession(running.url, headers=HEADERS) as session:
        feeding = None
        if side != "alone":
            feeding = asyncio.create_task(feed(running, session, trial.jobs, start_s, rates, seed))
        asked = await ask_all(session, trial.live, start_s, seed)
        if feeding is not None:
            feeding.cancel()
    return asked, rates


async def ask_all(session: aiohttp.ClientSession, live: Live, start_s: float, seed: int) -> list[Asked]:
    """Send every live request at its moment, whatever became of those before."""
    asked: list[Asked] = []
    chance = random.Random(f"live {seed}")  # noqa: S311 - no secret
    async with asyncio.TaskGroup() as group:
        for at_s in live.arrivals(seed):
            await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
            body = body_of(words(chance, live.prompt - 12), live.answer, stream=True)
            asked.append(Asked(sent_s=time.perf_counter() - start_s))
            group.create_task(ask(session, body, asked[-1], start_s))
    return asked


async def ask(session: aiohttp.ClientSession, body: dict[str, Any], asked: Asked, start_s: float) -> None:
    """Read one answer as it comes."""
    try:
        async with asyncio.timeout(PATIENCE_S), session.post("/v1/messages", json=body) as answer:
            await _read(answer, asked, start_s)
    except TimeoutError:
        asked.first_s = asked.first_s or asked.sent_s + PATIENCE_S


async def _read(answer: aiohttp.ClientResponse, asked: Asked, start_s: float) -> None:
    last_s = 0.0
    answer.raise_for_status()
    async for line in answer.content:
        if not line.startswith(b"data:") or b'"content_block_delta"' not in line:
            continue
        now_s = time.perf_counter() - start_s
        if asked.first_s is None:
            asked.first_s = now_s
        else:
            asked.gaps.append(now_s - last_s)
        last_s = now_s


async def feed(
    running: ServerProcess,
    session: aiohttp.ClientSession,
    jobs: Jobs,
    start_s: float,
    rates: list[tuple[float, float]],
    seed: int,
) -> None:
    """Keep a batch with work on the server, and write down tokens a second as they are committed."""
    numbers, last, last_s, done = itertools.count(), "", 0.0, 0
    while True:
        progress = await _progress(session, last) if last else None
        if progress is not None:
            now_s, tokens = time.perf_counter() - start_s, int(progress["tokens"]["output"])
            rates.append((now_s, (tokens - done) / (now_s - last_s)))
            last_s, done = now_s, tokens
        if progress is None or progress["processing_status"] == "ended":
            items = batch_of(jobs, next(numbers), seed)
            last = (await asyncio.to_thread(create, running, items))["id"]
            last_s, done = time.perf_counter() - start_s, 0
        await asyncio.sleep(POLL_S)


async def _progress(session: aiohttp.ClientSession, batch_id: str) -> dict[str, Any]:
    async with session.get(f"/standby/v1/batches/{batch_id}") as answer:
        answer.raise_for_status()
        found: dict[str, Any] = await answer.json()
        return found


def order_rows(engine: str, *, runs: int, is_quick: bool, seed: int) -> list[Row]:
    """Run a batch in our order and in that of its submission, in turn, each on an engine that has seen nothing.

    What shares prefixes runs once: its ratio is far from the target, and the order of submission takes ten minutes.
    """
    labels, unique = SLOW.get(engine, (LABELS, UNIQUE))
    runs = 1 if engine in SLOW else runs
    return [
        _order_row(
            f"{engine}: batch of {{}} that shares prefixes", engine, labels, 1, 1.5, is_quick=is_quick, seed=seed
        ),
        _order_row(
            f"{engine}: batch of {{}} that shares nothing", engine, unique, runs, 0.98, is_quick=is_quick, seed=seed
        ),
    ]


def _order_row(name: str, engine: str, jobs: Jobs, runs: int, least: float, *, is_quick: bool, seed: int) -> Row:
    jobs = replace(jobs, items=60, group=min(jobs.group, 6)) if is_quick else jobs
    seconds: dict[str, list[float]] = {"shared": [], "submit": []}
    reused: dict[str, list[float]] = {"shared": [], "submit": []}
    for run in range(runs):
        for order in sorted(seconds, reverse=bool(run % 2)):
            took_s, share = makespan(engine, jobs, order, seed + run)
            print(
                f"{name.format(jobs.items)}, {order}: {took_s:.1f} s, {share:.0%} cached", file=sys.stderr, flush=True
            )
            seconds[order].append(took_s)
            reused[order].append(100 * share)
    ours, theirs = (statistics.median(reused[order]) for order in ("shared", "submit"))
    ratios = [submit / shared for shared, submit in zip(seconds["shared"], seconds["submit"], strict=True)]
    return Row(
        name=name.format(jobs.items),
        ours=f"{spread(seconds['shared'], ' s', 1)}, {ours:.0f} % cached",
        against=f"{spread(seconds['submit'], ' s', 1)} submit order, {theirs:.0f} % cached",
        ratio=spread(ratios, "x faster"),
        target=f"≥ {least}x",
        is_met=statistics.median(ratios) >= least,
    )


def makespan(engine: str, jobs: Jobs, order: str, seed: int) -> tuple[float, float]:
    """Return seconds from create to end, and the share of prompt tokens that the engine took out of its cache."""
    config: dict[str, dict[str, Any]] = {
        "engine": {"slots": ORDER_SLOTS, "kv_cache_mb": CACHE_MB},
        "batch": {"order": order},
        "log": {"level": "warning"},
    }
    with (
        tempfile.TemporaryDirectory() as name,
        ServerProcess(Path(name) / "data", engine=engine, config=config) as running,
    ):
        asyncio.run(warm(running))
        start = time.perf_counter()
        batch_id = create(running, batch_of(jobs, 0, seed))["id"]
        wait_ended_gently(running, batch_id)
        took_s = time.perf_counter() - start
        reuse = call(running, "GET", f"/standby/v1/batches/{batch_id}").ok()["reuse"]
    return took_s, float(reuse["engine_share"])


def batch_of(jobs: Jobs, number: int, seed: int) -> list[dict[str, Any]]:
    """Make items whose answers go on until `max_tokens`: their length, as no script tells a real model."""
    made = []
    for entry in jobs.batch(number, seed):
        most, body = int(entry["custom_id"].rsplit("-", 1)[1]), entry["params"]
        text = f"{body['messages'][0]['content']} {TASK}"
        made.append({**entry, "params": {**body, **body_of(text, most)}})
    return made


def body_of(text: str, most: int, *, stream: bool = False) -> dict[str, Any]:
    """Make a request for a long answer."""
    body: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": most,
        "messages": [{"role": "user", "content": f"{text} {TASK}" if stream else text}],
    }
    return {**body, "stream": True} if stream else body
