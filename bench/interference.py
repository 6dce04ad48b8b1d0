"""Live traffic beside batches, in virtual time: alone, with batches let loose, behind a fixed cap, and as we do it.

`python -m bench.interference [--quick | --whole] [--profile NAME …] [--side NAME …] [--seed N]` prints the table, or
the figures of some sides. The workload is that of the llm-d batch gateway's own benchmark: bursts of 15 live requests a
second for 90 s, 1 a second for 90 s between them, prompts of 512 tokens, answers of 128; batches of 1,000 items,
answers lognormal with mean 500.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from bench.house import Attempt, House, Plan, opened, seeded
from bench.measure import percentile
from bench.rows import Row
from bench.traffic import Jobs, Live, live_request
from bench.virtual import VirtualLoop, run_virtually
from standby.config import LogSettings, SimulatorSettings
from standby.engines.base import Context
from standby.engines.simulated.profiles import profile_of
from standby.engines.simulated.tokens import PROMPT, TURN
from standby.errors import EngineError
from standby.logs import set_up_logs
from standby.records import Rules
from standby.wire.messages import ContentBlockDelta, MessageParams, decode_params

SIDES = ("alone", "ungated", "fixed", "ours")
TRIES = 8
"""How often a live client asks that is told to come back later; an SDK is told when."""
FEED_S = 1.0
PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One engine and what is asked of it."""

    name: str
    engine: SimulatorSettings
    live: Live = field(default_factory=Live)
    jobs: Jobs = field(default_factory=Jobs)
    cap: int = 20
    """The fixed cap to beat."""


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="vllm", engine=SimulatorSettings(profile="vllm", slots=128)),
        Setting(name="sglang", engine=SimulatorSettings(profile="sglang", slots=128)),
        Setting(
            name="llamacpp",
            engine=SimulatorSettings(profile="llamacpp", slots=8),
            live=Live(burst_s=3.0, idle_s=0.2, prompt=64, answer=32),
            jobs=Jobs(items=300, prefix=96, suffix=32, mean=125, deviation=100, most=512),
            cap=2,
        ),
        Setting(
            name="remote",
            engine=SimulatorSettings(profile="remote", slots=128),
            # such APIs cache prefixes from 1,024 tokens on
            jobs=Jobs(prefix=1200, suffix=80),
        ),
    )
}
"""By profile. llama.cpp has few slots and a slow engine: everything is a quarter or less."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One live request as its client saw it. Seconds."""

    sent_s: float
    first_s: float | None = None
    """When the first piece of text came; None if none ever did."""
    gaps: array[float] = field(default_factory=lambda: array("f"))
    """Between pieces."""

    @property
    def wait_s(self) -> float:
        """Time to the first token."""
        return float("inf") if self.first_s is None else self.first_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that happened in one run."""

    setting: Setting
    side: str
    asked: list[Asked]
    attempts: list[Attempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run came to, without its warm-up."""

    ttft_s: tuple[float, float, float]
    """Of live requests sent in bursts: p50, p95, p99."""
    gap_s: float
    """p95 of the time between their tokens."""
    failed: int
    """Live requests that never got an answer."""
    idle_tokens_s: float
    """Tokens of batches a second between bursts."""
    burst_tokens_s: float
    wasted: float
    """Share of all tokens generated for batches that was thrown away."""
    reuse: float
    """Prompt tokens of batches that came out of the cache, as a share of what could have."""


def play(setting: Setting, side: str, seed: int) -> Trace:
    """Run one side."""
    plan = Plan(engines=(setting.engine,), admission=side, cap=setting.cap, seed=seed)

    async def run(loop: VirtualLoop) -> Trace:
        with seeded(seed) as root:
            house, asked = House(root, loop, plan), list[Asked]()
            async with opened(house):
                feeding = asyncio.create_task(feed(house, setting.jobs)) if side != "alone" else None
                await ask_all(house, setting.live, asked)
                await asyncio.sleep(max(0.0, setting.live.seconds - loop.time()))
                if feeding is not None:
                    feeding.cancel()
            return Trace(setting=setting, side=side, asked=asked, attempts=house.attempts)

    return run_virtually(run)


