from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx2
import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import tables
from standby.workload.faults import BadInput, LocalState, NoAccess, Refused, Unavailable
from standby.workload.parts import Canary, Limits
from tests.workload.conftest import MODEL, Answer, creates, quick, read, small, write_rows


def test_rows_come_back_joined_to_their_answers(answer: Answer) -> None:
    """Every row has its own columns, in its order, and an answer beside them."""
    report, rows = answer(25, id_column="id", pace=small(10))
    assert [row["id"] for row in rows] == [f"doc-{n}" for n in range(25)]
    assert all(row["status"] == "succeeded" and row["answer"] and row["cost_usd"] > 0 for row in rows)
    assert (report["rows"], report["succeeded"], report["failed"]) == (25, 25, {})
    assert [part["items"] for part in report["parts"]] == [10, 10, 5]


def test_the_answer_is_that_of_its_row(answer: Answer, standby_emulator: Emulator) -> None:
    """Answers that come in any order find their rows."""
    standby_emulator.script(*(f"*~/Say text {n}$/=say:number {n}" for n in range(12)))
    _, rows = answer(12, pace=small(5))
    assert [row["answer"] for row in rows] == [f"number {n}" for n in range(12)]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "xlsx", "json"])
def test_rows_may_lie_in_any_file(answer: Answer, tmp_path: Path, form: str) -> None:
    """The form is known by the name of the file."""
    source = tmp_path / f"in.{form}"
    with tables.database(scratch=tmp_path) as connection:
        if form == "xlsx":
            tables.load(connection, "xlsx")
        options = {"csv": "HEADER", "tsv": "FORMAT csv, HEADER, DELIMITER '\t'", "parquet": "FORMAT parquet"}
        options |= {"xlsx": "FORMAT xlsx, HEADER true", "json": "FORMAT json, ARRAY true"}
        query = "SELECT 'doc-' || i AS id, 'text ü ' || i AS text FROM range(3) r(i)"
        connection.execute(f"COPY ({query}) TO '{source}' ({options[form]})")
    _, rows = answer(source, id_column="id")
    assert [(row["id"], row["text"], row["status"]) for row in rows] == [
        (f"doc-{n}", f"text ü {n}", "succeeded") for n in range(3)
    ]


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet"])
def test_answers_go_to_any_file(answer: Answer, output: str) -> None:
    """The form is known by the name of the output."""
    _, rows = answer(3, output=output)
    assert [(row["id"], row["status"]) for row in rows] == [(f"doc-{n}", "succeeded") for n in range(3)]


def test_rows_of_a_database_and_answers_into_it(answer: Answer, tmp_path: Path) -> None:
    """A query reads SQLite; the answers become a table beside the one that was read."""
    path = tmp_path / "wh.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE docs (id INTEGER, text TEXT)")
        database.executemany("INSERT INTO docs VALUES (?, ?)", [(n, f"text {n}") for n in range(5)])
    source = workload.Source(kind="sql", where="SELECT * FROM wh.docs WHERE id > 1 ORDER BY id", attached=("wh",))
    answer(source, output="wh.answers", attached={"wh": str(path)}, id_column="id")
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT id, text, status, answer IS NOT NULL FROM answers ORDER BY id").fetchall()
    assert found == [(n, f"text {n}", "succeeded", 1) for n in range(2, 5)]


def test_a_folder_of_files_is_one_row_a_file(answer: Answer, tmp_path: Path) -> None:
    """Text files can be named in the prompt by `text`, any file by `path`."""
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("alpha")
    (folder / "deep" / "b.txt").write_text("beta")
    (folder / "c.bin").write_bytes(b"\xff\xfe\x00")
    source = workload.Source(kind="files", where=str(folder), glob="**/*.txt")
    _, rows = answer(source, prompt="{{ name }}: {{ text }}", id_column="path")
    assert [(row["name"], row["text"]) for row in rows] == [("a.txt", "alpha"), ("b.txt", "beta")]


