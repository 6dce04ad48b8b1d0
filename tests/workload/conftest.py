"""A service, a folder, and jobs that do not wait."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import structlog

from standby import workload
from standby.cli import main
from standby.testing import Emulator, emulator
from standby.workload.parts import Limits
from tests.workload.postgres import postgres

MODEL = "claude-haiku-4-5"
QUICK: dict[str, Any] = {
    "first_poll_s": 0.02,
    "settle_s": 0.1,
    "look_s": 0.02,
    "queue_s": 0.02,
    "patience_s": 2.0,
    "download_pause_s": 0.02,
}


def quick(**other: Any) -> workload.Pace:
    """Be patient for moments only."""
    return workload.Pace(**{**QUICK, **other})


def small(items: int, **other: Any) -> workload.Pace:
    """Make parts of so many items."""
    return quick(limits=Limits(items=items), **other)


def read(path: Path | str) -> list[dict[str, Any]]:
    """Read a table that was written, whatever it is."""
    with duckdb.connect(":memory:") as connection:
        found = connection.sql(f"SELECT * FROM '{path}'")
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def write_rows(path: Path, count: int) -> Path:
    """Write rows of JSON: id, text."""
    path.write_text("".join(json.dumps({"id": f"doc-{n}", "text": f"text {n}"}) + "\n" for n in range(count)))
    return path


def creates(emulator: Emulator) -> list[str]:
    """Name the batches that were made, each once."""
    return list(dict.fromkeys(one.batch_id for one in emulator.requests if one.operation == "create" and one.batch_id))


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered between jobs lies in a folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def workload_server() -> Iterator[Emulator]:
    """One emulator for all tests of this folder; an SDK's prices and words, simulated answers."""
    structlog.reset_defaults()  # what tests before chose for their logs is not what commands print
    with emulator() as running:
        yield running


@pytest.fixture
def standby_emulator(workload_server: Emulator) -> Iterator[Emulator]:
    """The emulator as if it had just been started."""
    workload_server.reset()
    yield workload_server
    workload_server.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL for all tests of this folder: its address."""
    with postgres() as address:
        yield address


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    standby_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run one command against the emulator; return its code, standard output and standard error."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", standby_emulator.api_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", standby_emulator.url)
    monkeypatch.chdir(tmp_path)

    def once(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return once


Answered = tuple[dict[str, Any], list[dict[str, Any]]]
Answer = Callable[..., Answered]


@pytest.fixture
def service(standby_emulator: Emulator) -> workload.Service:
    """The emulator as a workload sees it."""
    return workload.Service(standby_emulator.client())


@pytest.fixture
def answer(service: workload.Service, tmp_path: Path) -> Answer:
    """Run a workload from beginning to end; return its report and its table."""

    def once(
        source: Path | workload.Source | int = 3,
        *,
        output: str = "out.parquet",
        pace: workload.Pace | None = None,
        attached: dict[str, str] | None = None,
        **spec: Any,
    ) -> Answered:
        if isinstance(source, int):
            source = write_rows(tmp_path / "in.jsonl", source)
        if isinstance(source, Path):
            source = workload.Source(kind="file", where=str(source))
        given: dict[str, Any] = {"model": MODEL, "prompt": "Say {{ text }}", "output": str(tmp_path / output), **spec}
        if attached:
            given["output"] = output
        wanted = workload.Spec(source=source, **given)
        with workload.opened_job(
            wanted, endpoint=service.endpoint, folder=workload.folder_of(tmp_path / output)
        ) as job:
            workload.prepare_job(job, pace=pace or quick(), attached=attached)
            report = workload.run_job(job, service, pace=pace or quick(), attached=attached)
        return report, read(tmp_path / output) if not attached and output.endswith(("parquet", "csv", "jsonl")) else []

    return once