async def feed(house: House, jobs: Jobs) -> None:
    """See to it that there is always batch work."""
    numbers = itertools.count()
    while True:
        backlogs = await house.store.backlogs(now_us=house.loop.now_us())
        if sum(backlog.pending_runs for backlog in backlogs) < jobs.open:
            await house.submit(jobs.batch(next(numbers), house.plan.seed))
            await asyncio.sleep(0.01)  # two batches of one moment would be told apart by the chance in their ids
        else:
            await asyncio.sleep(FEED_S)


async def ask_all(house: House, live: Live, asked: list[Asked]) -> None:
    """Send every live request at its moment, whatever became of those before, and wait for the last answer."""
    async with asyncio.TaskGroup() as group:
        for number, at_s in enumerate(live.arrivals(house.plan.seed)):
            await asyncio.sleep(at_s - house.loop.time())
            asked.append(Asked(sent_s=house.loop.time()))
            group.create_task(ask(house, live_request(live, number, house.plan.seed), asked[-1]))


async def ask(house: House, body: bytes, asked: Asked) -> None:
    """Be a client with an SDK: told to come back later, it does."""
    params = decode_params(body, rules=Rules(), batch=False)
    for _ in range(TRIES):
        try:
            await _listen(house, params, asked)
        except EngineError as error:
            await asyncio.sleep(error.retry_after_s or 1.0)
        else:
            return


async def _listen(house: House, params: MessageParams, asked: Asked) -> None:
    last_s = 0.0
    async with aclosing(house.pool.stream(params, live=True, context=Context(workspace_id=house.workspace))) as events:
        async for event in events:
            if isinstance(event, ContentBlockDelta):
                now_s = house.loop.time()
                if asked.first_s is None:
                    asked.first_s = now_s
                else:
                    asked.gaps.append(now_s - last_s)
                last_s = now_s


def figures(trace: Trace) -> Figures:
    """Reduce a run."""
    live = trace.setting.live
    counted = [asked for asked in trace.asked if asked.sent_s >= live.counted_from_s]
    in_bursts = [asked for asked in counted if live.is_burst(asked.sent_s)]
    ttft_s, gap_s = latencies(in_bursts)
    rates = list(batch_rate(trace.attempts, live.seconds))
    seconds = range(int(live.counted_from_s), int(live.seconds))
    bursts = [rates[second] for second in seconds if live.is_burst(second)]
    idle = [rates[second] for second in seconds if not live.is_burst(second)]
    return Figures(
        ttft_s=ttft_s,
        gap_s=gap_s,
        failed=sum(asked.first_s is None for asked in counted),
        idle_tokens_s=sum(idle) / len(idle),
        burst_tokens_s=sum(bursts) / len(bursts),
        wasted=wasted(trace.attempts),
        reuse=reuse(trace),
    )


def latencies(asked: Sequence[Asked]) -> tuple[tuple[float, float, float], float]:
    """Return p50, p95 and p99 of the time to the first token, and p95 of the gaps after it, in seconds."""
    waits = [one.wait_s for one in asked]
    ttft_s = (percentile(waits, 0.5), percentile(waits, 0.95), percentile(waits, 0.99))
    return ttft_s, percentile([gap for one in asked for gap in one.gaps], 0.95)


def batch_rate(attempts: Iterable[Attempt], seconds: float) -> Iterator[float]:
    """Yield, second by second, the tokens of answers that came to their end, each spread over its time."""
    steps = [0.0] * (int(seconds) + 2)
    for attempt in attempts:
        if attempt.is_whole and attempt.tokens:
            begin = attempt.start_s if attempt.first_s is None else attempt.first_s
            _spread(steps, begin, max(attempt.end_s, begin + 1e-6), attempt.tokens)
    yield from steps[: int(seconds)]


def _spread(steps: list[float], begin: float, end: float, tokens: int) -> None:
    each = tokens / (end - begin)
    for second in range(int(begin), min(int(end), len(steps) - 1) + 1):
        steps[second] += each * max(0.0, min(end, second + 1) - max(begin, second))


