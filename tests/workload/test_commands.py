"""What a person at a terminal sees of a workload."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import sys
from pathlib import Path

import pytest

from standby.testing import Emulator
from tests.workload.conftest import MODEL, Command, creates, read, write_rows

QUICK = ("--poll", "0.02", "--settle", "0.1")
ASK = ("-m", MODEL, "-p", "Say {{ text }}")


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    """Run one command beside a file of four rows."""
    write_rows(tmp_path / "in.jsonl", 4)
    return command


def test_run_answers_and_reports(run: Command) -> None:
    """One command from rows to a table, and what it cost."""
    code, out, _ = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    assert code == 0
    assert "4 of 4 rows are answered" in out
    assert "in a batch: charged" in out
    assert [row["status"] for row in read("out.csv")] == ["succeeded"] * 4


def test_json_is_all_that_stands_on_standard_output(run: Command) -> None:
    """A script reads a report with a schema version; progress goes elsewhere."""
    code, out, err = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK, "--json")
    assert (code, json.loads(out)["schema"], json.loads(out)["succeeded"]) == (0, 1, 4)
    assert "0 of 4 rows" in err


def test_rows_may_come_through_a_pipe(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input; it is read once, and kept."""
    stdin = io.TextIOWrapper(io.BytesIO(b"text\none\ntwo\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    code, _, _ = run("run", "-", "--format", "csv", *ASK, "-o", "out.csv", *QUICK)
    assert (code, [row["text"] for row in read("out.csv")]) == (0, ["one", "two"])


def test_the_steps_one_by_one(run: Command, standby_emulator: Emulator) -> None:
    """Submit returns at once; watch collects; report and list need no network."""
    assert run("submit", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)[0] == 0
    assert run("watch", "out.csv", *QUICK)[0] == 0
    standby_emulator.fault("*=500")
    code, out, _ = run("report", "out.csv", "--json")
    assert (code, json.loads(out)["succeeded"]) == (0, 4)
    code, out, _ = run("list")
    assert (code, "out.csv" in out, "done" in out) == (0, True, True)


def test_answers_become_a_table_whose_job_is_found_by_its_name(run: Command, tmp_path: Path) -> None:
    """`-o NAME.TABLE` with `--attach`; the job of a table lies in the state folder."""
    attach = ("--attach", f"wh={tmp_path / 'wh.db'}")
    with contextlib.closing(sqlite3.connect(tmp_path / "wh.db")) as database, database:
        database.execute("CREATE TABLE docs (id INTEGER, text TEXT)")
        database.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    ask = ("--sql", "select * from wh.docs order by id", *attach, *ASK, "-o", "wh.answers")
    assert run("run", *ask, *QUICK)[0] == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "wh.db")) as database:
        assert database.execute("SELECT id, status FROM answers ORDER BY id").fetchall() == [
            (1, "succeeded"),
            (2, "succeeded"),
        ]
    assert json.loads(run("report", "wh.answers", "--json")[1])["succeeded"] == 2


def test_failed_rows_have_their_exit_code(run: Command, standby_emulator: Emulator) -> None:
    """6: done, but not for all rows; and `retry` tries again what may pass."""
    standby_emulator.script("*~/text 1$/=errored:api_error")
    code, out, _ = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK, "--retries", "0")
    assert code == 6
    assert "api_error" in out
    standby_emulator._call("PUT", "simulator/script", {"script": []})
    assert run("retry", "out.csv", *QUICK, "--retries", "1")[0] == 0


def test_canceling_says_how_many(run: Command, standby_emulator: Emulator) -> None:
    """The batches end; the job is collected as always."""
    standby_emulator.script("*=slow:1h")
    run("submit", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    code, out, _ = run("cancel", "out.csv")
    assert (code, out.startswith("One batch is")) == (0, True)
    standby_emulator.advance(hours=1)
    code, out, _ = run("collect", "out.csv", *QUICK, "--json")
    assert json.loads(out)["is_done"]


def test_a_batch_that_may_be_anothers_is_not_canceled(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """Its create was not answered, and only its size says whose it is: a person has to say so."""
    standby_emulator.script("*=slow:1h")
    run("submit", "in.jsonl", *ASK, "-o", "out.csv", *QUICK)
    with contextlib.closing(sqlite3.connect(tmp_path / "out.csv.standby" / "job.sqlite")) as database:
        database.execute("UPDATE parts SET is_ours = 0")
        database.commit()
    code, out, _ = run("cancel", "out.csv")
    [batch] = creates(standby_emulator)
    assert (code, f"Not canceled: {batch}." in out, "--unproven" in out) == (0, True, True)
    assert not [one for one in standby_emulator.requests if one.operation == "cancel"]
    assert run("cancel", "out.csv", "--unproven")[1].startswith("One batch is")
    assert len([one for one in standby_emulator.requests if one.operation == "cancel"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("in.jsonl", "-p", "{{ text }}", "-o", "x.csv"), 2, "-m"),
        (("in.jsonl", *ASK), 2, "-o"),
        (("nowhere.csv", *ASK, "-o", "x.csv"), 2, "no such file"),
        (("in.jsonl", "-m", MODEL, "-p", "{{ nothing }}", "-o", "x.csv"), 2, "no column"),
        (("in.jsonl", *ASK, "-o", "x.csv", "--max-cost", "0.000001"), 9, "--max-cost"),
        (("in.jsonl", *ASK, "-o", "x.csv", "--base-url", "http://127.0.0.1:1", "--wait", "0"), 7, "run on"),
    ],
)
def test_what_is_wrong_has_its_code_and_its_words(
    run: Command, standby_emulator: Emulator, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """A script can tell; a person reads one line. Nothing was sent."""
    found, _, err = run("run", *arguments, *QUICK)
    assert (found, words in err) == (code, True), err
    assert creates(standby_emulator) == []


def test_an_estimate_holds_what_the_job_then_takes(run: Command, tmp_path: Path) -> None:
    """The interval covers the prompt tokens that are then used, and the cost lies between its ends."""
    rows = "".join(json.dumps({"text": "word " * (1 + n * n % 97)}) + "\n" for n in range(300))
    (tmp_path / "many.jsonl").write_text(rows)
    ask = ("many.jsonl", *ASK, "-s", "Be brief.", "--max-tokens", "40")
    code, out, _ = run("estimate", *ask, "--json")
    estimate = json.loads(out)
    assert (code, estimate["rows"], estimate["sampled"]) == (0, 300, 50)
    code, out, _ = run("run", *ask, "-o", "out.csv", *QUICK, "--json", "--max-cost", "5")
    report = json.loads(out)
    low, high = estimate["prompt_tokens_span"]
    assert low <= report["tokens"]["input"] <= high
    assert high - low < 0.3 * report["tokens"]["input"]
    assert estimate["batch_pico"][0] <= report["cost"]["charged_pico"] <= estimate["batch_pico"][1]


def test_a_budget_binds_across_tries(run: Command, standby_emulator: Emulator) -> None:
    """What was spent counts: a part that could go above is not sent."""
    standby_emulator.script("*~/text 1$/=stop:max_tokens")
    code, out, _ = run("estimate", "in.jsonl", *ASK, "--json")
    worst = json.loads(out)["worst_pico"] / 1e12
    more = ("--more-room", "--retries", "20", "--max-cost", f"{worst * 1.01:.9f}")
    code, _, err = run("run", "in.jsonl", *ASK, "-o", "out.csv", *QUICK, *more)
    assert (code, "was not sent" in err) == (9, True)
    assert len(creates(standby_emulator)) < 20
