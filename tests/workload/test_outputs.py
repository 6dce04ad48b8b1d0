from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import destinations, tables
from standby.workload.columns import fields_of, fitted
from standby.workload.faults import BadInput, LocalState
from tests.workload.conftest import MODEL, Answer, creates, quick, read, write_rows

ODD = """
SELECT * FROM (VALUES
  (1::TINYINT, 2::UTINYINT, 170141183460469231731687303715884105::HUGEINT, 18446744073709551615::UBIGINT,
   1.10::DECIMAL(10, 2), DATE '2024-02-29', TIMESTAMP '2024-01-01 10:00:00.5', TIMESTAMPTZ '2024-01-01 10:00:00+02',
   TIME '10:00:00', INTERVAL 3 DAY, UUID '6f9619ff-8b86-d011-b42d-00cf4fc964ff', '\\xAA\\x00'::BLOB, [1, 2],
   {'a': 1, 'b c': 'x'}, MAP {'k': 1}, '{"j": [1]}'::JSON, true, 'NaN'::DOUBLE, 'ü 😀' || chr(1), 'mine', ''),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, NULL)
) t(tiny, utiny, huge, ubig, "de c", "day", stamp, zoned, clock, span, "uuid", raw, "list", "struct", "map", "json",
    flag, nan, "größe", "Answer", "sel""ect")
"""
"""Every type, names that have to be quoted, and a column called like one of ours."""


@pytest.fixture
def odd(service: workload.Service, tmp_path: Path) -> Callable[..., None]:
    """Run the odd rows into an output."""

    def run(output: str, attached: dict[str, str] | None = None) -> None:
        source = workload.Source(kind="sql", where=ODD)
        prompt = 'Say {{ größe }} {{ row["de c"] }} {{ list }} {{ struct }} {{ day }}.'
        to = output if attached else str(tmp_path / output)
        spec = workload.Spec(source=source, output=to, model=MODEL, prompt=prompt)
        with workload.opened_job(spec, endpoint=service.endpoint, folder=tmp_path / "job.standby") as job:
            workload.prepare_job(job, attached=attached)
            workload.run_job(job, service, pace=quick(), attached=attached)

    return run