def test_images_and_pdfs_go_along(answer: Answer, tmp_path: Path) -> None:
    """An attachment becomes a block before the text, by what the file is and not by its name."""
    (tmp_path / "a.dat").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    (tmp_path / "b.dat").write_bytes(b"%PDF-1.4 " + b"0" * 40)
    source = tmp_path / "in.csv"
    source.write_text(f"path\n{tmp_path}/a.dat\n{tmp_path}/b.dat\n")
    answer(source, prompt="What is this?", attachments=("{{ path }}",))
    body = (tmp_path / "out.parquet.standby" / "part-0001.json").read_text()
    blocks = [one["params"]["messages"][0]["content"][0] for one in json.loads(body)["requests"]]
    assert [(block["type"], block["source"]["media_type"]) for block in blocks] == [
        ("image", "image/png"),
        ("document", "application/pdf"),
    ]


SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["good", "bad"]}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


def test_structured_answers_are_validated_and_become_columns(answer: Answer, standby_emulator: Emulator) -> None:
    """A promised property is a column with its type; an answer against the schema is no success."""
    standby_emulator.script('*~"text 0"=say:"{\\"label\\": \\"good\\", \\"score\\": 7}"', '*~"text 1"=say:"[]"')
    report, rows = answer(2, schema=SCHEMA)
    assert [(row["label"], row["score"], row["status"]) for row in rows] == [
        ("good", 7, "succeeded"),
        (None, None, "schema"),
    ]
    assert report["failed"] == {"schema": 1}


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"])
def test_an_answer_that_was_cut_or_refused_is_no_success(
    answer: Answer, standby_emulator: Emulator, reason: str
) -> None:
    """Its text comes along, but its status says what happened, and it is not asked for again."""
    standby_emulator.script(f'*~"text 1"=stop:{reason}')
    report, rows = answer(3)
    assert [row["status"] for row in rows] == ["succeeded", reason, "succeeded"]
    assert report["failed"] == {reason: 1}
    assert len(report["parts"]) == 1


def test_claude_lines_come_back_as_claude_lines(answer: Answer, tmp_path: Path) -> None:
    """Keys of any length and script come back as they were."""
    keys = ["a", "ключ", "x" * 65, "with space"]
    params = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    source = tmp_path / "requests.jsonl"
    source.write_text("".join(json.dumps({"custom_id": key, "params": params}) + "\n" for key in keys))
    answer(source, output="results.jsonl", prompt="", model="")
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == keys
    assert all(line["result"]["message"]["model"].startswith(MODEL) for line in lines)


