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
from bench.interference import SETTINGS, Asked, Setting, Trace, batch_rate, figures, play, reuse, wasted
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
    setting = replace(SETTINGS["vllm"], live=replace(SETTINGS["vllm"].live, phase_s=4, cycles=1, warm_up=0))
    first = digest(setting, "ours", 1)
    assert first == digest(setting, "ours", 1)
    assert first != digest(setting, "ours", 2)


def test_the_trace_does_not_depend_on_how_python_hashes() -> None:
    """Processes that order their sets differently see the same run."""
    code = "from tests.bench.test_interference import *; print(digest(SMALL, 'ungated', 1))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    }
    assert len(seen) == 1


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
    live = replace(SMALL.live, burst_s=0.01, idle_s=0.01, phase_s=60)
    found = figures(play(replace(SMALL, live=live), "fixed", 1))
    prompt_s, answer_s = (PROMPT + TURN + 40) / 1000, SMALL.jobs.mean * ONE_TOKEN_S
    expected = SMALL.cap * SMALL.jobs.mean / (prompt_s + answer_s)
    assert found.idle_tokens_s == pytest.approx(expected, rel=0.15)


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
