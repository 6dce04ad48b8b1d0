"""The code in the docs runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from standby import workload
from tests.harness import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
URL = "http://127.0.0.1:8378"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(file: str, language: str) -> list[str]:
    """Take the blocks of one language out of a document."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def run(code: str, url: str, names: dict[str, Any]) -> None:
    """Run a block against the server at `url`."""
    exec(compile(code.replace(URL, url), "<docs>", "exec"), names)


@pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
def test_tutorial(tmp_path: Path) -> None:
    """Every Python block of the tutorial runs, one after another, and its assertions hold."""
    names: dict[str, Any] = {}
    with ServerProcess(tmp_path / "data", engine="simulated") as server:
        for code in blocks("docs/tutorial.md", "python"):
            run(code, server.url, names)
        names["client"].close()
    assert {"batch", "mixed", "many"} <= names.keys()


def test_readme(tmp_path: Path) -> None:
    """The lines of SDK code in the README make a batch and read its results."""
    create, _, fetch = blocks("README.md", "python")[0].partition("# … and when")
    names: dict[str, Any] = {"rows": [("a", "one"), ("b", "two")]}
    with ServerProcess(tmp_path / "data", engine="simulated") as server:
        run(create, server.url, names)
        run("while client.messages.batches.retrieve(batch.id).processing_status != 'ended': pass", server.url, names)
        run(fetch.partition("\n")[2], server.url, names)
        names["client"].close()
    assert names["row"].custom_id in {"a", "b"}


def test_commands_of_the_tutorial(tmp_path: Path) -> None:
    """The commands that the tutorial shows do what it says, one after another, on one folder."""
    commands = [line for code in blocks("docs/tutorial.md", "sh") for line in code.splitlines()]
    ours = [line for line in commands if line.startswith("standby ")]
    assert len(ours) == 4
    environment = {**os.environ, "STANDBY_STORE_DATA": str(tmp_path / "data")}
    shown = [
        subprocess.run(
            [sys.executable, "-m", "standby", *shlex.split(line)[1:]],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in ours
    ]
    assert shown[0].startswith("wrkspc_")
    assert shown[1].startswith("sk-standby-")
    assert "nightly" in shown[2]
    assert shown[1].strip() not in shown[2]
    assert shown[3] == ""


@pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
def test_workloads_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block on workloads runs, one after another, and its assertions hold."""
    patience: dict[str, Any] = workload.Pace.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(patience, "first_poll_s", 0.05)  # a test does not wait as a person would
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(":memory:") as connection:
        connection.execute("COPY (SELECT 'Fine.' AS text) TO 'reviews.parquet'")
    names: dict[str, Any] = {}
    with ServerProcess(tmp_path / "data", engine="simulated") as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any-key")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        for code in blocks("docs/workloads.md", "python"):
            run(code, server.url, names)
    assert names["report"]["succeeded"] == 1
    assert len(names["answers"]) == 100
    assert (tmp_path / "labels.parquet").exists()


def test_make_targets_of_the_docs() -> None:
    """Every `make …` in the docs is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    wanted = {
        word
        for file in files
        for word in re.findall(r"(?:^|`)make ([a-z]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert wanted
    assert wanted <= targets
