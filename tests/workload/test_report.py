"""What a job says of itself when it is done."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload.costs import prices_at
from standby.workload.jobfile import JobFile, Settled, created
from standby.workload.lengths import Lengths
from standby.workload.names import hash_of
from standby.workload.parts import Canary
from standby.workload.report import report_of
from standby.workload.sentences import cost_words, time_words
from standby.workload.spent import Spent
from standby.workload.states import PartState
from tests.workload.conftest import MODEL, Answer, quick, small, write_rows

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "workload-report.md"
NOW = "2026-11-20T10:00:00+00:00"


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobFile]:
    """A job that nobody has sent yet."""
    source = workload.Source(kind="file", where="in.jsonl")
    spec = workload.Spec(source=source, output=str(tmp_path / "out.csv"), model=MODEL, prompt="{{ text }}")
    with created(tmp_path / "out.csv.standby", spec, tag="0123456789", endpoint="http://x", now=NOW) as opened:
        yield opened


def fill(job: JobFile, usages: list[str]) -> None:
    """Give a job one part whose rows succeeded with these usages."""
    keys = [f"doc-{number}" for number in range(len(usages))]
    job.prepare(((n, key, hash_of(key), 1) for n, key in enumerate(keys)), [(1, len(keys), 100)])
    settle(job, 1, {hash_of(key): usage for key, usage in zip(keys, usages, strict=True)})


def settle(job: JobFile, number: int, usages: dict[bytes, str]) -> None:
    """Lead a part from its beginning to its end."""
    part = job.move(job.part(number), PartState.SENDING)
    created_at = "2026-11-20T10:00:00Z"
    part = job.move(part, PartState.SUBMITTED, batch_id=f"msgbatch_{number}", created_at=created_at)
    part = job.move(part, PartState.ENDED, ended_at="2026-11-20T11:30:00Z")
    part = job.move(part, PartState.COLLECTED)
    job.settle(part, (Settled(hash=one, outcome="succeeded", cause="", tokens=used) for one, used in usages.items()))


def usage(
    *, model: str = MODEL, plain: int = 0, write_5m: int = 0, write_1h: int = 0, read: int = 0, output: int = 0
) -> str:
    """Write usage as a job keeps it."""
    return f"{model},{plain},{write_5m},{write_1h},{read},{output},0,"


def names(value: Any, above: str = "") -> Iterator[str]:
    """Walk over the names of a report's keys, with those above them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if above != "failed":  # its keys are causes
                yield key
            yield from names(inner, key)
    elif isinstance(value, list) and value:
        yield from names(value[0], above)


def test_every_key_is_documented(answer: Answer, standby_emulator: Emulator) -> None:
    """A reader of the JSON finds each key in the reference."""
    standby_emulator.script("*~/text [1-3]$/=errored:api_error")
    report, _ = answer(
        12, pace=small(5, retries=1, canary=Canary(items=2, above=5)), system="You are terse. " * 2000, cache="5m"
    )
    estimate = {
        "rows": 12,
        "prompt_tokens": 9,
        "prompt_tokens_span": (8, 10),
        "most_output_tokens": 99,
        "batch_pico": (1, 2),
    }
    with workload.opened(workload.folder_of(report["output"])) as job:
        job.note(estimate=json.dumps(estimate))
        report = report_of(job, prices_at(NOW))
    documented = set(re.findall(r"`\.?([\w.\[\]]+)`", DOCS.read_text()))
    documented |= {one for name in documented for one in re.split(r"[.\[\]]+", name)}
    assert [key for key in ("canary", "cache", "predicted", "failures", "dearest", "models") if not report[key]] == []
    assert set(names(report)) - documented == set()
    json.dumps(report, allow_nan=False)


def test_failures_say_what_to_do_and_what_the_service_said(answer: Answer, standby_emulator: Emulator) -> None:
    """Each cause comes with its meaning, a remedy that names the job, and its first row."""
    standby_emulator.script(
        "*~/text 1$/=errored:invalid_request_error:messages are too odd", "*~/text [23]$/=stop:refusal"
    )
    report, _ = answer(5, id_column="id")
    refused, invalid = report["failures"]
    assert (refused["cause"], refused["rows"], refused["first"]["key"], refused["first"]["row"]) == (
        "refusal",
        2,
        "doc-2",
        3,
    )
    assert (invalid["cause"], invalid["first"]["words"]) == ("invalid_request_error", "messages are too odd")
    assert all(one["why"] and one["todo"] and not one["passes"] for one in report["failures"])
    assert report["cost"]["without_good_answer_pico"] > 0
    assert report["cost"]["without_good_answer_pico"] < report["cost"]["charged_pico"]