def wasted(attempts: Sequence[Attempt]) -> float:
    """Return the share of tokens that was thrown away, cut off by the end of the run not counted."""
    total = sum(attempt.tokens for attempt in attempts)
    end_s = max((attempt.end_s for attempt in attempts), default=0.0)
    lost = sum(attempt.tokens for attempt in attempts if not attempt.is_whole and attempt.end_s < end_s)
    return lost / total if total else 0.0


def reuse(trace: Trace) -> float:
    """Compare with what a cache that forgets nothing would have given to the items that ran; 1 if nothing is shared."""
    first: dict[str, Attempt] = {}
    for attempt in trace.attempts:
        first.setdefault(attempt.custom_id.rsplit("-", 2)[0], attempt)
    leaders = {id(attempt) for attempt in first.values()}
    later = [attempt for attempt in trace.attempts if attempt.is_whole and id(attempt) not in leaders]
    common = cacheable(trace.setting)  # an item that is run again finds more: its own prompt
    return sum(min(attempt.cached, common) for attempt in later) / (len(later) * common) if later and common else 1.0


def cacheable(setting: Setting) -> int:
    """Tokens that two items of a group have in common, in whole blocks of the engine's cache."""
    plays = profile_of(setting.engine)
    common = PROMPT + setting.jobs.prefix + TURN
    return common - common % plays.block if common >= plays.least and setting.jobs.group > 1 else 0


def quick(setting: Setting) -> Setting:
    """Return a short form: to see that it works."""
    return replace(setting, live=replace(setting.live, phase_s=30.0, cycles=3, warm_up=1))


def whole(setting: Setting) -> Setting:
    """Return the form that is published elsewhere: half an hour of 10 cycles."""
    return replace(setting, live=replace(setting.live, cycles=10, warm_up=2))


def measure(settings: Iterable[Setting], *, seed: int, sides: Sequence[str] = SIDES) -> dict[str, dict[str, Figures]]:
    """Run every side of every setting; virtual time minds no busy machine."""
    chosen = [(setting, side, seed) for setting in settings for side in sides]
    found: dict[str, dict[str, Figures]] = {}
    with ProcessPoolExecutor(PROCESSES) as processes:
        for (setting, side, _), result in zip(
            chosen, processes.map(_measured, *zip(*chosen, strict=True)), strict=True
        ):
            found.setdefault(setting.name, {})[side] = result
    return found


def _measured(setting: Setting, side: str, seed: int) -> Figures:
    set_up_logs(LogSettings(level="error"))
    began = time.process_time()
    result = figures(play(setting, side, seed))
    print(f"{said(setting.name, side, result)} ({time.process_time() - began:.0f} s)", file=sys.stderr, flush=True)
    return result


def said(name: str, side: str, figures: Figures) -> str:
    """Write a side's figures as a line."""
    p50, p95, p99 = (1000 * value for value in figures.ttft_s)
    return (
        f"{name:9}{side:8} bursts: TTFT {p50:5.0f} {p95:5.0f} {p99:5.0f} ms, gap p95 {1000 * figures.gap_s:4.0f} ms, "
        f"failed {figures.failed}; batch tokens/s: idle {figures.idle_tokens_s:5.0f}, "
        f"burst {figures.burst_tokens_s:5.0f}; wasted {100 * figures.wasted:.1f} %, reuse {100 * figures.reuse:.0f} %"
    )


def interference_rows(settings: Iterable[Setting], *, seed: int) -> list[Row]:
    """Measure and compare."""
    chosen = {setting.name: setting for setting in settings}
    rows: list[Row] = []
    for name, sides in measure(chosen.values(), seed=seed).items():
        rows += rows_of(chosen[name], sides)
    return rows