def test_openai_lines_come_back_as_openai_lines(answer: Answer, tmp_path: Path) -> None:
    """A program that reads an OpenAI output file reads this one."""
    body = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source = tmp_path / "requests.jsonl"
    source.write_text(json.dumps(line) + "\n")
    answer(source, output="results.jsonl", prompt="", model="")
    found = json.loads((tmp_path / "results.jsonl").read_text())
    assert found["custom_id"] == "a"
    assert found["response"]["body"]["choices"][0]["message"]["content"]
    assert found["error"] is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"prompt": "{{ txt }}"}, "there is no column 'txt'"),
        ({"prompt": "{{ text"}, "--prompt"),
        ({"id_column": "nr"}, "there is no column 'nr'"),
        ({"schema": {"type": "nonsense"}}, "--schema"),
        ({"attachments": ("/nowhere/{{ id }}.png",)}, "row 1: the attachment cannot be read"),
        ({"prompt": "  "}, "row 1: the prompt is empty"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_sent(
    answer: Answer, standby_emulator: Emulator, spec: dict[str, Any], words: str
) -> None:
    """The message names it, and the service has heard nothing."""
    with pytest.raises(BadInput, match=words):
        answer(3, **spec)
    assert standby_emulator.requests == []


def test_a_key_that_stands_twice_is_refused(answer: Answer, tmp_path: Path) -> None:
    """A key names one row."""
    source = tmp_path / "in.csv"
    source.write_text("id,text\na,1\nb,2\na,3\n")
    with pytest.raises(BadInput, match="row 3: the key 'a' stands twice"):
        answer(source, id_column="id")


def test_one_row_above_the_limit_is_refused(answer: Answer) -> None:
    """No batch could hold it."""
    with pytest.raises(BadInput, match="row 1: makes a request of"):
        answer(3, pace=quick(limits=Limits(bytes=100)))


def test_the_same_command_again_sends_nothing(answer: Answer, standby_emulator: Emulator) -> None:
    """A job that is done answers from its files."""
    first, _ = answer(5)
    again, _ = answer(5)
    assert again == first
    assert len(creates(standby_emulator)) == 1


def test_another_workload_does_not_take_the_output(answer: Answer) -> None:
    """The state of a job belongs to its prompt, rows and model."""
    answer(3)
    with pytest.raises(LocalState, match="another workload"):
        answer(3, prompt="Other {{ text }}")


def test_a_job_does_not_go_on_elsewhere(answer: Answer, tmp_path: Path, service: workload.Service) -> None:
    """Its batches are known only where they were made."""
    answer(3)
    with workload.opened(workload.folder_of(tmp_path / "out.parquet")) as job:
        job.note(endpoint="http://elsewhere")
        with pytest.raises(LocalState, match="runs on http://elsewhere"):
            workload.run_job(job, service)


def test_two_processes_exclude_each_other(answer: Answer, tmp_path: Path) -> None:
    """The second one says who has it."""
    answer(3)
    folder = workload.folder_of(tmp_path / "out.parquet")
    with workload.opened(folder), pytest.raises(LocalState, match="in use by process"), workload.opened(folder):
        pass


def test_a_newer_state_file_is_refused(answer: Answer, tmp_path: Path) -> None:
    """An older program does not guess what a newer one wrote."""
    answer(3)
    folder = workload.folder_of(tmp_path / "out.parquet")
    database = sqlite3.connect(folder / "job.sqlite")
    database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(LocalState, match="newer Standby"), workload.opened(folder):
        pass


def test_state_is_for_its_owner_only(answer: Answer, tmp_path: Path) -> None:
    """Rows and answers are nobody else's business."""
    answer(3)
    folder = workload.folder_of(tmp_path / "out.parquet")
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "job.sqlite").stat().st_mode & 0o077 == 0


def test_the_cost_is_the_servers_own(answer: Answer, standby_emulator: Emulator, service: workload.Service) -> None:
    """The report adds up to what the service charged, to the pico-dollar."""
    report, _ = answer(30, pace=small(7), system="You are terse. " * 2000, cache="1h")
    charged = 0
    for batch in creates(standby_emulator):
        charged += service._client.get(f"/standby/v1/batches/{batch}/cost", cast_to=httpx2.Response).json()["cost_pico"]
    assert report["cost"]["charged_pico"] == charged
    assert report["tokens"]["cache_read"] + report["tokens"]["cache_write_1h"] > 0


def test_a_wrong_key_says_so(tmp_path: Path, standby_emulator: Emulator, answer: Answer) -> None:
    """401 is no row's fault: nothing is lost, and the same command goes on."""
    standby_emulator.fault("create=401+times:1")
    with pytest.raises(NoAccess, match="credentials"):
        answer(3)
    report, _ = answer(3)
    assert report["succeeded"] == 3


def test_an_unreachable_service_is_waited_for_and_then_named(answer: Answer, standby_emulator: Emulator) -> None:
    """Patience ends; the job goes on later."""
    standby_emulator.fault("list=503")
    with pytest.raises(Unavailable, match="503"):
        answer(3, pace=quick(patience_s=0.2))
    standby_emulator.reset()
    report, _ = answer(3)
    assert report["succeeded"] == 3


def test_the_line_stops_when_all_rows_fail_alike(answer: Answer, standby_emulator: Emulator) -> None:
    """What would fail in every part is not sent in every part."""
    standby_emulator.script("*=errored:invalid_request_error")
    with pytest.raises(Refused, match="10 of 10 rows of part 1 failed with invalid_request_error"):
        answer(30, pace=small(20, canary=Canary(items=10, above=20)))
    assert len(creates(standby_emulator)) == 1


def test_read_is_what_was_written(tmp_path: Path) -> None:
    """The reader of these tests sees what is there."""
    assert read(write_rows(tmp_path / "x.jsonl", 2))[1] == {"id": "doc-1", "text": "text 1"}
