"""A workload from a timer: what is new is answered and added, what was answered is not paid for again."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest

from standby.testing import Emulator
from standby.workload import nightly, tables
from standby.workload.faults import BadInput
from standby.workload.nightly_file import load
from standby.workload.prompts import Prompts
from standby.workload.spec import Source, Spec
from tests.workload.conftest import MODEL, Command, creates

FILE = f"""
id = "id"
output = "out.parquet"
model = "{MODEL}"
prompt = "Say {{{{ text }}}}"

[source]
file = "in.jsonl"

[pace]
poll = 0.02
settle = 0.1
"""


def write(path: Path, rows: dict[str, str]) -> None:
    """Write rows of JSON: id, text."""
    path.write_text("".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in rows.items()))


def table(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read an output: rows by id."""
    with duckdb.connect(":memory:") as connection:
        found = connection.sql(f"SELECT * FROM '{path}'")
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {str(row["id"]): row for row in rows}


def sent(emulator: Emulator) -> int:
    """Count the items of all batches that were made."""
    made = [one for one in emulator.requests if one.operation == "create" and one.batch_id]
    return sum(int(one.items or 0) for one in {one.batch_id: one for one in made}.values())


@pytest.fixture
def run(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the file against the emulator from another folder; return its code, standard output and standard error."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write(tmp_path / "in.jsonl", {"a": "one", "b": "two"})
    (tmp_path / "labels.toml").write_text(FILE)
    return functools.partial(command, str(tmp_path / "labels.toml"))


def change(tmp_path: Path, before: str, after: str) -> None:
    """Edit the file."""
    text = (tmp_path / "labels.toml").read_text()
    assert before in text
    (tmp_path / "labels.toml").write_text(text.replace(before, after))


def test_only_new_rows_are_sent(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """A second night sends what was added; the output has both nights, each row once."""
    assert run()[0] == 0
    first = table(tmp_path / "out.parquet")
    write(tmp_path / "in.jsonl", {"a": "one", "b": "two", "c": "three"})
    code, out, _ = run()
    assert (code, "1 new of 3 rows" in out) == (0, True)
    assert sent(standby_emulator) == 3
    second = table(tmp_path / "out.parquet")
    assert list(second) == ["a", "b", "c"]
    assert {key: second[key] for key in first} == first
    assert second["c"]["status"] == "succeeded"


def test_a_night_without_new_rows_costs_nothing(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """It sends nothing, says so, and is no failure."""
    run()
    before = (tmp_path / "out.parquet").read_bytes()
    code, out, _ = run()
    assert (code, "No new rows: 2" in out) == (0, True)
    assert len(creates(standby_emulator)) == 1
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_a_changed_row_is_sent_again(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """Its answer replaces the one to its earlier text; a column that the prompt does not name changes nothing."""
    run()
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"other","n":1}\n{"id":"b","text":"two","n":2}\n')
    code, out, _ = run()
    assert (code, "1 changed of 2 rows" in out) == (0, True)
    assert sent(standby_emulator) == 3
    assert {key: row["text"] for key, row in table(tmp_path / "out.parquet").items()} == {"a": "other", "b": "two"}


def test_rows_that_left_the_source_stay_in_the_output(run: Command, tmp_path: Path) -> None:
    """The output is what was answered, not what is there today."""
    run()
    write(tmp_path / "in.jsonl", {"c": "three"})
    run()
    assert set(table(tmp_path / "out.parquet")) == {"a", "b", "c"}


def test_what_fails_for_a_reason_that_passes_is_sent_again(
    run: Command, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Overloaded rows are the next night's; refused ones would only be refused again, unless one asks for it."""
    change(tmp_path, "settle = 0.1", "settle = 0.1\nretries = 0")
    standby_emulator.script("*~/one$/=errored:overloaded_error", "*~/two$/=stop:refusal")
    assert run()[0] == 6
    assert {k: v["status"] for k, v in table(tmp_path / "out.parquet").items()} == {"a": "errored", "b": "refusal"}
    standby_emulator._call("PUT", "simulator/script", {"script": []})
    code, out, _ = run()
    assert (code, "1 new of 2 rows" in out) == (0, True)
    assert {k: v["status"] for k, v in table(tmp_path / "out.parquet").items()} == {"a": "succeeded", "b": "refusal"}
    code, out, _ = run("--failed")
    assert (code, "1 failed before" in out) == (0, True)
    assert sent(standby_emulator) == 4
    assert table(tmp_path / "out.parquet")["b"]["status"] == "succeeded"


@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.jsonl"])
def test_answers_are_added_to_any_file(run: Command, tmp_path: Path, output: str) -> None:
    """Values of earlier nights stay as they were written: `007`, empty texts, quotes, new lines, dates."""
    change(tmp_path, "out.parquet", output)
    odd = '{"id": "007", "text": "a, \\"b\\"\\n c", "empty": "", "none": null, "day": "2024-01-02T03:04:05Z"}\n'
    (tmp_path / "in.jsonl").write_text(odd + '{"id": "8", "text": "x", "empty": "y", "none": "z", "day": "x"}\n')
    run()
    before = (tmp_path / output).read_bytes()
    (tmp_path / "in.jsonl").write_text(odd + '{"id": "9", "text": "x", "empty": "y", "none": "z", "day": "x"}\n')
    assert run()[0] == 0
    after = (tmp_path / output).read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb", "postgres"])
def test_answers_are_added_to_a_table(run: Command, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Rows come from a database and answers go into it; a column that is new is added."""
    name = request.getfixturevalue("postgresql") if kind == "postgres" else f"wh.{kind}"
    address = name if kind == "postgres" else str(tmp_path / name)
    change(
        tmp_path, '[source]\nfile = "in.jsonl"', f'[attach]\nwh = "{name}"\n[source]\nsql = "select * from wh.notes"'
    )
    change(tmp_path, "out.parquet", "wh.noted")

    def execute(*statements: str) -> list[Any]:
        with duckdb.connect(":memory:") as connection:
            if kind != "duckdb":
                tables.load(connection, kind)
            connection.execute(f"ATTACH '{address}' AS wh (TYPE {kind})")
            for statement in statements:
                found = connection.execute(statement)
            return found.fetchall()

    execute("CREATE TABLE wh.notes (id INTEGER, text VARCHAR)", "INSERT INTO wh.notes VALUES (1, 'one'), (2, 'two')")
    code, _, err = run()
    assert code == 0, err
    execute(
        "ALTER TABLE wh.notes ADD COLUMN more VARCHAR",
        "UPDATE wh.notes SET text = 'deux' WHERE id = 2",
        "INSERT INTO wh.notes VALUES (3, 'three', 'x')",
    )
    code, out, err = run()
    assert (code, "1 new, 1 changed of 3 rows" in out) == (0, True), err
    found = execute("SELECT id, text, more, status FROM wh.noted ORDER BY id")
    assert found == [(1, "one", None, "succeeded"), (2, "deux", None, "succeeded"), (3, "three", "x", "succeeded")]


def test_ready_requests_are_answered_once(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """Lines of Claude are known by their custom_id."""
    params = {"model": MODEL, "max_tokens": 900, "messages": [{"role": "user", "content": "Hi"}]}
    lines = [json.dumps({"custom_id": key, "params": params}) + "\n" for key in "abc"]
    (tmp_path / "requests.jsonl").write_text("".join(lines[:2]))
    (tmp_path / "labels.toml").write_text(
        'output = "results.jsonl"\n[source]\nfile = "requests.jsonl"\n[pace]\npoll = 0.02\n'
    )
    assert run()[0] == 0
    (tmp_path / "requests.jsonl").write_text("".join(lines))
    assert run()[0] == 0
    found = [json.loads(line)["custom_id"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (found, sent(standby_emulator)) == (["a", "b", "c"], 3)


def test_a_dry_run_sends_nothing(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """It says what would be sent, what that could cost and what may be spent; and leaves no trace."""
    change(tmp_path, "[pace]", "[budget]\nrun = 1.0\n[pace]")
    code, out, _ = run("--dry-run")
    assert (code, "2 new of 2 rows would be sent" in out, "May be spent now: $1" in out) == (0, True, True)
    assert creates(standby_emulator) == []
    assert not (tmp_path / "out.parquet.nightly").exists()
    run()
    found = json.loads(run("--dry-run", "--json")[1])
    assert (found["rows"]["sent"], found["estimate"]) == (0, None)
    assert found["spent_this_month_pico"] > 0


def test_a_run_is_held_to_its_budget(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """9: it could cost more; nothing was sent, and the next night looks anew."""
    change(tmp_path, "[pace]", "[budget]\nrun = 0.000001\n[pace]")
    code, _, err = run()
    assert (code, "labels.toml" in err, "budget.run" in err) == (9, True, True)
    change(tmp_path, "run = 0.000001", "run = 1.0")
    write(tmp_path / "in.jsonl", {"a": "one", "b": "two", "c": "three"})
    assert run()[0] == 0
    assert sent(standby_emulator) == 3


def test_a_month_is_held_to_its_budget(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """What the runs of a month cost counts together."""
    change(tmp_path, 'model = "', 'max_tokens = 40\nmodel = "')
    worst = json.loads(run("--dry-run", "--json")[1])["estimate"]["worst_pico"] / 1e12
    change(tmp_path, "[pace]", f"[budget]\nmonth = {worst * 1.2:.9f}\n[pace]")
    assert run()[0] == 0
    write(tmp_path / "in.jsonl", {"c": "three", "d": "four", "e": "five"})
    code, _, err = run()
    assert (code, "budget.month" in err) == (9, True)
    assert sent(standby_emulator) == 2


def test_a_run_that_was_left_is_finished_first(run: Command, standby_emulator: Emulator, tmp_path: Path) -> None:
    """7: its batch runs on; the next night takes its answers, and then sends what is new since."""
    change(tmp_path, "[pace]", "[pace]\nwait = '0s'")
    standby_emulator.script("*~/one$/=slow:1h")
    assert run()[0] == 7
    change(tmp_path, "wait = '0s'", "wait = ''")
    standby_emulator.advance(hours=2)
    write(tmp_path / "in.jsonl", {"a": "one", "b": "two", "c": "three"})
    code, out, _ = run()
    assert (code, "Run 1: 2 new of 2 rows." in out, "Run 2: 1 new of 3 rows." in out) == (0, True, True)
    assert (sent(standby_emulator), set(table(tmp_path / "out.parquet"))) == (3, {"a", "b", "c"})


def test_history_names_every_run(run: Command, tmp_path: Path) -> None:
    """Reports of all nights are kept, with what they cost."""
    run()
    run()
    write(tmp_path / "in.jsonl", {"c": "three"})
    run()
    found = json.loads(run("--history", "--json")[1])["runs"]
    assert [(one["number"], one["look"]["sent"], one["report"]["succeeded"]) for one in found] == [(2, 1, 1), (1, 2, 2)]
    assert all(one["cost_pico"] > 0 for one in found)
    assert "answered" in run("--history")[1]


def test_two_timers_exclude_each_other(run: Command, tmp_path: Path) -> None:
    """8: the second one says who is at work."""
    run()
    with contextlib.chdir(tmp_path):
        found = load(tmp_path / "labels.toml")
    with nightly.opened(found):
        code, _, err = run()
    assert (code, "in use by process" in err) == (8, True)


def test_an_output_that_is_gone_is_not_begun_anew(run: Command, tmp_path: Path) -> None:
    """Its answers were paid for: a person has to say what becomes of them."""
    run()
    (tmp_path / "out.parquet").unlink()
    code, _, err = run()
    assert (code, "is gone, with the answers to 2 rows" in err) == (8, True)


def test_answers_are_not_added_to_a_file_without_the_key(
    run: Command, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """That is found before anything is paid for."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY (SELECT 1 AS other) TO '{tmp_path / 'out.parquet'}' (FORMAT parquet)")
    code, _, err = run()
    assert (code, "has no column 'id'" in err, creates(standby_emulator)) == (8, True, [])


def test_another_id_is_refused(run: Command, tmp_path: Path) -> None:
    """Rows would all be new under other names."""
    run()
    change(tmp_path, 'id = "id"', 'id = "text"')
    code, _, err = run()
    assert (code, "rows were named by 'id' before" in err) == (8, True)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("prompt =", "promt =", "labels.toml: promt: there is no such key; did you mean prompt?"),
        ("file =", "flie =", "source.flie: there is no such key; did you mean file?"),
        ("poll = 0.02", 'poll = "x"', "pace.poll: expected float, got str"),
        ("poll = 0.02", "poll = 0", "pace.poll: must be above 0"),
        ('id = "id"', "", "id: name the column"),
        ('id = "id"', 'id = "nr"', "there is no column 'nr'"),
        ('prompt = "', 'prompt = "@nowhere', "@nowhere"),
        ("{{ text", "{{ txt", "there is no column 'txt'"),
        ("in.jsonl", "nowhere.jsonl", "there is no such file"),
        ("out.parquet", "out.xlsx", "output: out.xlsx: answers are added to"),
        ('output = "out.parquet"\n', "", "output: is missing"),
        ("[source]", "[source]\nsql = 'select 1'", "with one of file, files and sql"),
        ("[pace]", "[attach]\nwh = '${NOWHERE}'\n[pace]", "attach.wh: the variable NOWHERE is not set"),
        ("[pace]", "[pace]\nwait = 'long'", "pace.wait: write a number"),
        ("[pace]", "[pace", "line 10"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    run: Command, standby_emulator: Emulator, tmp_path: Path, before: str, after: str, words: str
) -> None:
    """2: one line names the key; nothing was sent."""
    change(tmp_path, before, after)
    code, _, err = run()
    assert (code, words in err, err.count("\n")) == (2, True, 1), err
    assert creates(standby_emulator) == []


def test_variables_stand_for_secrets_in_addresses_only(tmp_path: Path) -> None:
    """A prompt may hold any text."""
    (tmp_path / "x.toml").write_text(
        'id = "id"\noutput = "x.csv"\nmodel = "m"\nprompt = "costs ${WORD}"\nbase_url = "http://${HOST}:1"\n'
        '[source]\nsql = "select 1 as id"\n[attach]\nwh = "postgresql://u:${PASSWORD}@h/d"\n'
    )
    with contextlib.chdir(tmp_path):
        found = load(tmp_path / "x.toml", environ={"PASSWORD": "p", "HOST": "h"})
        with pytest.raises(BadInput, match="HOST"):
            load(tmp_path / "x.toml", environ={"PASSWORD": "p"})
    assert (found.attached["wh"], found.base_url) == ("postgresql://u:p@h/d", "http://h:1")
    assert found.spec.prompt == "costs ${WORD}"


def test_what_is_asked_has_the_same_hash_in_every_release() -> None:
    """Another hash would send and charge all rows of all users again."""
    source = Source(kind="sql", where="select 1")
    ask: dict[str, Any] = {"model": "m", "prompt": "{{ text }}", "system": "ä", "cache": "1h"}
    spec = Spec(source=source, output="x", schema={"type": "object"}, params={"temperature": 0.2}, **ask)
    params = Prompts(spec, ["text"]).params({"text": "ü"}, number=1)
    assert nightly.asked_of(params).hex() == "ef5e24f6f5c5bd4a28d449f14556c0e9"


def test_the_ledger_holds_no_text(run: Command, tmp_path: Path) -> None:
    """Rows and requests are hashes there."""
    write(tmp_path / "in.jsonl", {"a": "secret-text"})
    run()
    path = tmp_path / "out.parquet.nightly" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM answered").fetchone() == (1,)
        dump = "\n".join(database.iterdump())
    assert "secret" not in dump
    assert "Say" not in dump
    assert path.stat().st_mode & 0o077 == 0
