from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import tables
from standby.workload.faults import BadInput
from tests.workload.conftest import MODEL, Answer

ROWS = [{"id": f"doc-{n}", "text": f'text {n}: "ü", 1;2\nnext'} for n in range(4)]
Made = tuple[workload.Source, dict[str, str]]


def a_file(path: Path, **more: Any) -> Made:
    """Name a file as a source."""
    return workload.Source(kind="file", where=str(path), **more), {}


def jsonl(folder: Path) -> Made:
    """One object a line."""
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return a_file(path)


def json_list(folder: Path) -> Made:
    """One list of objects."""
    path = folder / "in.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=1))
    return a_file(path)


def delimited(name: str, delimiter: str, encoding: str = "utf-8") -> Callable[[Path], Made]:
    """Texts with quotes, delimiters and line ends, as spreadsheets write them."""

    def make(folder: Path) -> Made:
        path = folder / name
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        return a_file(path)

    return make


def copied(name: str, options: str, extension: str = "") -> Callable[[Path], Made]:
    """Whatever DuckDB writes."""

    def make(folder: Path) -> Made:
        jsonl(folder)
        with tables.database(scratch=folder) as connection:
            if extension:
                tables.load(connection, extension)
            connection.execute(f"COPY (FROM '{folder}/in.jsonl') TO '{folder}/{name}' ({options})")
        return a_file(folder / name)

    return make


def files(folder: Path) -> Made:
    """One file a row; what is hidden or not asked for stays out."""
    place = folder / "letters"
    (place / "deep").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (place / ("deep" if number % 2 else ".") / f"{row['id']}.txt").write_text(row["text"])
    (place / ".hidden.txt").write_text("no")
    (place / "other.md").write_text("no")
    query = f"SELECT parse_filename(path, true) AS id, text FROM '{folder}/files.parquet' ORDER BY id"
    tables.freeze(
        workload.Source(kind="files", where=str(place), glob="**/*.txt"), folder / "files.parquet", attached={}
    )
    return workload.Source(kind="sql", where=query), {}


def sql(folder: Path) -> Made:
    """A query over a file that lies there."""
    jsonl(folder)
    return workload.Source(kind="sql", where=f"SELECT id, text FROM '{folder}/in.jsonl' WHERE id != 'x';\n"), {}


def sql_over_excel(folder: Path) -> Made:
    """A query over a sheet, whose extension comes as a package."""
    copied("in.xlsx", "FORMAT xlsx, HEADER true", "xlsx")(folder)
    return workload.Source(kind="sql", where=f"SELECT * FROM '{folder}/in.xlsx'"), {}


def of_sqlite(folder: Path) -> Made:
    """A table of SQLite."""
    path = folder / "wh.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE docs (id TEXT, text TEXT)")
        database.executemany("INSERT INTO docs VALUES (:id, :text)", ROWS)
    database.close()
    return workload.Source(kind="sql", where="FROM wh.docs ORDER BY id", attached=("wh",)), {"wh": str(path)}


def of_duckdb(folder: Path) -> Made:
    """A table of a DuckDB file, and a database beside it that the query does not name and that is not there yet."""
    path = folder / "wh.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE TABLE docs (id VARCHAR, text VARCHAR)")
        database.executemany("INSERT INTO docs VALUES ($id, $text)", ROWS)
    attached = {"wh": str(path), "later": str(folder / "later.duckdb")}
    return workload.Source(kind="sql", where="FROM wh.docs ORDER BY id", attached=("wh",)), attached


