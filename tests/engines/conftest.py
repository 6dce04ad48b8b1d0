from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from standby.engines.model_file import find_model, model_name


@dataclass(frozen=True)
class RunningHost:
    """An engine host in a process of its own, shared by all tests of a session."""

    uds: str
    pid: int
    model: str
    slots: int


@pytest.fixture(scope="session")
def openvino_host() -> Iterator[RunningHost]:
    """Start the embedded engine once."""
    yield from _host("openvino", "--slots", "8", "--kv-cache-mb", "32")


@pytest.fixture(scope="session")
def llamacpp_host() -> Iterator[RunningHost]:
    """Start llama.cpp once."""
    yield from _host("llamacpp", "--slots", "2", "--context", "2048")


def _host(backend: str, *flags: str) -> Iterator[RunningHost]:
    model = find_model("")
    with tempfile.TemporaryDirectory(prefix="standby-test-") as folder:
        command = [sys.executable, "-m", "standby.host", "--watch-stdin", "--backend", backend, *flags]
        command += ["--model", str(model), "--name", model_name(model), "--uds", str(Path(folder) / "h.sock")]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (Path(folder) / "log").read_text()
            ready = msgspec.json.decode(line)
            yield RunningHost(uds=ready["uds"], pid=ready["pid"], model=ready["model"], slots=ready["slots"])
            assert process.poll() is None, (Path(folder) / "log").read_text()
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them, but for the folder of fetched models."""
    for name in [name for name in os.environ if name.startswith("STANDBY_") and name != "STANDBY_CACHE"]:
        monkeypatch.delenv(name)
