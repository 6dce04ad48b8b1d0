from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload.history import (
    Past,
    answers_of,
    expected_s,
    history_file,
    prompt_name,
    recalled,
    remember,
)
from tests.workload.conftest import MODEL, Answer, small

HERE = "http://here"


def past(**other: Any) -> Past:
    """Make a batch that ended."""
    given: dict[str, Any] = {
        "endpoint": HERE,
        "model": MODEL,
        "prompt": "p",
        "items": 100,
        "answers": 100,
        "prompt_tokens": 1_000,
        "output_tokens": 2_000,
        "longest_answer": 40,
        "seconds": 60.0,
        "ended_at": "2026-11-22T00:00:00Z",
    }
    return Past(**{**given, **other})


def seconds(*found: Past, batches: tuple[int, ...] = (100,), model: str = MODEL) -> tuple[int, int] | None:
    """Ask how long batches take."""
    return expected_s(found, endpoint=HERE, model=model, batches=batches)


def test_each_finished_batch_is_one_line(answer: Answer, tmp_path: Path) -> None:
    """Once, whatever is called again; without a prompt or an answer in it."""
    report, _ = answer(25, pace=small(10), prompt="A secret about {{ text }}")
    found = recalled()
    assert [(one.items, one.answers) for one in found] == [(10, 10), (10, 10), (5, 5)]
    assert sum(one.prompt_tokens for one in found) == report["tokens"]["input"]
    assert sum(one.output_tokens for one in found) == report["tokens"]["output"]
    assert all(one.seconds >= 0 and one.longest_answer > 0 and one.model == MODEL for one in found)
    text = history_file().read_text()
    assert ("secret" in text, "Say" in text, history_file().stat().st_mode & 0o077) == (False, False, 0)
    with workload.opened(workload.folder_of(tmp_path / "out.parquet")) as job:
        assert remember(job) == 0
    assert len(recalled()) == 3


def test_a_failed_row_has_no_answer_to_remember(answer: Answer, standby_emulator: Emulator) -> None:
    """Only what was answered says how long answers are."""
    standby_emulator.script("*~/text 1$/=errored:invalid_request_error")
    answer(3)
    assert [(one.items, one.answers) for one in recalled()] == [(3, 2)]


def test_a_state_folder_that_cannot_be_written_stops_no_job(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History is a hint."""
    (tmp_path / "state").write_text("a file, no folder")
    report, _ = answer(3)
    assert (report["succeeded"], recalled()) == (3, [])


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    """Those cut by a crash, and those of a newer program."""
    good = msgspec.json.encode(past())
    file = tmp_path / "history.jsonl"
    file.write_bytes(good[:20] + b"\n" + good + b"\n" + msgspec.json.encode(past(version=9)) + b"\n\n" + good[:-3])
    assert recalled(file) == [past()]
    assert recalled(tmp_path / "none") == []


def test_the_time_is_that_of_batches_like_it() -> None:
    """The same model on the same service, of like size; larger ones by their items; unknown without any."""
    assert seconds() is None
    assert seconds(past(endpoint="http://there"), past(model="other")) is None
    assert seconds(past(seconds=60.0), past(seconds=90.0), past(items=100_000, seconds=9_000.0)) == (60, 91)
    assert seconds(past(), batches=(1_000,)) == (60, 601)
    assert seconds(past(), batches=(10,)) == (6, 61)
    assert seconds(past(), batches=(100, 100)) == (60, 121)


@pytest.mark.parametrize(
    ("change", "is_the_same"),
    [
        ({"output": "/b.csv"}, True),
        ({"max_tokens": 9}, True),
        ({"prompt": "Sing {{ text }}"}, False),
        ({"system": "Loud."}, False),
        ({"schema": {"type": "object"}}, False),
    ],
)
def test_a_prompt_is_known_by_what_it_asks(change: dict[str, Any], is_the_same: bool) -> None:  # noqa: FBT001
    """Not by where answers go, nor by how long they may be."""
    source = workload.Source(kind="file", where="/a.csv")
    make: Callable[..., workload.Spec] = workload.Spec
    given = {"source": source, "output": "/a.csv", "model": MODEL, "prompt": "Say {{ text }}"}
    assert (prompt_name(make(**given)) == prompt_name(make(**{**given, **change}))) is is_the_same
    assert not prompt_name(make(source=source, output="/a.csv"))


def test_answers_are_those_of_the_prompt_and_the_model() -> None:
    """Mean, longest, and how much a cache was hit."""
    found = [past(), past(longest_answer=90, read_tokens=30, written_tokens=10), past(prompt="q"), past(model="m")]
    answers = answers_of(found, model=MODEL, prompt="p")
    assert answers is not None
    assert (answers.answers, answers.mean, answers.longest, answers.hits) == (200, 20.0, 90, Fraction(3, 4))
    assert answers_of(found, model=MODEL, prompt="z") is None
    assert answers_of([past(prompt="")], model=MODEL, prompt="") is None