INPUTS = {
    "jsonl": jsonl,
    "json": json_list,
    "csv": delimited("in.csv", ","),
    "csv with a mark": delimited("in.csv", ",", "utf-8-sig"),
    "csv of 16 bits": delimited("in.csv", ",", "utf-16"),
    "csv with semicolons": delimited("in.csv", ";"),
    "tsv": delimited("in.tsv", "\t"),
    "parquet": copied("in.parquet", "FORMAT parquet"),
    "xlsx": copied("in.xlsx", "FORMAT xlsx, HEADER true", "xlsx"),
    "csv.gz": copied("in.csv.gz", "FORMAT csv, HEADER true"),
    "files": files,
    "sql": sql,
    "sql over excel": sql_over_excel,
    "sqlite": of_sqlite,
    "duckdb": of_duckdb,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_rows_come_from_anywhere(answer: Answer, standby_emulator: Emulator, tmp_path: Path, kind: str) -> None:
    """The same rows, wherever they lie, are asked for and come back as they were, each with its own answer."""
    standby_emulator.script(*(f"*~/ask text {n}:/=say:number {n}" for n in range(4)))
    source, attached = INPUTS[kind](tmp_path)
    ask: dict[str, Any] = {"id_column": "id", "prompt": "ask {{ text }}"}
    if attached:
        attached["out"] = str(tmp_path / "out.duckdb")
        answer(source, output="out.answers", attached=attached, **ask)
        found = read_table(tmp_path / "out.duckdb", "answers")
    else:
        _, found = answer(source, **ask)
    assert [{name: row[name] for name in ("id", "text")} for row in found] == ROWS
    assert [row["answer"] for row in found] == [f"number {n}" for n in range(4)]


def read_table(path: Path, table: str) -> list[dict[str, Any]]:
    """Read a table of a DuckDB file."""
    with duckdb.connect(str(path)) as database:
        found = database.sql(f"FROM {table}")
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def test_rows_of_postgresql_and_answers_into_it(answer: Answer, postgresql: str, tmp_path: Path) -> None:
    """A query reads a table there; the answers become another, in a schema, in place of an earlier one."""
    attached = {"wh": postgresql}
    with tables.database(attached, scratch=tmp_path) as connection:
        connection.execute("CREATE SCHEMA wh.night")
        connection.execute("CREATE TABLE wh.night.answers AS SELECT 1 AS old")
        connection.execute("CREATE TABLE wh.docs (id VARCHAR, text VARCHAR, day DATE, price DECIMAL(10, 2), raw BLOB)")
        connection.execute(
            "INSERT INTO wh.docs VALUES ('a', 'one\nü', '2024-02-29', 1.1, '\\x00\\xFF'), ('b', NULL, NULL, NULL, NULL)"
        )
    source = workload.Source(kind="sql", where="FROM wh.docs ORDER BY id", attached=("wh",))
    answer(source, output="wh.night.answers", attached=attached, id_column="id", prompt="Say {{ text }} of {{ day }}")
    with tables.database(attached, scratch=tmp_path) as connection:
        kinds = tables.types_of(connection, "wh.night.answers")
        found = connection.execute(
            "SELECT id, text, day::VARCHAR, price::VARCHAR, raw, status FROM wh.night.answers ORDER BY id"
        ).fetchall()
    assert found == [
        ("a", "one\nü", "2024-02-29", "1.10", b"\x00\xff", "succeeded"),
        ("b", None, None, None, None, "succeeded"),
    ]
    assert (kinds["price"], kinds["day"], kinds["input_tokens"]) == ("DECIMAL(10,2)", "DATE", "BIGINT")


def test_a_table_that_cannot_be_replaced_is_told_before_anything_is_sent(
    answer: Answer, standby_emulator: Emulator, postgresql: str, tmp_path: Path
) -> None:
    """A view needs the old table: nobody pays for answers that could not be written."""
    with tables.database({"wh": postgresql}, scratch=tmp_path) as connection:
        connection.execute("CREATE TABLE wh.kept AS SELECT 1 AS old")
        connection.execute("CALL postgres_execute('wh', 'CREATE VIEW on_kept AS SELECT * FROM kept')")
    with pytest.raises(BadInput, match="other objects depend on it"):
        answer(3, output="wh.kept", attached={"wh": postgresql})
    assert standby_emulator.requests == []


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_come_through_a_pipe(answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str) -> None:
    """Standard input is read once and kept."""
    INPUTS[form](tmp_path)
    data = (tmp_path / f"in.{form}").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    _, found = answer(workload.Source(kind="stdin", format=form), id_column="id")
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]


CONVERSATION = [
    {"role": "user", "content": "My name is Ü."},
    {"role": "assistant", "content": "Hello Ü."},
    {"role": "user", "content": "What is my name?"},
]
BODY = {"model": MODEL, "max_tokens": 99, "messages": CONVERSATION}


def claude_line(key: str) -> dict[str, Any]:
    """A request of Claude's."""
    return {"custom_id": key, "params": BODY}


def openai_line(key: str) -> dict[str, Any]:
    """A request of OpenAI's."""
    return {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": BODY}


@pytest.mark.parametrize("make", [claude_line, openai_line])
def test_ready_requests_are_sent_as_they_are(answer: Answer, tmp_path: Path, make: Callable[[str], Any]) -> None:
    """Turns of a conversation, a mark at the beginning, empty lines and CRLF do no harm; a table can be asked for."""
    path = tmp_path / "requests.jsonl"
    lines = "\r\n\r\n".join(json.dumps(make(key), ensure_ascii=False) for key in ("a", "ключ"))
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    _, found = answer(workload.Source(kind="native", where=str(path)), prompt="", model="")
    assert [(row["custom_id"], row["status"]) for row in found] == [("a", "succeeded"), ("ключ", "succeeded")]
    body = json.loads((tmp_path / "out.parquet.standby" / "part-0001.json").read_bytes())
    assert [one["params"]["messages"] for one in body["requests"]] == [CONVERSATION, CONVERSATION]
