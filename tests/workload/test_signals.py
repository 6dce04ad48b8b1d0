"""Ctrl-C and SIGTERM in every phase of a real process: it says how to go on, and the same command ends the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from standby.testing import Emulator
from standby.workload.faults import LocalState
from standby.workload.jobfile import looked_at
from standby.workload.states import PartState
from tests.workload.conftest import MODEL, creates, read, write_rows

LONGEST_S = 120.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
AT_DOOR = """
import pathlib, sys, time
from standby import doors

name, mark, cleaning, *arguments = sys.argv[1:]

def stand(passed):
    if passed == name and not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        try:
            time.sleep(600)
        finally:
            if cleaning:
                pathlib.Path(cleaning).touch()
                time.sleep(600)

doors.listener = stand
from standby.cli import main
sys.exit(main(arguments))
"""
"""A command that stands still at a door; it also shows what a second signal does while the first one cleans up."""


@dataclass
class Stage:
    """A folder with rows, and the service."""

    folder: Path
    emulator: Emulator
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def job(self) -> Path:
        """The folder of the job."""
        return self.folder / "out.csv.standby"

    def command(self, *source: str) -> list[str]:
        """Write the command on a workload."""
        ask = ["-m", MODEL, "-p", "Say {{ text }}", "-o", "out.csv", "--poll", "0.05", "--settle", "5"]
        return ["run", *(source or ("in.jsonl",)), *ask, "--no-estimate"]

    def start(self, arguments: list[str], *, program: tuple[str, ...] = ("-m", "standby")) -> subprocess.Popen[str]:
        """Start a process in the folder."""
        variables = {
            **os.environ,
            "ANTHROPIC_API_KEY": self.emulator.api_key,
            "ANTHROPIC_BASE_URL": self.emulator.url,
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=variables,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def at_door(self, name: str, *, cleaning: str = "") -> subprocess.Popen[str]:
        """Start the command, and wait until it stands at a door."""
        process = self.start([name, "mark", cleaning, *self.command()], program=("-c", AT_DOOR))
        self.until(process, (self.folder / "mark").exists)
        return process

    def until(self, process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
        """Wait until something is so while a process runs."""
        end = time.monotonic() + LONGEST_S
        while not is_so():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "never came there"
            time.sleep(0.02)

    def is_part(self, state: PartState) -> bool:
        """Whether the part of the job is in a state."""
        try:
            with looked_at(self.job) as job:
                return any(part.state is state for part in job.parts())
        except LocalState:
            return False

    def ends(self) -> None:
        """The same command ends the job, and nothing was paid twice."""
        process = self.start(self.command())
        _, said = process.communicate(timeout=LONGEST_S)
        assert process.returncode == 0, said
        assert [row["status"] for row in read(self.folder / "out.csv")] == ["succeeded"] * 4
        assert len(creates(self.emulator)) == 1


@pytest.fixture
def stage(standby_emulator: Emulator, tmp_path: Path) -> Iterator[Stage]:
    """No process is left behind."""
    write_rows(tmp_path / "in.jsonl", 4)
    stage = Stage(folder=tmp_path, emulator=standby_emulator)
    yield stage
    for process in stage.processes:
        process.kill()
        process.communicate()


def stopped(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> str:
    """Send a signal, and return what the process says; it leaves with the code of that signal, without a traceback."""
    process.send_signal(number)
    out, said = process.communicate(timeout=LONGEST_S)
    assert process.returncode == CODES[number], said
    assert out == ""
    assert "Traceback" not in said
    assert "The same command goes on where it was." in said
    return said


@pytest.mark.parametrize("number", CODES)
def test_while_rows_are_read_from_a_pipe(stage: Stage, number: signal.Signals) -> None:
    """Nothing was sent, and it says so."""
    process = stage.start(stage.command("-"))
    stage.until(process, (stage.job / "stdin.new").exists)
    assert "before anything was sent" in stopped(process, number)
    assert creates(stage.emulator) == []


@pytest.mark.parametrize("number", CODES)
def test_while_a_query_runs(stage: Stage, number: signal.Signals) -> None:
    """DuckDB is left in the middle of it."""
    query = "select count(*) as text from range(1000000000000) a(i) where hash(a.i) = 1"
    process = stage.start(stage.command("--sql", query))
    stage.until(process, lambda: (stage.job / "lock").exists() and (stage.job / "lock").read_text() != "")
    stage.until(process, lambda: "spec" in facts(stage.job))
    assert "before anything was sent" in stopped(process, number)
    assert not (stage.folder / "out.csv").exists()


def facts(folder: Path) -> set[str]:
    """Name what a job knows of itself."""
    try:
        with looked_at(folder) as job:
            return {name for name in ("spec", "prepared") if job.meta(name, "")}
    except LocalState:
        return set()


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("job.prepare.before_commit", "before anything was sent"),
        ("job.prepare.after_commit", "before anything was sent"),
        ("job.move_sending.after_commit", "one batch runs on"),
        ("job.move_submitted.before_commit", "one batch runs on"),
        ("job.move_ended.after_commit", "everything that was sent is back"),
        ("job.settle.before_commit", "everything that was sent is back"),
        ("job.settle.after_commit", "everything that was sent is back"),
        ("job.note_written.before_commit", "everything that was sent is back"),
    ],
)
def test_at_a_door(stage: Stage, number: signal.Signals, door: str, words: str) -> None:
    """Between any two steps: the output is whole or not there."""
    assert words in stopped(stage.at_door(door), number)
    assert not (stage.folder / "out.csv").exists() or len(read(stage.folder / "out.csv")) == 4
    stage.ends()


def test_while_a_body_is_sent(stage: Stage) -> None:
    """Whether the service took it is found out by the next command; nothing is sent twice."""
    stage.emulator.fault("create=wait:1s+times:1")
    process = stage.start(stage.command())
    stage.until(process, lambda: stage.is_part(PartState.SENDING))
    assert "standby cancel out.csv" in stopped(process)
    stage.ends()


def test_while_it_waits(stage: Stage) -> None:
    """The batch runs on."""
    stage.emulator.script("*=slow:1h")
    process = stage.start(stage.command())
    stage.until(process, lambda: stage.is_part(PartState.SUBMITTED))
    assert "standby watch out.csv" in stopped(process)
    stage.emulator.advance(hours=2)
    stage.ends()


def test_while_a_night_waits(stage: Stage) -> None:
    """The next one goes on with the batch of this one."""
    ask = f'id = "id"\noutput = "out.csv"\nmodel = "{MODEL}"\nprompt = "Say {{{{ text }}}}"\n'
    (stage.folder / "n.toml").write_text(f'{ask}[source]\nfile = "in.jsonl"\n[pace]\npoll = 0.05\n')
    stage.emulator.script("*=slow:1h")
    process = stage.start(["n.toml"])
    stage.until(process, lambda: len(creates(stage.emulator)) == 1)
    assert "one batch runs on" in stopped(process)
    stage.emulator.advance(hours=2)
    process = stage.start(["n.toml"])
    _, said = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, len(creates(stage.emulator))) == (0, 1), said
    assert [row["status"] for row in read(stage.folder / "out.csv")] == ["succeeded"] * 4


def test_while_results_are_read(stage: Stage) -> None:
    """What came of them does no harm."""
    stage.emulator.fault("results=slow:20")
    process = stage.start(stage.command())
    stage.until(process, lambda: stage.is_part(PartState.ENDED))
    stopped(process)
    stage.emulator._call("PUT", "simulator/faults", {"faults": []})
    assert not (stage.folder / "out.csv").exists()
    stage.ends()


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_waits_for_nothing(stage: Stage, number: signal.Signals) -> None:
    """However long cleaning up would take."""
    process = stage.at_door("job.settle.before_commit", cleaning="cleaning")
    process.send_signal(number)
    stage.until(process, (stage.folder / "cleaning").exists)
    process.send_signal(number)
    assert process.wait(LONGEST_S) == CODES[number]
    stage.ends()