def rows_of(setting: Setting, sides: dict[str, Figures]) -> list[Row]:
    """Compare the sides of one profile."""
    alone, ungated, fixed, ours = (sides[side] for side in SIDES)
    rows = [
        _latency_row(
            f"{setting.name}: live TTFT {name} in bursts", [side.ttft_s[place] for side in sides.values()], most
        )
        for place, (name, most) in enumerate((("p50", 0.0), ("p95", 1.3), ("p99", 1.5)))
    ]
    rows.append(_latency_row(f"{setting.name}: live gap p95 in bursts", [side.gap_s for side in sides.values()], 1.5))
    to_ungated, to_fixed = ours.idle_tokens_s / ungated.idle_tokens_s, ours.idle_tokens_s / fixed.idle_tokens_s
    rows += [
        Row(
            name=f"{setting.name}: batch tokens/s, idle phases",
            ours=f"{ours.idle_tokens_s:.0f}",
            against=f"{ungated.idle_tokens_s:.0f} ungated, {fixed.idle_tokens_s:.0f} fixed cap {setting.cap}",
            ratio=f"{100 * to_ungated:.0f} % of ungated, {to_fixed:.2f}x fixed",
            target="≥ 75 %, ≥ 1.5x",
            is_met=to_ungated >= 0.75 and to_fixed >= 1.5,
        ),
        Row(
            name=f"{setting.name}: batch tokens/s, bursts",
            ours=f"{ours.burst_tokens_s:.0f}",
            against=f"{ungated.burst_tokens_s:.0f} ungated, {fixed.burst_tokens_s:.0f} fixed cap {setting.cap}",
            ratio=f"{100 * ours.burst_tokens_s / ungated.burst_tokens_s:.0f} % of ungated",
            target="",
            is_met=True,
        ),
        Row(
            name=f"{setting.name}: batch tokens thrown away",
            ours=f"{100 * ours.wasted:.1f} %",
            against=f"{100 * ungated.wasted:.1f} % ungated, {100 * fixed.wasted:.1f} % fixed",
            ratio="",
            target="≤ 5 %",
            is_met=ours.wasted <= 0.05,
        ),
        Row(
            name=f"{setting.name}: prefix reuse beside live traffic",
            ours=f"{100 * ours.reuse:.0f} %",
            against=f"{100 * ungated.reuse:.0f} % ungated, {100 * fixed.reuse:.0f} % fixed",
            ratio="of the upper bound",
            target="≥ 90 %",
            is_met=ours.reuse >= 0.9,
        ),
    ]
    if alone.failed or ours.failed or ungated.failed or fixed.failed:
        rows.append(
            Row(
                name=f"{setting.name}: live requests that never got an answer",
                ours=f"{ours.failed}",
                against=f"{alone.failed} alone, {ungated.failed} ungated, {fixed.failed} fixed",
                ratio="",
                target="as alone",
                is_met=ours.failed <= alone.failed,
            )
        )
    return rows


def _latency_row(name: str, seconds: Sequence[float], most: float) -> Row:
    alone, ungated, fixed, ours = (1000 * value for value in seconds)
    return Row(
        name=name,
        ours=f"{ours:.0f} ms",
        against=f"{alone:.0f} ms alone; {ungated / alone:.2f}x ungated, {fixed / alone:.2f}x fixed",
        ratio=f"{ours / alone:.2f}x",
        target=f"≤ {most}x" if most else "",
        is_met=not most or ours / alone <= most,
    )


def main() -> int:
    """Measure some profiles and print their table."""
    from bench.__main__ import table  # noqa: PLC0415 - it imports this module

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cycles of a minute")
    parser.add_argument("--whole", action="store_true", help="ten cycles of three minutes instead of four")
    parser.add_argument("--profile", action="append", choices=list(SETTINGS))
    parser.add_argument("--side", action="append", choices=SIDES, help="only the figures of some sides, no table")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    form = quick if chosen.quick else whole if chosen.whole else replace
    settings = [form(SETTINGS[name]) for name in chosen.profile or SETTINGS]
    if chosen.side:
        measure(settings, seed=chosen.seed, sides=chosen.side)
        return 0
    rows = interference_rows(settings, seed=chosen.seed)
    print(f"seed {chosen.seed}\n\n{table(rows)}")
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
