"""No room, no descriptors: a clear 5xx for what cannot be taken, nothing accepted is lost, and it goes on."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.trace import assert_nothing_left, trace
from tests.harness import PROGRAM, Answer, ServerProcess, call, doctor, item, message, wait_until
from tests.history import Bounds, History
from tests.kill.recorder import Recorder, ask
from tests.kill.test_kill9 import finish, progress
from tests.kill.witness import BATCHES, Witness

pytestmark = pytest.mark.kill
MB = 1 << 20
ROOM = 24 * MB
DESCRIPTORS = 96
SETTINGS = {"engine": {"slots": 10}, "worker": {"window": 8}}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 24 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "standby-test", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class Filler:
    """A file that takes the room away."""

    def __init__(self, disk: Path) -> None:
        """Take nothing yet."""
        self.path = disk / "filler"

    def fill(self, *, leave: int = 0) -> None:
        """Write until only `leave` bytes are left."""
        with self.path.open("ab", buffering=0) as file:
            block = bytes(4096)
            while os.statvfs(self.path.parent).f_bavail * 4096 > leave:
                try:
                    file.write(block)
                except OSError:
                    return

    def clear(self) -> None:
        """Give the room back."""
        self.path.unlink(missing_ok=True)


def assert_clear_failure(answer: Answer) -> None:
    """Insist on a 5xx in the contract's shape that speaks of the disk."""
    assert 500 <= answer.status < 600, answer
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] in {"api_error", "overloaded_error"}
    assert body["request_id"] == answer.headers["request-id"]
    assert "disk" in body["error"]["message"].lower() or "data" in body["error"]["message"].lower()


def test_a_create_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """A create without room is a clear 5xx without a trace; with room the same create works."""
    with ServerProcess(small_disk / "data", log=tmp_path / "log") as server:
        filler, body = Filler(small_disk), {"requests": [item(f"i{n}", "x" * 20_000) for n in range(100)]}
        before = trace(server)
        for left in (0, 64 << 10, MB):
            filler.fill(leave=left)
            assert_clear_failure(call(server, "POST", BATCHES, body))
            filler.clear()
            assert_nothing_left(server, before)
        assert call(server, "POST", BATCHES, body).status == 200
        server.terminate()
        assert server.wait() == 0
    doctor(small_disk / "data")


def test_a_disk_that_fills_up_under_work(tmp_path: Path, small_disk: Path) -> None:
    """Results wait for room: no item is lost or failed, answers stay whole, and all ends once there is room."""
    history, log = History(), tmp_path / "log"
    with (
        Recorder(history, seconds=0.1) as engine,
        ServerProcess(small_disk / "data", engine=engine.url, config=SETTINGS, log=log) as server,
    ):
        seen, filler = Witness(server, history), Filler(small_disk)
        made = [seen.create(f"b{b}", [ask(f"b{b}", f"b{b}-{n}") for n in range(150)])["id"] for b in range(3)]
        for _ in range(2):
            progress(seen, made[0])
            filler.fill()
            stuck(history)
            assert all(seen.look(batch_id) for batch_id in made), "a batch cannot be read while the disk is full"
            assert call(server, "POST", "/v1/messages", message("live")).status == 200
            assert_clear_failure(call(server, "POST", BATCHES, {"requests": [item("x", "y" * 100_000)]}))
            filler.clear()
        finish(server, history)
        summary = history.check(Bounds(cancel_s=5, window=8))
        assert summary.results == {"succeeded": 450}
        server.terminate()
        assert server.wait() == 0, server.tail()
    doctor(small_disk / "data")


def test_a_kill_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """A server that is killed while its disk is full starts again once there is room, and nothing is missing."""
    history, log = History(), tmp_path / "log"
    with (
        Recorder(history, seconds=0.1) as engine,
        ServerProcess(small_disk / "data", engine=engine.url, config=SETTINGS, log=log) as server,
    ):
        seen, filler = Witness(server, history), Filler(small_disk)
        made = seen.create("one", [ask("one", f"i{n}") for n in range(150)])["id"]
        progress(seen, made)
        filler.fill()
        stuck(history)
        server.kill()
        filler.clear()
        server.restart()
        finish(server, history)
        assert history.check(Bounds(closed=True)).results == {"succeeded": 150}
        server.terminate()
        assert server.wait() == 0
    doctor(small_disk / "data")


def stuck(history: History) -> None:
    """Wait until a good many attempts came after this moment, or no more are asked for."""
    seen = [len(history.events), 0]

    def is_quiet() -> bool:
        seen[1] = seen[1] + 1 if len(history.events) == seen[0] else 0
        seen[0] = len(history.events)
        return seen[1] > 10

    wait_until(is_quiet, 60, "work went on although nothing can be committed", every=0.1)


def descriptors(server: ServerProcess) -> int:
    """Count the open descriptors of the server."""
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())


def test_few_descriptors(tmp_path: Path) -> None:
    """With no descriptor left nothing accepted is lost, and with some free again everything ends, leases or not."""
    settings: dict[str, dict[str, Any]] = {**SETTINGS, "worker": {"window": 8, "lease_s": 3600.0}}
    limited = ("/bin/sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$0" "$@"', *PROGRAM)
    history = History()
    with (
        Recorder(history, seconds=0.05) as engine,
        ServerProcess(tmp_path / "data", engine=engine.url, config=settings, program=limited) as server,
    ):
        seen = Witness(server, history, timeout=5, tolerant=True)
        made = seen.create("one", [ask("one", f"i{n}") for n in range(600)])["id"]
        progress(seen, made)
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(150)]
        wait_until(lambda: descriptors(server) >= DESCRIPTORS, 30, "there are descriptors left")
        seen.create("two", [ask("two", f"j{n}") for n in range(20)])
        stuck(history)
        for connection in idle:
            connection.close()
        seen.timeout = 30
        wait_until(server.is_ready, 60, "the server did not recover")
        again = seen.create("three", [ask("three", f"k{n}") for n in range(20)])
        assert again, "a create after the squeeze was refused"
        finish(server, history)
        summary = history.check(Bounds(cancel_s=5, window=8))
        assert summary.results.keys() == {"succeeded"}
        server.terminate()
        assert server.wait() == 0, server.tail()
    doctor(tmp_path / "data")
