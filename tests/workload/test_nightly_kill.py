"""A nightly run dies at every door between its rows and its ledger: nothing is lost, nothing is there or paid twice."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest

from standby import doors
from standby.cli import main
from standby.testing import Emulator
from tests.workload.conftest import MODEL
from tests.workload.test_nightly import FILE, sent, table, write

FIRST = {"a": "one", "b": "two"}
SECOND = {"a": "one", "b": "deux", "c": "three"}
CRASHED = 137


def night(folder: Path, rows: dict[str, str]) -> int:
    """Run one night in this process."""
    write(folder / "in.jsonl", rows)
    return main([str(folder / "labels.toml")])


def begun(folder: Path, output: str) -> Path:
    """Make a folder in which one night is over."""
    folder.mkdir()
    (folder / "labels.toml").write_text(FILE.replace("out.parquet", output))
    assert night(folder, FIRST) == 0
    return folder


def passages(folder: Path) -> list[str]:
    """Learn which doors a second night passes, each with the number of its passage."""
    seen: collections.Counter[str] = collections.Counter()
    found: list[str] = []

    def listen(name: str) -> None:
        seen[name] += 1
        found.append(f"{name}:{seen[name]}")

    doors.listener = listen
    try:
        assert night(folder, SECOND) == 0
    finally:
        doors.listener = None
    return found


@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
def test_a_death_at_any_door_loses_and_doubles_nothing(
    standby_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """The same command makes the output and the bill that a night without deaths makes."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", standby_emulator.api_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", standby_emulator.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = passages(begun(tmp_path / "whole", output))
    ours = [door for door in found if door.startswith("nightly.")]
    assert {door.partition(":")[0] for door in ours} >= {
        "nightly.begin.before_commit",
        "nightly.begin.after_commit",
        "nightly.merge.before_replace",
        "nightly.merge.after_replace",
        "nightly.close.before_commit",
        "nightly.close.after_commit",
    }
    wanted = {key: (row["text"], row["status"]) for key, row in table(tmp_path / "whole" / output).items()}
    for number, door in enumerate(ours):
        standby_emulator.reset()
        folder = begun(tmp_path / f"n{number}", output)
        write(folder / "in.jsonl", SECOND)
        command = [sys.executable, "-m", "standby", str(folder / "labels.toml")]
        died = subprocess.run(command, env={**os.environ, "STANDBY_CRASH_AT": door}, capture_output=True, check=False)
        assert died.returncode == CRASHED, (door, died.stderr.decode())
        assert night(folder, SECOND) == 0, door
        rows = table(folder / output)
        assert {key: (row["text"], row["status"]) for key, row in rows.items()} == wanted, door
        assert (sent(standby_emulator), MODEL in FILE) == (4, True), door
        assert night(folder, SECOND) == 0
        assert sent(standby_emulator) == 4
