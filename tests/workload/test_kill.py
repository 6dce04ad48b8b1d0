"""The process dies at any moment, and the same command goes on: no row is lost, no part is sent twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from standby.testing import Emulator
from tests.workload.conftest import MODEL, creates, read

ROWS = 1_200
CYCLES = 10
MOST_DEATHS = 3
"""Of one job; then it is let live."""


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_the_same_command_goes_on_after_any_death(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Rows, parts and cost are those of a run that nobody killed, whatever the moment of death."""
    source = tmp_path / "in.parquet"
    with duckdb.connect(":memory:") as connection:
        query = f"SELECT i AS id, 'text ' || i AS text FROM range({ROWS}) r(i)"
        connection.execute(f"COPY ({query}) TO '{source}'")
    dice = random.Random(4)
    longest_s = lifetime_of(source, tmp_path / "out-whole.parquet", standby_emulator, None)
    assert longest_s is not None
    phases: dict[str, int] = {}
    for cycle in range(CYCLES):
        standby_emulator.reset()
        standby_emulator.fault(f"create=lost+chance:0.3+seed:{cycle}; results=cut_inside:40+chance:0.3+seed:{cycle}")
        output = tmp_path / f"out-{cycle}.parquet"
        for _ in range(MOST_DEATHS):
            if lifetime_of(source, output, standby_emulator, dice.uniform(0, longest_s)) is not None:
                break
            phases[phase_of(output)] = phases.get(phase_of(output), 0) + 1
        else:
            assert lifetime_of(source, output, standby_emulator, None) is not None
        check(output, standby_emulator)
    print(f"{sum(phases.values())} deaths: {phases}")  # noqa: T201 - for the report
    assert len(phases) >= 2


def check(output: Path, emulator: Emulator) -> None:
    """Every row has its answer, and every row was sent once."""
    rows = read(output)
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert all(row["status"] == "succeeded" and row["answer"] for row in rows)
    made = [one for one in emulator.requests if one.operation == "create" and one.batch_id]
    assert sum({one.batch_id: one.items for one in made}.values()) == ROWS
    assert len(creates(emulator)) == len(list(Path(f"{output}.standby").glob("part-*.json")))


def lifetime_of(source: Path, output: Path, emulator: Emulator, kill_s: float | None) -> float | None:
    """Run the command, and kill it so long after its job was opened; return its lifetime from there, None if killed."""
    ask = ["-m", MODEL, "-p", "Say {{ text }}", "--id", "id", "-o", str(output)]
    command = [sys.executable, "-m", "standby", "run", str(source), *ask]
    command += ["--poll", "0.05", "--settle", "0.3", "--base-url", emulator.url]
    variables = {**os.environ, "ANTHROPIC_API_KEY": emulator.api_key, "XDG_STATE_HOME": str(output.parent / "state")}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    lock = Path(f"{output}.standby") / "lock"
    while process.poll() is None and not (lock.exists() and lock.read_text().strip() == str(process.pid)):
        time.sleep(0.005)
    began = time.monotonic()
    try:
        _, said = process.communicate(timeout=120 if kill_s is None else kill_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    assert process.returncode == 0, said.decode()
    return time.monotonic() - began


def phase_of(output: Path) -> str:
    """Say how far the job was, by what lies there."""
    folder = Path(f"{output}.standby")
    if not (folder / "job.sqlite").exists():
        return "before the job"
    if not list(folder.glob("part-*.json")):
        return "reading rows"
    if not list(folder.glob("part-*.jsonl")):
        return "sending or waiting"
    return "written" if output.exists() else "collecting"
