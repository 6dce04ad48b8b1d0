"""kill -9, SIGSTOP, SIGTERM and company on real servers under load: the history holds through all of it.

`KILL_CYCLES` and `KILL_SEED` choose other numbers by hand: `KILL_CYCLES=200 pytest tests/kill/test_kill9.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import PROGRAM, ServerProcess, create, doctor, item, results, retrieve, wait_ended, wait_until
from tests.history import Bounds, Crash, Dispatch, History
from tests.kill.load import Crowd
from tests.kill.recorder import MODEL, Recorder, ask
from tests.kill.witness import Witness

pytestmark = pytest.mark.kill
CYCLES = int(os.environ.get("KILL_CYCLES", "50"))
SEED = int(os.environ.get("KILL_SEED", str(time.time_ns() % 1_000_000)))
WINDOW = 12
COMMIT_ITEMS = 32
SETTINGS: dict[str, dict[str, Any]] = {
    "engine": {"slots": WINDOW + 2},
    "worker": {"window": WINDOW, "commit_items": COMMIT_ITEMS, "commit_ms": 20.0},
    "batch": {"grace_s": 5.0},
    f'prices."{MODEL}"': {"input": 3.0, "output": 15.0},
}
BOUNDS = Bounds(cancel_s=3.0, window=WINDOW, repeats_a_crash=WINDOW + COMMIT_ITEMS)


@pytest.mark.timeout(120 + 30 * CYCLES)
def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A server that is killed again and again under load loses nothing, doubles nothing, and ends everything."""
    print(f"KILL_SEED={SEED} KILL_CYCLES={CYCLES}")  # noqa: T201 - to play it again
    dice, history = random.Random(SEED), History()
    with Recorder(history, seconds=0.05, seed=SEED) as engine:
        server = ServerProcess(tmp_path / "data", engine=engine.url, config=SETTINGS)
        with server:
            with Crowd(server, history, SEED) as crowd:
                for _ in range(CYCLES):
                    kill_after(dice.uniform(0.05, 1.5), server, history)
                    crowd.check()
            crowd.check()
            finish(server, history)
            summary = history.check(BOUNDS)
            server.terminate()
            assert server.wait() == 0, server.tail()
    doctor(server.data)
    check_bills(server.data)
    assert summary.crashes == CYCLES
    print(summary, f"live answers {crowd.live_answers}, answers lost {crowd.lost}")  # noqa: T201 - for the report
    assert crowd.live_answers > CYCLES / 2


def check_bills(data: Path) -> None:
    """Every result that ever succeeded is on a bill once, at its price (I11); `doctor` has compared bills with rows."""
    command = [*PROGRAM, "usage", "--by", "kind", "--json", "--data", str(data)]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    halves = {"batch": 2, "live": 1}
    assert {row["kind"] for row in rows} == set(halves)
    for row in rows:
        whole = row["input_tokens"] * 3_000_000 + row["output_tokens"] * 15_000_000
        assert row["cost_pico"] * halves[row["kind"]] == whole
        assert row["unpriced_requests"] == 0
    with sqlite3.connect(data / "standby.db") as db:
        (succeeded,) = db.execute("SELECT sum(succeeded) FROM ledger").fetchone()
    assert {row["kind"]: row["requests"] for row in rows}["batch"] == succeeded


def kill_after(seconds: float, server: ServerProcess, history: History) -> None:
    """Let it run for a moment, kill it, start it again."""
    time.sleep(seconds)
    began = history.clock()
    server.kill()
    server.restart()
    history.add(Crash(began=began, ended=history.clock()))


def finish(server: ServerProcess, history: History) -> None:
    """Wait until everything has ended, then look at all of it."""
    seen = Witness(server, history)

    def all_ended() -> bool:
        known = [seen.look(batch_id) for batch_id in seen.walk() or ()]
        return all(batch is None or batch["processing_status"] == "ended" for batch in known)

    wait_until(all_ended, 180, "something never ended")
    seen.finish()


def progress(seen: Witness, batch_id: str) -> None:
    """Wait until more results are there than now."""
    done = seen.look(batch_id)["request_counts"]["succeeded"]
    wait_until(lambda: seen.look(batch_id)["request_counts"]["succeeded"] > done, 60, "no progress")


def busy(history: History, events: int) -> None:
    """Wait until so many more things happened."""
    until = len(history.events) + events
    wait_until(lambda: len(history.events) > until, 60, "no load")


def test_a_stop_longer_than_a_lease(tmp_path: Path) -> None:
    """A server that stood still until its leases were over goes on without doing anything twice."""
    history = History()
    settings = {**SETTINGS, "worker": {**SETTINGS["worker"], "lease_s": 0.5}}
    with (
        Recorder(history, seconds=0.3) as engine,
        ServerProcess(tmp_path / "data", engine=engine.url, config=settings) as server,
    ):
        seen = Witness(server, history)
        batch = seen.create("one", [ask("one", f"i{n}") for n in range(120)])
        for _ in range(3):
            progress(seen, batch["id"])
            server.pause()
            time.sleep(1.5)  # the subject: three times the lease
            server.resume()
        wait_ended(server, batch["id"])
        seen.finish()
        summary = history.check(BOUNDS)
    assert summary.dispatches == 120
    doctor(tmp_path / "data")


