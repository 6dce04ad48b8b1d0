from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.pricing.claude import claude_price
from standby.pricing.rates import Price
from standby.testing import Emulator
from standby.workload.estimate import estimate, noted
from standby.workload.faults import Refused
from standby.workload.quotes import Load, cached, loads_of, plain
from standby.workload.steps import prices_of
from tests.workload.conftest import MODEL, Command, creates, quick, write_rows
from tests.workload.kinds import KINDS, written

DAY = date(2026, 11, 22)
CENT = 10**10
QUICK = ("--poll", "0.02", "--settle", "0.1")


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_holds_what_a_job_then_takes(
    service: workload.Service, tmp_path: Path, kind: Callable[[Path], workload.Spec]
) -> None:
    """Prompt tokens and charge lie inside the predicted intervals, which are narrow enough to be of use."""
    with workload.opened_job(kind(tmp_path), endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job), past=())
        report = workload.run_job(job, service, pace=quick())
    tokens, asked = report["tokens"], found.asked_pico
    prompt = tokens["input"] + tokens["cache_read"] + tokens["cache_write_1h"] + tokens["cache_write_5m"]
    low, high = found.prompt_tokens_span
    assert report["succeeded"] == found.rows
    assert low <= prompt <= high
    assert high - low < 0.3 * prompt
    assert abs(found.prompt_tokens - prompt) < 0.1 * prompt
    assert asked is not None
    assert asked[0] <= report["cost"]["charged_pico"] <= asked[1] == found.worst_pico


def haiku() -> Price:
    """Claude Haiku 4.5."""
    found = claude_price(MODEL, DAY)
    assert found is not None
    return found


def test_the_columns_are_those_of_the_contract() -> None:
    """Contract 10.3: 10,000 requests of 500 and 300 tokens; 1,000 behind a shared prefix of 6,000."""
    price = haiku()
    many = [Load(rows=10_000, prompt=5_000_000, output=3_000_000)]
    assert (plain(many, price.standard), plain(many, price.batch)) == (2_000 * CENT, 1_000 * CENT)
    shared = [Load(rows=1_000, prompt=6_200_000, output=300_000, shared=6_000)]
    assert plain(shared, price.batch) == 385 * CENT
    assert round(cached(shared, price.batch, hits=Fraction(999, 1000), ttl="1h") / 10**8) == 11_557
    assert cached(shared, price.batch, hits=Fraction(0), ttl="5m") == 460 * CENT
    assert cached(shared, price.batch, hits=Fraction(6, 10), ttl="1h") == 343 * CENT


def test_a_step_of_a_price_is_each_requests_own() -> None:
    """Contract 10.3: a prompt of 100,000 tokens and one of 100,001, whose mean would put both on the dearer side."""
    price = claude_price("claude-haiku-5-5", DAY)
    assert price is not None
    loads = loads_of([(100_000.0, 1), (100_001.0, 1)], price, prompt=200_001, output=2_000)
    assert [one.rows for one in loads] == [1, 1]
    assert plain(loads, price.batch) == 5_250_000_000 + 26_250_250_000


@pytest.fixture
def job_of(service: workload.Service, tmp_path: Path) -> Callable[..., Any]:
    """Prepare a job."""

    def made(rows: int = 60, output: str = "out.csv", **spec: Any) -> Any:
        source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", rows)))
        given = {"model": MODEL, "prompt": "Say {{ text }}", "output": str(tmp_path / output), **spec}
        return workload.opened_job(workload.Spec(source=source, **given), endpoint=service.endpoint)

    return made


def test_small_jobs_are_counted_whole(job_of: Callable[..., Any], service: workload.Service) -> None:
    """Up to fifty rows nothing is left to chance: the interval is a point."""
    with job_of(20) as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job), past=())
        assert (found.sampled, found.prompt_tokens_span) == (20, (found.prompt_tokens, found.prompt_tokens))
        assert noted(job) == found


def test_counting_that_fails_half_way_leaves_a_wider_estimate(
    job_of: Callable[..., Any], service: workload.Service, standby_emulator: Emulator
) -> None:
    """What was counted counts, and what was not is told."""
    standby_emulator.fault("count_tokens=404+skip:30")
    with job_of(200) as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job), past=())
    assert 20 <= found.sampled <= 30
    assert any("not counted" in text for text in found.unknown)