def texts_of(source: str, attached: dict[str, str], folder: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Read a table as types and texts."""
    with tables.database(attached, scratch=folder) as connection:
        kinds = tables.types_of(connection, source)
        found = connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM {source}").fetchall()
    return kinds, [dict(zip(kinds, row, strict=True)) for row in found]


HUGE = "170141183460469231731687303715884105"
SAME = {
    "tiny": "1",
    "utiny": "2",
    "huge": HUGE,
    "ubig": "18446744073709551615",
    "de c": "1.10",
    "day": "2024-02-29",
    "clock": "10:00:00",
    "uuid": "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
    "raw": "\\xAA\\x00",
    "Answer": "mine",
}
"""What is the same everywhere, as text."""


@pytest.mark.parametrize("output", ["out.parquet", "wh.duckdb", "wh.db", "out.csv", "out.tsv"])
def test_values_of_every_type_come_back(odd: Callable[..., None], tmp_path: Path, output: str) -> None:
    """What a place has no type for is text there; nothing is rounded, and an empty value stays empty."""
    attached = {"wh": str(tmp_path / output)} if output.startswith("wh.") else {}
    odd("wh.answers" if attached else output, attached)
    source = "wh.answers" if attached else f"'{tmp_path / output}'"
    if output.endswith("sv"):
        source = f"read_csv({source}, all_varchar=true)"
    kinds, (full, empty) = texts_of(source, attached, tmp_path)
    assert {name: full[name] for name in SAME} == SAME
    assert full["struct"] in {"{'a': 1, 'b c': x}", '{"a":1,"b c":"x"}'}
    assert full["größe"] == "ü 😀\x01"
    assert (full["status"], empty["status"], empty["answer_answer"] is not None) == ("succeeded", "succeeded", True)
    assert [name for name in SAME if empty[name] is not None] == []
    if output in {"out.parquet", "wh.duckdb"}:
        assert (kinds["list"], kinds["day"], kinds["huge"]) == ("INTEGER[]", "DATE", "DECIMAL(38,0)")


@pytest.mark.parametrize("output", ["out.json", "out.jsonl"])
def test_json_is_json(odd: Callable[..., None], tmp_path: Path, output: str) -> None:
    """Lists and objects stay what they are, and what JSON cannot say (NaN) is null."""
    odd(output)
    text = (tmp_path / output).read_text()
    rows = json.loads(text) if output == "out.json" else [json.loads(line) for line in text.splitlines()]
    assert (rows[0]["list"], rows[0]["struct"], rows[0]["nan"]) == ([1, 2], {"a": 1, "b c": "x"}, None)
    assert (rows[0]["ubig"], rows[0]["json"]) == (18446744073709551615, {"j": [1]})


def test_a_sheet_opens(odd: Callable[..., None], tmp_path: Path) -> None:
    """It is whole XML, though a text holds what XML cannot say; numbers are numbers."""
    odd("out.xlsx")
    with zipfile.ZipFile(tmp_path / "out.xlsx") as archive:
        sheet = ET.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    name = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    rows = sheet.iter(f"{name}row")
    header, first, _ = [{str(cell.get("r")).rstrip("0123456789"): cell for cell in row} for row in rows]
    at = {cell.findtext(f".//{name}t"): column for column, cell in header.items()}
    assert first[at["größe"]].findtext(f".//{name}t") == "ü 😀\ufffd"
    assert first[at["de c"]].findtext(f"{name}v") == "1.1"
    assert at["nan"] not in first


def test_a_cell_that_excel_cannot_hold_is_told_and_the_answers_are_kept(
    answer: Answer, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Nothing is cut; the same job goes to another output."""
    source = write_rows(tmp_path / "in.jsonl", 1)
    source.write_text(json.dumps({"text": "x" * 40_000}))
    with pytest.raises(LocalState, match="'text': a cell of Excel holds 32,767 characters, and here are 40,000"):
        answer(source, output="out.xlsx")
    assert not (tmp_path / "out.xlsx").exists()
    with workload.opened(workload.folder_of(tmp_path / "out.xlsx")) as job:
        assert workload.write_job(job, output=str(tmp_path / "out.csv")) == 1
    assert len(creates(standby_emulator)) == 1


def test_an_output_that_is_there_is_replaced_only_by_a_whole_one(answer: Answer, tmp_path: Path) -> None:
    """The file of before stands until the new one does, and nothing is left beside it."""
    (tmp_path / "out.csv").write_text("old\n")
    with pytest.raises(BadInput):
        answer(2, output="out.csv", prompt="{{ nothing }}")
    assert (tmp_path / "out.csv").read_text() == "old\n"
    (tmp_path / "out.csv.standby" / "job.sqlite").unlink()
    _, rows = answer(2, output="out.csv")
    assert len(rows) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.txt", "its name does not say what it is"),
        ("folder.csv", "is a folder"),
        ("wh.answers.too.deep", "no table can be made there"),
        ("gone.answers", "its name does not say what it is"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_anything_is_sent(
    answer: Answer, standby_emulator: Emulator, tmp_path: Path, output: str, words: str
) -> None:
    """Nobody pays for answers that could not be written."""
    (tmp_path / "folder.csv").mkdir()
    attached = {"wh": str(tmp_path / "wh.db")} if output.startswith("wh.") else None
    with pytest.raises(BadInput, match=words):
        answer(2, output=output, attached=attached)
    assert standby_emulator.requests == []


def test_too_many_rows_for_a_sheet_are_told_first(tmp_path: Path) -> None:
    """A sheet ends at row 1,048,576."""
    with pytest.raises(BadInput, match="a sheet holds 1,048,575 rows, and these are 2,000,000"):
        destinations.check(str(tmp_path / "out.xlsx"), 2_000_000, attached={}, scratch=tmp_path)


def test_a_database_that_cannot_be_opened_keeps_its_password(answer: Answer, standby_emulator: Emulator) -> None:
    """The message names the flag, not the address."""
    with pytest.raises(BadInput, match="--attach wh: cannot be opened as postgres") as caught:
        answer(2, output="wh.answers", attached={"wh": "postgresql://me:secret@127.0.0.1:1/x"})
    assert "secret" not in str(caught.value)
    assert standby_emulator.requests == []


FULL = """
import resource, sys
from standby.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("most", [3_000, 20_000, 100_000, 200_000])
def test_a_full_disk_stops_a_job_that_goes_on_afterwards(standby_emulator: Emulator, tmp_path: Path, most: int) -> None:
    """Wherever writing stops, there is one line and exit code 8; with room the same command ends, and pays once."""
    text = "".join(json.dumps({"text": f"{n} " + "word " * 40}) + "\n" for n in range(400))
    (tmp_path / "in.jsonl").write_text(text)
    command = ["run", "in.jsonl", "-m", MODEL, "-p", "Say {{ text }}", "-o", "out.csv", "--poll", "0.02"]
    environ = {"ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": standby_emulator.url, "XDG_STATE_HOME": str(tmp_path)}
    full = [sys.executable, "-B", "-c", FULL, str(most), *command]
    done = subprocess.run(full, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (8, False), done.stderr
    assert not (tmp_path / "out.csv").exists()
    again = [sys.executable, "-m", "standby", *command]
    done = subprocess.run(again, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "out.csv")) == 400
    assert len(creates(standby_emulator)) == 1


SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {"Mood": {"enum": ["good", "bad"], "type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}},
    "properties": {
        "answer": {"type": "string"},
        "score": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "share": {"type": ["number", "null"]},
        "mood": {"$ref": "#/$defs/Mood"},
        "kind": {"enum": ["a", "b"]},
        "level": {"enum": ["a", 1]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "any": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "loop": {"$ref": "#/$defs/Loop"},
        "open": True,
    },
}


def test_a_schema_promises_columns() -> None:
    """Optional values, enums and classes of pydantic have their type; what may be several is JSON."""
    assert fields_of(SCHEMA) == {
        "answer": "VARCHAR",
        "score": "BIGINT",
        "share": "DOUBLE",
        "mood": "VARCHAR",
        "kind": "VARCHAR",
        "level": "JSON",
        "tags": "JSON",
        "any": "JSON",
        "loop": "JSON",
        "open": "JSON",
    }
    assert fields_of({"$ref": "#/$defs/M", "$defs": {"M": {"properties": {"a": {"type": "boolean"}}}}}) == {
        "a": "BOOLEAN"
    }
    assert fields_of(None) == {}


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (7.0, "BIGINT", 7),
        (7.5, "BIGINT", None),
        (True, "BIGINT", None),
        (2**63, "BIGINT", None),
        (-(2**63), "BIGINT", -(2**63)),
        ("7", "BIGINT", None),
        (1, "DOUBLE", 1),
        (True, "DOUBLE", None),
        (1, "VARCHAR", None),
        (0, "BOOLEAN", None),
        ([1], "JSON", [1]),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_left_out(value: Any, kind: str, found: Any) -> None:
    """It stands in the whole answer; a column with one odd value does not stop the others."""
    assert fitted(value, kind) == found


def test_columns_of_a_schema_beside_columns_of_the_rows(
    answer: Answer, standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Three columns want one name: the rows' keeps it, the others are told apart; odd integers do no harm."""
    properties = {"status": {"type": "string"}, "Score": {"type": "integer"}}
    said = json.dumps({"status": "fine", "Score": 1e30})
    standby_emulator.script(f"*=say:{json.dumps(said)}")
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": "x", "STATUS": "theirs", "score": 3}))
    _, rows = answer(source, schema={"type": "object", "properties": properties})
    assert [rows[0][name] for name in ("STATUS", "score", "answer_status", "answer_answer_status", "answer_Score")] == [
        "theirs",
        3,
        "fine",
        "succeeded",
        None,
    ]
    assert json.loads(rows[0]["answer"]) == {"status": "fine", "Score": 1e30}


def test_a_table_of_sqlite_replaces_the_one_of_before(answer: Answer, tmp_path: Path) -> None:
    """Other tables of the file stay."""
    path = tmp_path / "wh.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers AS SELECT 1 AS old")
        database.execute("CREATE TABLE other AS SELECT 1 AS old")
    database.close()
    answer(2, output="wh.answers", attached={"wh": str(path)})
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT status FROM answers").fetchall() == [("succeeded",)] * 2
        assert database.execute("SELECT * FROM other").fetchall() == [(1,)]
    database.close()
