"""The examples of "Testing code that uses batches" run as they stand there: as files of somebody else's project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from standby.emulation.faults import faults_of
from standby.emulation.script import rules_of, rules_of_line
from tests.harness import clean_environment
from tests.sdk.environments import typescript_with_sdk

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing-your-code.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    """Take the blocks of one language out of the page."""
    found = [code for kind, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == language]
    assert found
    return found


def written(folder: Path, language: str) -> list[Path]:
    """Write each block into the file that its first line names."""
    files = []
    for code in blocks(language):
        file = folder / code.partition("\n")[0].split()[1]
        file.write_text(code, encoding="utf-8")
        files.append(file)
    return files


def test_python(tmp_path: Path) -> None:
    """All tests of the page pass, with warnings as errors."""
    assert len(written(tmp_path, "python")) == 4
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "standby.testing.plugin", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=clean_environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert re.search(r"^20 passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr


@pytest.mark.sdk
def test_typescript(tmp_path: Path) -> None:
    """The TypeScript of the page runs under node, with the newest SDK."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("NODE IS NOT INSTALLED: nothing is known about the TypeScript examples on this machine")
    (tmp_path / "node_modules").symlink_to(typescript_with_sdk("1.12.0") / "node_modules")
    (file,) = written(tmp_path, "ts")
    starter = tmp_path / "standby"
    starter.write_text(f'#!/bin/sh\nexec {sys.executable} -m standby "$@"\n', encoding="utf-8")
    starter.chmod(0o755)
    done = subprocess.run(
        [node, "--test", str(file)],
        cwd=tmp_path,
        env=clean_environment({"STANDBY": str(starter)}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 4" in done.stdout


def test_the_file_and_the_lines() -> None:
    """The script file is one, and so is each line above it."""
    document = tomllib.loads(blocks("toml")[0])
    assert len(rules_of(document["rule"])) == 3
    assert len(faults_of(document["fault"])) == 1
    for line in blocks("text")[0].splitlines():
        assert rules_of_line(re.split(r"\s{2,}", line)[0])