def test_a_service_that_counts_nothing_stops_only_a_budget(
    command: Command, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Without --max-cost the job runs, and says that there is no estimate; with it nothing is sent."""
    write_rows(tmp_path / "in.jsonl", 3)
    ask = ("in.jsonl", "-m", MODEL, "-p", "Say {{ text }}", *QUICK)
    standby_emulator.fault("count_tokens=404")
    code, _, err = command("run", *ask, "-o", "a.csv", "--max-cost", "5")
    assert (code, creates(standby_emulator)) == (Refused.code, [])
    code, _, err = command("run", *ask, "-o", "b.csv")
    assert (code, "No estimate" in err) == (0, True)


def test_a_job_that_goes_on_is_not_counted_again(command: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """The estimate belongs to the job."""
    write_rows(tmp_path / "in.jsonl", 3)
    ask = ("in.jsonl", "-m", MODEL, "-p", "Say {{ text }}", "-o", "a.csv", *QUICK)
    command("submit", *ask)
    counted = [one for one in standby_emulator.requests if one.operation == "count_tokens"]
    assert command("run", *ask)[0] == 0
    assert [one for one in standby_emulator.requests if one.operation == "count_tokens"] == counted != []


def test_nothing_is_counted_where_it_is_not_wanted(
    command: Command, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """`--no-estimate` still looks at the model."""
    write_rows(tmp_path / "in.jsonl", 3)
    assert command("run", "in.jsonl", "-m", MODEL, "-p", "{{ text }}", "-o", "a.csv", "--no-estimate", *QUICK)[0] == 0
    asked = {one.operation for one in standby_emulator.requests}
    assert ("count_tokens" in asked, "models" in asked) == (False, True)


def test_the_second_night_knows_how_long_answers_are(job_of: Callable[..., Any], service: workload.Service) -> None:
    """Earlier batches of the same prompt tell what answers, and time, to expect; of another prompt they do not."""
    with job_of(30) as job:
        workload.prepare_job(job)
        report = workload.run_job(job, service, pace=quick())
    with job_of(30, output="again.csv") as job:
        workload.prepare_job(job)
        again = estimate(job, service, prices_of(job))
        assert again.expected_output_tokens == report["tokens"]["output"]
        assert again.expected_pico == report["cost"]["charged_pico"]
        assert again.expected_s is not None
    with job_of(30, output="other.csv", prompt="Sing {{ text }}") as job:
        workload.prepare_job(job)
        other = estimate(job, service, prices_of(job))
        assert (other.expected_output_tokens, other.expected_pico) == (None, None)


def test_a_price_that_is_not_known_is_not_zero(job_of: Callable[..., Any], service: workload.Service) -> None:
    """Money is None, tokens are there, and the reason is told."""
    with job_of(5, model="simulated") as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job), past=())
    assert (found.batch_pico, found.worst_pico, found.asked_pico) == (None, None, None)
    assert found.prompt_tokens > 0
    assert found.unknown == ("no price is known for 'simulated'",)


def test_advice_is_told_before_a_job_runs(command: Command, tmp_path: Path) -> None:
    """By `estimate` on standard output and in its JSON, by `run` on standard error."""
    (tmp_path / "in.jsonl").write_text('{"text": "the same"}\n' * 20)
    ask = ("in.jsonl", "-m", MODEL, "-p", "Say {{ text }}")
    told = "19 of 20 requests are the same as an earlier one"
    _, out, _ = command("estimate", *ask)
    assert all(words in out for words in (f"Advice: {told}", "Time: unknown", "in real time", "longest answers"))
    _, out, _ = command("estimate", *ask, "--json")
    assert json.loads(out)["advice"][0]["text"].startswith(told)
    _, out, err = command("run", *ask, "-o", "a.csv", *QUICK)
    assert (told in err, told in out) == (True, False)


def test_a_budget_needs_a_price(command: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """Nothing is sent where nobody knows what it costs; without a budget it is."""
    write_rows(tmp_path / "in.jsonl", 2)
    ask = ("run", "in.jsonl", "-m", "simulated", "-p", "{{ text }}", "-o", "a.csv", *QUICK)
    code, _, err = command(*ask, "--max-cost", "5")
    assert (code, "no price is known for 'simulated'" in err, creates(standby_emulator)) == (9, True, [])
    assert command(*ask)[0] == 0


def test_markers_of_ready_requests_are_in_the_dearest_case(service: workload.Service, tmp_path: Path) -> None:
    """Nobody knows how much of them is written: all of it at most, none of it at least."""
    system = [{"type": "text", "text": "word " * 5_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    params = {"model": MODEL, "max_tokens": 9, "system": system, "messages": [{"role": "user", "content": "Hi"}]}
    where = written(tmp_path, [{"custom_id": f"a{n}", "params": params} for n in range(12)])
    spec = workload.Spec(source=workload.Source(kind="native", where=where), output=str(tmp_path / "out.jsonl"))
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job), past=())
        report = workload.run_job(job, service, pace=quick())
    assert found.asked_pico is not None
    assert found.batch_pico is not None
    assert found.asked_pico[0] <= report["cost"]["charged_pico"] <= found.asked_pico[1]
    assert found.asked_pico[1] > found.batch_pico[1]
    assert report["tokens"]["cache_write_1h"] > 0