def test_rows_that_were_tried_again_are_told_by_round(
    service: workload.Service, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Who was sent again, and who was answered then."""
    standby_emulator.script("*~/text [012]$/=errored:api_error")

    def recover(view: workload.View) -> None:
        if view.round == 1:
            standby_emulator._call("PUT", "simulator/script", {"script": ["*~/text 2$/=errored:api_error"]})

    source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", 6)))
    spec = workload.Spec(source=source, output=str(tmp_path / "out.csv"), model=MODEL, prompt="Say {{ text }}")
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        report = workload.run_job(job, service, pace=quick(retries=2), say=recover)
    assert [(one["round"], one["sent"], one["succeeded"]) for one in report["rounds"]] == [
        (0, 6, 3),
        (1, 3, 2),
        (2, 1, 0),
    ]
    assert "4 rows were sent again, and 2 of them were answered then." in list(time_words(report))


def test_an_answer_that_was_paid_twice_is_partly_in_vain(answer: Answer, standby_emulator: Emulator) -> None:
    """A cut answer is charged, and so is the one that follows with more room."""
    standby_emulator.script("*~/text 1$/=stop:max_tokens")
    report, _ = answer(3, pace=quick(is_more_room=True, retries=1))
    row = report["dearest"][0]
    assert (row["row"], row["tries"]) == (2, 2)
    assert report["cost"]["without_good_answer_pico"] == row["charged_pico"]
    assert report["answers"] == 4


def test_the_canary_is_told(answer: Answer) -> None:
    """The part that went first has its own line."""
    report, _ = answer(30, pace=small(20, canary=Canary(items=10, above=20)))
    assert (report["canary"]["rows"], report["canary"]["succeeded"]) == (10, 10)
    report, _ = answer(3, output="other.csv")
    assert report["canary"] is None


def test_a_cache_that_lost_money_is_said_to_have_lost_it(job: JobFile) -> None:
    """Everybody wrote and nobody read: dearer than no cache, and told with the rate from which on it pays."""
    fill(job, [usage(write_1h=5000, output=5)] * 9 + [usage(read=5000, output=5)])
    report = report_of(job, prices_at(NOW))
    assert report["cache"]["saved_pico"] == report["cost"]["saved_by_cache_pico"] < 0
    assert (report["cache"]["hit_rate"], report["cache"]["requests"], report["cache"]["requests_that_read"]) == (
        0.1,
        10,
        1,
    )
    assert report["cache"]["break_even"] == pytest.approx(1 / 1.9)  # (2 - 1) / (2 - 0.1): docs/money.md
    assert any(text.startswith("The cache lost $") and "pays from 53% on" in text for text in cost_words(report))


def test_a_cache_that_paid_is_said_to_have_saved(job: JobFile) -> None:
    """The same the other way, with the lifetime of five minutes."""
    fill(job, [usage(write_5m=5000, output=5)] + [usage(read=5000, output=5)] * 9)
    report = report_of(job, prices_at(NOW))
    assert report["cache"]["saved_pico"] > 0
    assert report["cache"]["break_even"] == pytest.approx(0.25 / 1.15)
    assert any(text.startswith("The cache saved $") for text in cost_words(report))


def test_the_break_even_rate_is_where_a_cache_neither_saves_nor_loses(job: JobFile) -> None:
    """What is called break-even is it: 10 of 19 hits at an hour's price come out even."""
    fill(job, [usage(write_1h=5000)] * 9 + [usage(read=5000)] * 10)
    report = report_of(job, prices_at(NOW))
    assert report["cache"]["hit_rate"] == pytest.approx(report["cache"]["break_even"])
    assert report["cost"]["saved_by_cache_pico"] == 0


def test_what_has_no_price_is_not_called_free(job: JobFile) -> None:
    """Unknown is null, and partly unknown is counted beside the sums."""
    fill(job, [usage(model="nobody-knows", plain=10, output=5)])
    report = report_of(job, prices_at(NOW))
    assert (report["cost"]["charged_pico"], report["cost"]["without_good_answer_pico"], report["cache"]) == (
        None,
        None,
        None,
    )
    assert report["models"] == [{"model": "nobody-knows", "answers": 1, "charged_pico": None}]
    assert "unknown" in next(cost_words(report))


def test_the_prediction_is_put_beside_what_came(job: JobFile) -> None:
    """An error of a tenth is told as one; a sum in its span is inside; what was not predicted is not claimed."""
    fill(job, [usage(plain=1000, output=50)] * 10)
    report = report_of(job, prices_at(NOW))
    assert report["predicted"] is None
    estimate = {
        "rows": 10,
        "sampled": 5,
        "prompt_tokens": 11_000,
        "prompt_tokens_span": (9_900, 12_000),
        "most_output_tokens": 1000,
        "batch_pico": (report["cost"]["charged_pico"] // 2, report["cost"]["charged_pico"] * 2),
    }
    job.note(estimate=json.dumps(estimate))
    told = report_of(job, prices_at(NOW))["predicted"]
    assert told["prompt_tokens"]["error"] == pytest.approx(0.1)
    assert (told["prompt_tokens"]["is_inside"], told["charged_pico"]["is_inside"]) == (True, True)
    assert (told["output_tokens"]["predicted"], told["output_tokens"]["error"]) == (None, None)
    job.note(estimate=json.dumps({**estimate, "rows": 20, "prompt_tokens": 22_000}))  # half of the rows were answered
    assert report_of(job, prices_at(NOW))["predicted"]["prompt_tokens"]["error"] == pytest.approx(0.1)


def test_the_dearest_rows_have_their_keys(job: JobFile) -> None:
    """The ten that cost most, the dearest first; equal ones are counted."""
    fill(job, [usage(plain=100, output=n) for n in range(50)] + [usage(plain=9000, output=1)] * 3)
    dearest = report_of(job, prices_at(NOW))["dearest"]
    assert len(dearest) == 10
    assert (dearest[0]["key"], dearest[0]["rows_alike"], dearest[0]["prompt_tokens"]) == ("doc-50", 2, 9000)
    assert [one["key"] for one in dearest[1:4]] == ["doc-49", "doc-48", "doc-47"]


def test_times_are_those_of_the_service(job: JobFile) -> None:
    """How long parts took, and how fast they were."""
    fill(job, [usage(output=1)] * 5400)
    report = report_of(job, prices_at(NOW))
    assert (report["parts"][0]["seconds"], report["time"]["items_per_s"], report["time"]["slowest_parts"]) == (
        5400,
        1.0,
        [1],
    )
    assert "The service took 90 min for 1 batch, 1.0 rows/s." in list(time_words(report))


def test_memory_does_not_grow_with_the_rows(job: JobFile) -> None:
    """No two rows are alike, and still a report needs little."""
    fill(job, [usage(plain=number, output=number % 1000) for number in range(30_000)])
    tracemalloc.start()
    try:
        report = report_of(job, prices_at(NOW))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report["answer_tokens"]["answers"] == 30_000
    assert peak < 2_000_000


def test_what_is_spent_adds_up_part_by_part(job: JobFile) -> None:
    """The running sum follows the parts, and a new round, and is the report's at the end."""
    price_of = prices_at(NOW)
    job.prepare(((n, str(n), hash_of(str(n)), 1 + n % 3) for n in range(9)), [(n, 3, 100) for n in (1, 2, 3)])
    spent = Spent(job, price_of)
    sums = [spent.pico(job.parts())]
    for number in (2, 1, 3):
        settle(job, number, {hash_of(str(n)): usage(output=10 * number) for n in range(9) if 1 + n % 3 == number})
        sums.append(spent.pico(job.parts()))
    output = 2_500_000  # of this model in a batch, a token
    assert sums == [0, 60 * output, 90 * output, 180 * output]
    assert sums[-1] == report_of(job, price_of)["cost"]["charged_pico"]


@pytest.mark.parametrize(
    "counts",
    [
        {0: 3},
        {1: 1},
        {7: 1000},
        {10: 5, 20: 3, 500: 1},
        {1: 1000, 128_000: 1},
        {n: n for n in range(1, 3000, 7)},
    ],
)
def test_bins_hold_every_answer_once(counts: dict[int, int]) -> None:
    """Ranges follow each other without a gap, there are few of them, and no answer is lost."""
    lengths = Lengths()
    for length, times in counts.items():
        lengths.add(length, times)
    bins = lengths.bins()
    assert sum(one["answers"] for one in bins) == sum(counts.values())
    assert all(after["from"] == before["to"] + 1 for before, after in itertools.pairwise(bins))
    assert len(bins) <= 21
    assert bins[0]["from"] <= min(counts)
    assert bins[-1]["to"] >= max(counts)


def test_quantiles_are_exact() -> None:
    """The length that a share of the answers does not exceed."""
    lengths = Lengths()
    for length in range(1, 101):
        lengths.add(length, 1)
    assert [lengths.at(share) for share in (0.1, 0.5, 0.9, 0.99)] == [10, 50, 90, 99]
