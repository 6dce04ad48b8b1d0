from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest

from bench.house import Attempt
from bench.interference import (
    SETTINGS,
    Asked,
    Figures,
    Setting,
    Trace,
    batch_rate,
    figures,
    play,
    reuse,
    rows_of,
    wasted,
)
from bench.live import batch_of
from bench.traffic import Jobs, Live
from standby.config import SimulatorSettings
from standby.engines.simulated.tokens import PROMPT, TURN

SMALL = Setting(
    name="small",
    engine=SimulatorSettings(profile="remote", slots=8, prefill_tokens_s=1000, decode_tokens_s=50),
    live=Live(burst_s=1.0, idle_s=0.5, phase_s=10, cycles=1, warm_up=0, prompt=100, answer=20),
    jobs=Jobs(items=12, open=2, group=3, prefix=30, suffix=10, mean=20, deviation=10, most=60),
    cap=2,
)
ONE_TOKEN_S = 0.02


def digest(setting: Setting, side: str, seed: int) -> str:
    """Write down everything that was seen."""
    trace = play(setting, side, seed)
    return repr([trace.asked, trace.attempts])


def test_the_same_seed_gives_the_same_trace() -> None:
    """Two runs of a seed differ in nothing, and another seed is another run."""
    usual = SETTINGS["vllm"]
    live, jobs = replace(usual.live, phase_s=2, cycles=1, warm_up=0), replace(usual.jobs, items=100, open=1)
    setting = replace(usual, live=live, jobs=jobs)
    first = digest(setting, "ours", 1)
    assert first == digest(setting, "ours", 1)
    assert first != digest(setting, "ours", 2)


def test_the_trace_does_not_depend_on_how_python_hashes() -> None:
    """Another process, which orders its sets differently, sees the same run."""
    code = "from tests.bench.test_interference import *; print(digest(SMALL, 'ungated', 1))"
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.splitlines()[-1] == digest(SMALL, "ungated", 1)


def test_the_time_to_the_first_token_is_that_of_the_prompt_and_one_token() -> None:
    """An engine of a known speed, asked by nobody else, is measured at that speed."""
    trace = play(SMALL, "alone", 1)
    expected = (PROMPT + TURN + SMALL.live.prompt) / 1000 + ONE_TOKEN_S
    assert len(trace.asked) > 5
    assert [asked.wait_s for asked in trace.asked] == pytest.approx([expected] * len(trace.asked), abs=1e-4)
    assert [len(asked.gaps) for asked in trace.asked] == [SMALL.live.answer - 1] * len(trace.asked)
    assert figures(trace).gap_s == pytest.approx(ONE_TOKEN_S, abs=1e-4)


def test_a_cap_gives_the_rate_of_so_many_lanes() -> None:
    """Two lanes of 50 tokens a second, each interrupted by the prompts that it reads, give what they must."""
    live = replace(SMALL.live, burst_s=0.01, idle_s=0.01, phase_s=20)
    rates = list(batch_rate(play(replace(SMALL, live=live), "fixed", 1).attempts, live.seconds))[2:-2]
    prompt_s, answer_s = (PROMPT + TURN + 40) / 1000, SMALL.jobs.mean * ONE_TOKEN_S
    expected = SMALL.cap * SMALL.jobs.mean / (prompt_s + answer_s)
    assert statistics.mean(rates) == pytest.approx(expected, rel=0.15)


def test_refused_live_requests_come_again() -> None:
    """A client whose request finds no seat tries again, and the wait until it has one counts as its own."""
    busy = replace(SMALL, engine=replace(SMALL.engine, slots=1), live=replace(SMALL.live, idle_s=2.0, phase_s=5))
    trace = play(busy, "alone", 1)
    waits = [asked.wait_s for asked in trace.asked]
    assert max(waits) > 1.0
    assert figures(trace).failed == sum(wait == float("inf") for wait in waits)