def test_a_stop_while_everything_is_at_the_engine(tmp_path: Path) -> None:
    """A server whose leases ran out while all their items were in flight does not take them up a second time."""
    history = History()
    # adaptive admission would not fill an engine that has not given a token yet
    settings = {**SETTINGS, "worker": {**SETTINGS["worker"], "lease_s": 0.5, "admission": "fixed"}}
    with (
        Recorder(history, seconds=3.0) as engine,
        ServerProcess(tmp_path / "data", engine=engine.url, config=settings) as server,
    ):
        seen = Witness(server, history)
        batches = [seen.create(f"b{b}", [ask(f"b{b}", f"b{b}-{n}") for n in range(3)])["id"] for b in range(3)]
        wait_until(lambda: engine.working == 9, 30, "not everything was dispatched")
        for _ in range(2):
            server.pause()
            time.sleep(0.8)  # the subject: longer than the lease, shorter than the work
            server.resume()
            wait_until(lambda: seen.look(batches[0]) is not None, 30, "no answer")
        for batch_id in batches:
            wait_ended(server, batch_id)
        seen.finish()
        assert history.check(BOUNDS).dispatches == 9


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """The second server says who is in the way and ends; the first one does not notice."""
    with ServerProcess(tmp_path / "data") as first:
        batch = create(first, [item("a")])
        second = ServerProcess(tmp_path / "data", log=tmp_path / "second.log").start()
        try:
            assert second.wait() not in {0, -signal.SIGKILL}
            said = second.log_text()
        finally:
            second.close()
        assert str(first.pid) in said
        assert "in use" in said
        assert "Traceback" not in said
        assert wait_ended(first, batch["id"])["request_counts"]["succeeded"] == 1


def test_the_lock_of_a_killed_server_is_free(tmp_path: Path) -> None:
    """After kill -9 the next server starts at once."""
    with ServerProcess(tmp_path / "data") as server:
        server.kill()
        server.restart()
        assert server.is_ready()


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    """A server whose port is taken says so and ends."""
    with ServerProcess(tmp_path / "one") as first:
        second = ServerProcess(tmp_path / "two", port=first.port).start()
        try:
            assert second.wait() not in {0, -signal.SIGKILL}
            assert f":{first.port}" in second.log_text()
            assert "Traceback" not in second.log_text()
        finally:
            second.close()


def test_a_graceful_stop_under_load(tmp_path: Path) -> None:
    """SIGTERM under load ends with 0, and what was in flight is committed: nothing is asked for a second time."""
    history = History()
    with (
        Recorder(history, seconds=0.2) as engine,
        ServerProcess(tmp_path / "data", engine=engine.url, config=SETTINGS) as server,
    ):
        with Crowd(server, history, SEED) as crowd:
            for _ in range(4):
                busy(history, 200)
                began = history.clock()
                server.terminate()
                assert server.wait(30) == 0, server.tail()
                assert not any(
                    isinstance(e, Dispatch) and e.began > began and not e.answered for e in history.events
                ), "an attempt was begun while stopping and not finished"
                server.restart()
                history.add(Crash(began=began, ended=history.clock()))
                crowd.check()
        crowd.check()
        finish(server, history)
        summary = history.check(Bounds(cancel_s=3.0, window=WINDOW, repeats_a_crash=0))
        print(summary)  # noqa: T201 - for the report
        server.terminate()
        assert server.wait() == 0
    doctor(tmp_path / "data")


@pytest.mark.real
def test_the_engine_host_is_killed(tmp_path: Path) -> None:
    """Native code that dies takes no item with it: the host is started again and the batch ends whole."""
    with ServerProcess(tmp_path / "data", engine="local") as server:
        batch = create(server, [item(f"i{n}", f"Count to {n}.", max_tokens=24) for n in range(24)])
        wait_until(
            lambda: retrieve(server, batch["id"])["request_counts"]["succeeded"] > 0, 120, "no progress", every=0.1
        )
        children = children_of(server.pid)
        assert children, "the engine has no process of its own"
        for child in children:
            os.kill(child, signal.SIGKILL)
        ended = wait_ended(server, batch["id"], timeout=300)
        assert ended["request_counts"]["succeeded"] == 24, ended
        assert len(results(server, batch["id"])) == 24
        assert server.is_alive()


@pytest.mark.real
def test_the_engine_host_does_not_outlive_its_server(tmp_path: Path) -> None:
    """After kill -9 of the server its engine host goes by itself."""
    with ServerProcess(tmp_path / "data", engine="local") as server:
        children = children_of(server.pid)
        assert children
        server.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 30, "the host lives on")


def children_of(pid: int) -> list[int]:
    """List the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
