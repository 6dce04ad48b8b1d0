from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby import workload
from standby.testing import Emulator
from standby.workload import tables
from standby.workload.faults import BadInput, LocalState, OverBudget, WaitOver
from standby.workload.rows import given_place, spooled, spooled_async
from tests.workload.conftest import MODEL, creates, quick, read

ROWS = [{"id": f"doc-{n}", "text": f"text {n}"} for n in range(5)]


@pytest.fixture
def asked(service: workload.Service) -> dict[str, Any]:
    """What every call here asks."""
    return {"model": MODEL, "prompt": "Say {{ text }}", "service": service, "pace": quick()}


# -- a workload in one call


def test_rows_of_a_program_come_back_with_answers(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """The report counts them, the output holds them, and they can be walked over."""
    standby_emulator.script(*(f"*~/Say text {n}$/=say:number {n}" for n in range(5)))
    report = workload.run(ROWS, tmp_path / "out.parquet", id_column="id", **asked)
    assert (report["rows"], report["succeeded"], report["is_done"]) == (5, 5, True)
    expected = [(f"doc-{n}", f"text {n}", f"number {n}", "succeeded") for n in range(5)]
    written = read(tmp_path / "out.parquet")
    assert [(row["id"], row["text"], row["answer"], row["status"]) for row in written] == expected
    walked = list(workload.answered(tmp_path / "out.parquet"))
    assert [(row["id"], row["text"], row["answer"], row["status"]) for row in walked] == expected


def test_answers_can_be_walked_over_whatever_the_output(asked: dict[str, Any], tmp_path: Path) -> None:
    """They are read from the job, with their types."""
    workload.run([{"text": "x", "n": 7, "deep": {"a": [1]}}], tmp_path / "out.csv", **asked)
    row = next(workload.answered(tmp_path / "out.csv"))
    assert (row["n"], row["deep"], row["status"]) == (7, {"a": [1]}, "succeeded")


def test_a_file_will_do_for_rows(asked: dict[str, Any], tmp_path: Path) -> None:
    """As on the command line."""
    (tmp_path / "in.csv").write_text("text\nhello\n")
    report = workload.run(tmp_path / "in.csv", tmp_path / "out.parquet", **asked)
    assert report["succeeded"] == 1


def test_a_pydantic_model_says_what_answers_are(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Its fields are columns."""

    class Label(pydantic.BaseModel):
        label: str
        score: int

    standby_emulator.script('*=say:"{\\"label\\": \\"good\\", \\"score\\": 7}"')
    workload.run(["a", "b"], tmp_path / "out.parquet", schema=Label, **asked)
    assert [(row["label"], row["score"]) for row in read(tmp_path / "out.parquet")] == [("good", 7)] * 2


def test_the_same_call_again_sends_nothing(asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path) -> None:
    """Also with rows that come from a generator, and after the process is another one."""
    first = workload.run((row for row in ROWS), tmp_path / "out.parquet", **asked)
    again = workload.run(iter(ROWS), tmp_path / "out.parquet", **asked)
    assert again == first
    assert len(creates(standby_emulator)) == 1
    assert not list((tmp_path / "out.parquet.standby").glob("given-*"))


def test_other_rows_are_noticed(asked: dict[str, Any], tmp_path: Path) -> None:
    """The job belongs to what it was given."""
    workload.run(ROWS, tmp_path / "out.parquet", **asked)
    with pytest.raises(LocalState, match="the rows are not those that this job began with"):
        workload.run(ROWS[:-1], tmp_path / "out.parquet", **asked)
    with pytest.raises(LocalState, match="another workload"):
        workload.run(ROWS, tmp_path / "out.parquet", **{**asked, "prompt": "Sing {{ text }}"})


def test_rows_that_fail_in_the_middle_leave_nothing(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """All or nothing; the next call begins anew."""

    def broken() -> Iterator[Any]:
        yield from ROWS[:3]
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="is gone"):
        workload.run(broken(), tmp_path / "out.parquet", **asked)
    assert list((tmp_path / "out.parquet.standby").iterdir()) == []
    assert standby_emulator.requests == []
    assert workload.run(ROWS, tmp_path / "out.parquet", **asked)["succeeded"] == 5


def test_a_budget_binds(asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path) -> None:
    """Nothing is sent above it."""
    with pytest.raises(OverBudget, match="nothing was sent"):
        workload.run(ROWS, tmp_path / "out.parquet", max_cost="0.000001", **asked)
    assert creates(standby_emulator) == []
    assert workload.run(ROWS, tmp_path / "out.parquet", max_cost=1, **asked)["succeeded"] == 5


def test_waiting_may_end_before_the_batch(asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path) -> None:
    """The same call goes on with it."""
    standby_emulator.script("*=slow:1h")
    with pytest.raises(WaitOver):
        workload.run(ROWS, tmp_path / "out.parquet", wait_s=0.1, **asked)
    standby_emulator.advance(hours=2)
    assert workload.run(ROWS, tmp_path / "out.parquet", **asked)["succeeded"] == 5
    assert len(creates(standby_emulator)) == 1


# -- the same, asynchronously


async def test_an_asynchronous_program_is_not_held_up(asked: dict[str, Any], tmp_path: Path) -> None:
    """Rows may be waited for, and others run beside them; progress is told in the event loop."""
    ticks: list[workload.View] = []
    loop = asyncio.get_running_loop()

    async def rows() -> AsyncIterator[dict[str, str]]:
        for row in ROWS:
            await asyncio.sleep(0)
            yield row

    def say(view: workload.View) -> None:
        assert asyncio.get_running_loop() is loop
        ticks.append(view)

    one, other = await asyncio.gather(
        workload.arun(rows(), tmp_path / "one.parquet", say=say, **asked),
        workload.arun(ROWS, tmp_path / "other.parquet", **asked),
    )
    assert one["succeeded"] == other["succeeded"] == 5
    assert ticks
    walked = [row async for row in workload.aanswered(tmp_path / "one.parquet")]
    assert [row["id"] for row in walked] == [row["id"] for row in ROWS]


async def test_asynchronous_and_other_rows_are_the_same_job(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """Who changes the program does not pay again."""
    workload.run(ROWS, tmp_path / "out.parquet", **asked)
    await workload.arun(ROWS, tmp_path / "out.parquet", **asked)
    assert len(creates(standby_emulator)) == 1


async def test_a_canceled_coroutine_leaves_a_job_that_goes_on(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """It lets go of the job before it ends, and cancels no batch."""
    standby_emulator.script("*=slow:1h")
    waits = asyncio.Event()

    def say(view: workload.View) -> None:
        if view.parts.get("submitted"):
            waits.set()

    hourly: dict[str, Any] = {**asked, "pace": quick(first_poll_s=3600.0)}
    task = asyncio.create_task(workload.arun(ROWS, tmp_path / "out.parquet", say=say, **hourly))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(standby_emulator.advance, hours=2)
    report = await workload.arun(ROWS, tmp_path / "out.parquet", **asked)
    assert report["succeeded"] == 5
    assert len(creates(standby_emulator)) == 1
    assert not [one for one in standby_emulator.requests if one.operation == "cancel"]


async def test_a_timeout_of_the_program_holds_while_rows_are_read(
    asked: dict[str, Any], standby_emulator: Emulator, tmp_path: Path
) -> None:
    """A source without an end does not keep the coroutine."""

    def endless() -> Iterator[str]:
        while True:
            yield "again"

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await workload.arun(endless(), tmp_path / "out.parquet", **asked)
    assert list((tmp_path / "out.parquet.standby").iterdir()) == []
    assert standby_emulator.requests == []


# -- rows


@dataclasses.dataclass
class Document:
    """A row."""

    id: int
    text: str


class Struct(msgspec.Struct):
    """A row."""

    id: int
    text: str


class Model(pydantic.BaseModel):
    """A row."""

    id: int
    text: str


class Tuple(NamedTuple):
    """A row."""

    id: int
    text: str


@pytest.mark.parametrize("kind", [dict, Document, Struct, Model, Tuple])
def test_any_kind_of_row_is_the_same(kind: Any, tmp_path: Path) -> None:
    """What matters is what it holds."""
    expected = spooled([{"id": 1, "text": "x"}, {"id": 2, "text": "y"}], tmp_path)
    assert spooled([kind(id=1, text="x"), kind(id=2, text="y")], tmp_path) == expected


def back(rows: list[Any], folder: Path) -> list[dict[str, Any]]:
    """Write rows and read what a prompt would see."""
    return list(tables.rows_of(given_place(folder, spooled(rows, folder)), scratch=folder))


class Color(enum.Enum):
    """A value."""

    RED = "red"


def test_values_keep_what_they_are(tmp_path: Path) -> None:
    """Nothing is guessed from how a text looks, and nothing is rounded."""
    row = {
        "digits": "007",
        "looks_like_a_date": "2024-01-01",
        "whole": 2**62 + 1,
        "huge": 10**30,
        "half": 0.5,
        "yes": True,
        "none": None,
        "moment": dt.datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 - the case
        "zoned": dt.datetime(2024, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        "day": dt.date(2024, 1, 2),
        "price": decimal.Decimal("1.10"),
        "uuid": uuid.UUID(int=1),
        "color": Color.RED,
        "bytes": b"\x00\xff",
        "nested": {"b": [1, None], "a": "x"},
        "path": Path("a/b"),
        "deep": Document(id=1, text="x"),
    }
    assert back([row], tmp_path) == [
        {
            "digits": "007",
            "looks_like_a_date": "2024-01-01",
            "whole": 2**62 + 1,
            "huge": str(10**30),
            "half": 0.5,
            "yes": True,
            "none": None,
            "moment": "2024-01-02 03:04:05.000006",
            "zoned": "2024-01-02 01:00:00+00",
            "day": "2024-01-02",
            "price": "1.10",
            "uuid": "00000000-0000-0000-0000-000000000001",
            "color": "red",
            "bytes": "data:;base64,AP8=",
            "nested": {"b": [1, None], "a": "x"},
            "path": "a/b",
            "deep": {"id": 1, "text": "x"},
        }
    ]


def test_a_column_of_several_kinds_keeps_them(tmp_path: Path) -> None:
    """A column that only some rows have is empty in the others."""
    assert back([{"a": 1}, {"a": "one"}, {"b": 2}, {"b": 0.5}], tmp_path) == [
        {"a": 1, "b": None},
        {"a": "one", "b": None},
        {"a": None, "b": 2.0},
        {"a": None, "b": 0.5},
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there are no rows"),
        ([{"a": 1}, 17], "row 2: is a int"),
        ([{"a": 1}, {1: "a"}], "row 2: names of columns are texts"),
        ([{"a": object()}], "row 1: column 'a', a object, cannot be written"),
        ([{"a": 1, "A": 2}], "differ only in case"),
    ],
)
def test_what_is_no_row_is_named(rows: list[Any], words: str, tmp_path: Path) -> None:
    """By its number, and nothing is left behind."""
    with pytest.raises(BadInput, match=words):
        spooled(rows, tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_the_fingerprint_is_that_of_the_rows(tmp_path: Path) -> None:
    """Not of how they came, nor of the process; a set has no order."""

    async def rows() -> AsyncIterator[Any]:
        yield {"a": {"x", "y", "z"}}

    found = {await spooled_async(rows(), tmp_path), spooled([{"a": {"z", "y", "x"}}], tmp_path)}
    code = (
        "import sys, pathlib; from standby.workload.rows import spooled; "
        "print(spooled([{'a': {'y', 'z', 'x'}}], pathlib.Path(sys.argv[1])))"
    )
    other = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found == {other.stdout.strip()}


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(st.lists(st.fixed_dictionaries({"a": NESTED, "b": st.text(), "c": VALUES}), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_rows_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    """Whatever they hold; whole numbers beside halves are numbers, and what no table holds is a text."""
    found = back(rows, tmp_path_factory.mktemp("rows"))
    assert [row["b"] for row in found] == [row["b"] for row in rows]
    for column in "ac":
        kinds = {type(row[column]) for row in rows if row[column] is not None}
        for row, again in zip(rows, found, strict=True):
            if kinds <= {str} or (kinds <= {int} and all(abs(r[column] or 0) < 2**63 for r in rows)):
                assert again[column] == row[column]
            elif kinds == {int}:
                assert row[column] is None or int(again[column]) == row[column]