def test_rates_are_spread_over_the_time_of_an_answer() -> None:
    """Tokens count where they were made, half of a second that an answer covers by half; lost ones count nowhere."""
    whole = Attempt(custom_id="0-0-0-30", start_s=0.0, first_s=1.5, end_s=4.5, tokens=30, is_whole=True)
    lost = Attempt(custom_id="0-0-1-30", start_s=0.0, first_s=0.0, end_s=5.0, tokens=30)
    assert list(batch_rate([whole, lost], 6)) == pytest.approx([0, 5, 10, 10, 5, 0])


def test_what_was_thrown_away_is_a_share_of_all() -> None:
    """Answers that were cut off count as lost, but not those that the end of the measurement cut off."""
    whole = Attempt(custom_id="a", start_s=0, end_s=9, tokens=60, is_whole=True)
    aborted = Attempt(custom_id="b", start_s=0, end_s=5, tokens=20)
    open_end = Attempt(custom_id="c", start_s=0, end_s=10, tokens=20)
    assert wasted([whole, aborted, open_end]) == 0.2


def test_reuse_is_a_share_of_what_could_be_had() -> None:
    """The first of a group can reuse nothing; of the others each could have the common beginning."""
    common = PROMPT + TURN + 30
    setting = replace(SMALL, engine=SimulatorSettings(profile="sglang"))
    attempts = [
        Attempt(custom_id=f"0-{group}-{place}-9", start_s=place, prompt=50, cached=cached, tokens=9, is_whole=True)
        for group, place, cached in ((0, 0, 0), (0, 1, common), (0, 2, 0), (1, 3, 0), (1, 4, common))
    ]
    trace = Trace(setting=setting, side="ours", asked=list[Asked](), attempts=attempts)
    assert reuse(trace) == pytest.approx(2 / 3)


def test_traffic_is_what_it_says() -> None:
    """Bursts come at their rate, and answers have their mean."""
    live = Live(cycles=6)
    arrivals = list(live.arrivals(1))
    in_bursts = sum(map(live.is_burst, arrivals))
    assert in_bursts / (6 * live.phase_s) == pytest.approx(live.burst_s, rel=0.05)
    assert arrivals == sorted(arrivals) == list(live.arrivals(1))
    lengths = list(islice(Jobs().lengths(random.Random(1)), 5000))
    assert statistics.mean(lengths) == pytest.approx(500, rel=0.05)
    assert max(lengths) <= Jobs().most


def test_a_target_that_is_missed_is_said_to_be_missed() -> None:
    """Rows compare ours with live traffic alone, with no admission, and with the fixed cap."""
    alone = Figures(
        ttft_s=(0.1, 0.2, 0.3), gap_s=0.02, failed=0, idle_tokens_s=0, burst_tokens_s=0, wasted=0.0, reuse=1.0
    )
    ungated = replace(alone, ttft_s=(1.0, 2.0, 3.0), idle_tokens_s=1000, burst_tokens_s=500)
    fixed = replace(alone, idle_tokens_s=400, burst_tokens_s=400)
    ours = replace(alone, ttft_s=(0.1, 0.25, 0.46), gap_s=0.03, idle_tokens_s=800, burst_tokens_s=100, wasted=0.06)
    rows = rows_of(SMALL, {"alone": alone, "ungated": ungated, "fixed": fixed, "ours": ours})
    met = {row.name.removeprefix("small: "): row.is_met for row in rows}
    assert met["live TTFT p95 in bursts"]
    assert not met["live TTFT p99 in bursts"]
    assert met["live gap p95 in bursts"]
    assert met["batch tokens/s, idle phases"]
    assert not met["batch tokens thrown away"]


def test_a_real_model_writes_as_long_as_the_workload_says() -> None:
    """Where no script gives the length of an answer, `max_tokens` does, and prompts keep what they share."""
    jobs = Jobs(items=6, group=3, prefix=20, suffix=10, mean=48, deviation=32, most=160)
    items = batch_of(jobs, 0, 1)
    assert [entry["params"]["max_tokens"] for entry in items] == [
        int(entry["custom_id"].rsplit("-", 1)[1]) for entry in items
    ]
    assert len({entry["params"]["system"] for entry in items}) == 2
