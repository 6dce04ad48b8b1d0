"""Crash at every door: the same story, once for each place where the process may die, with the same outcome.

The story is played once to learn which doors it passes and how often. Then, for the first and for a later passage of
each, a real server dies there without any clean-up, is started again on the same data, and the story goes on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness import (
    PROGRAM,
    Died,
    NoAnswer,
    ServerProcess,
    call,
    clean_environment,
    create,
    doctor,
    item,
    message,
    retrieve,
    wait_ended,
    wait_until,
)
from tests.history import Bounds, Crash, History, Reply, Summary
from tests.kill.witness import BATCHES, Witness

pytestmark = pytest.mark.kill
SOURCE = Path(__file__).parents[2] / "src"
CRASHED = 137
SIDE_BY_SIDE = 2
STEP_S = 60
SETTINGS = {
    "simulator": {"slots": 4, "decode_tokens_s": 150.0},
    "batch": {"grace_s": 5.0},
    "worker": {"commit_ms": 5.0, "lease_s": 1.0},
}
COMMAND_DOORS = {
    f"store.{verb}.{side}_commit": (verb, side)
    for verb in ("create_workspace", "create_key", "revoke_key", "set_limits")
    for side in ("before", "after")
}
"""Doors that a server never passes: those of commands, which have a test of their own below."""
LISTEN = """
import os, sys
from standby import doors
fd = os.open(os.environ["DOORS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
doors.listener = lambda name: os.write(fd, name.encode() + b"\\n") and None
from standby.cli import main
sys.argv[0] = "standby"
main()
"""


@dataclass(slots=True)
class Story:
    """One play of the story on one data folder."""

    server: ServerProcess
    crash_at: str | None = None
    history: History = field(default_factory=History)
    crashes: int = 0

    def play(self) -> Summary:
        """Play it to the end, through at most one crash, and judge it."""
        self._start()
        try:
            self._act()
            self._stop()
            self._start()
            seen = Witness(self.server, self.history)
            seen.finish()
            summary = self.history.check(Bounds(cancel_s=5))
            self._stop()
            doctor(self.server.data)
        except BaseException as error:
            error.add_note(f"--- log of {self.crash_at} ---\n{self.server.log.read_text(errors='replace')[-6000:]}")
            raise
        finally:
            self.server.close()
        return summary

    def _act(self) -> None:
        first = self._create("first", [item(f"f{n}", max_tokens=int(n != 3)) for n in range(6)])
        second = self._create("second", [item(f"s{n}", max_tokens=24) for n in range(40)])
        assert self._create("first", [item(f"f{n}", max_tokens=int(n != 3)) for n in range(6)]) == first
        third = self._create("third", [item("t0"), item("t1")], by_sdk=True)
        self._end(first)
        self._read(first)
        self._do(lambda seen: seen.cancel(second) is not Reply.UNKNOWN)
        self._end(second)
        self._read(second)
        self._end(third)
        self._do(lambda seen: seen.delete(first) is not Reply.UNKNOWN)
        self._do(lambda seen: call(self.server, "GET", f"{BATCHES}/{first}/results").status == 404)
        self._read(third)
        self._do(self._charged)
        self._erased(first)

    def _charged(self, _: Witness) -> bool:
        """Ask live and look whether it is on the books; what a crash took off them is asked again."""
        if call(self.server, "POST", "/v1/messages", message()).status != 200:
            return False
        rows = call(self.server, "GET", "/standby/v1/usage?by=kind").json()["data"]
        return any(row["kind"] == "live" for row in rows)

    def _create(self, token: str, items: list[dict[str, object]], *, by_sdk: bool = False) -> str:
        """Create until it is known that it worked: with an idempotency key, or as an SDK repeats itself."""
        made: list[str] = []
        tries = 0

        def attempt(seen: Witness) -> bool:
            nonlocal tries
            batch = seen.create(token, items, **({"retry": tries} if by_sdk else {"key": f"key-{token}"}))
            tries += 1
            made[:] = [batch["id"]] if batch else []
            return bool(batch)

        self._do(attempt)
        return made[0]

    def _end(self, batch_id: str) -> None:
        def has_ended(seen: Witness) -> bool:
            batch = seen.look(batch_id)
            return batch is not None and batch["processing_status"] == "ended"

        self._do(has_ended)

    def _read(self, batch_id: str) -> None:
        self._do(lambda seen: seen.read(batch_id) is not None)

    def _erased(self, batch_id: str) -> None:
        """Wait until no file of a deleted batch is left, through a crash if need be."""
        self._do(lambda _: not any(batch_id in path.as_posix() for path in self.server.data.rglob("*")))

    def _do(self, step: Callable[[Witness], bool]) -> None:
        """Repeat a step until it worked, starting the server again if it died."""
        seen = Witness(self.server, self.history)

        def worked() -> bool:
            if not self.server.is_alive():
                self._revive()
            return self._try(step, seen)

        wait_until(worked, STEP_S, "a step of the story never worked")

    def _try(self, step: Callable[[Witness], bool], seen: Witness) -> bool:
        try:
            return step(seen)
        except NoAnswer:
            return False

    def _start(self) -> None:
        self.server.start()
        try:
            self.server.wait_ready()
        except Died:
            self._revive()

    def _revive(self) -> None:
        """Start again without the crash; a second death is a failure."""
        began = self.history.clock()
        status = self.server.wait()
        assert status == CRASHED, f"the server ended with {status}: {self.server.tail()}"
        self.server.env.pop("STANDBY_CRASH_AT", None)
        self.crashes += 1
        self.server.restart()
        self.history.add(Crash(began=began, ended=self.history.clock()))

    def _stop(self) -> None:
        if not self.server.is_alive():
            self._revive()
        self.server.terminate()
        if self.server.wait() == CRASHED:
            self._revive()
            self.server.terminate()
            self.server.wait()
        assert self.server.wait() == 0, self.server.tail()


def tell(folder: Path, crash_at: str | None) -> Story:
    """Play the story in a folder of its own; the story says whether the crash came."""
    env = {"STANDBY_CRASH_AT": crash_at} if crash_at else {}
    story = Story(ServerProcess(folder / "data", env=env, config=SETTINGS), crash_at)
    story.play()
    return story


def learn(folder: Path) -> Counter[str]:
    """Play the story without a crash and count the passages of each door."""
    seen = folder / "doors"
    program = (sys.executable, "-c", LISTEN)
    story = Story(ServerProcess(folder / "data", env={"DOORS_FILE": str(seen)}, config=SETTINGS, program=program))
    summary = story.play()
    assert summary.results["errored"] == 1
    assert summary.crashes == 0
    return Counter(seen.read_text().split())


def doors_in_the_source() -> set[str]:
    """Find every door that the server's source names, and the two of every verb of the store that writes.

    Those of the client have stories of their own (`tests/workload/test_kill.py`, `test_nightly_kill.py`).
    """
    sources = [path for path in (SOURCE / "standby").rglob("*.py") if "workload" not in path.parts]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    named = {name for text in texts for name in re.findall(r'\bdoor\(\s*"([^"]+)"', text)}
    verbs = {verb for text in texts for verb in re.findall(r'_database\.write\(\s*"(\w+)"', text)}
    assert named, "no door was found by its name"
    assert verbs, "no verb was found"
    return named | {f"store.{verb}.{side}_commit" for verb in verbs for side in ("before", "after")}


def crash_points(passages: Counter[str]) -> list[str]:
    """Choose the first passage of each door, and one in the middle if there are several."""
    firsts = [f"{name}:1" for name in sorted(passages)]
    return firsts + [f"{name}:{count // 2 + 1}" for name, count in sorted(passages.items()) if count > 1]


@pytest.mark.timeout(1800)
def test_a_crash_at_any_door_changes_nothing(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Wherever the process dies, nothing acknowledged is lost, every item ends once, and results never change."""
    passages = learn(tmp_path)
    unknown = doors_in_the_source() - passages.keys() - COMMAND_DOORS.keys()
    assert not unknown, f"the story does not pass {sorted(unknown)}"
    points = crash_points(passages)
    crashed: set[str] = set()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        plays = {point: pool.submit(tell, tmp_path / point.replace(":", "-"), point) for point in points}
        for point, play in plays.items():
            with subtests.test(point):
                if play.result().crashes:
                    crashed.add(point)
    missed = [point for point in points if point.endswith(":1") and point not in crashed]
    print(f"doors {len(passages)}, crash points {len(points)}, crashes {len(crashed)}")  # noqa: T201 - for the report
    assert not missed, f"no crash came at {missed}"


@pytest.mark.parametrize("door", COMMAND_DOORS)
def test_a_command_that_dies_at_a_door(tmp_path: Path, door: str) -> None:
    """A command that dies before its commit did nothing, one that dies after it did all; then it works again."""
    verb, side = COMMAND_DOORS[door]
    data = tmp_path / "data"
    command(data, "workspaces", "create", "there")
    command(data, "keys", "create", "there")
    key = an_id(command(data, "keys", "list"))
    words = {
        "create_workspace": ("workspaces", "create", "lab"),
        "create_key": ("keys", "create", "lab"),
        "revoke_key": ("keys", "revoke", key),
        "set_limits": ("workspaces", "limit", "there", "--spend-per-day", "20"),
    }[verb]
    listing = words[:3] if verb == "set_limits" else (words[0], "list")
    before = command(data, *listing)
    command(data, *words, crash_at=door)
    after = command(data, *listing)
    assert (before == after) == (side == "before"), f"{before}\n{after}"
    if side == "before":
        command(data, *words)
        assert command(data, *listing) != before


def command(data: Path, *words: str, crash_at: str | None = None) -> str:
    """Run a command, to its end or to its death at a door."""
    env = clean_environment({"STANDBY_CRASH_AT": crash_at} if crash_at else {})
    done = subprocess.run(
        [*PROGRAM, *words, "--data", str(data)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (CRASHED if crash_at else 0), f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def an_id(said: str) -> str:
    """Find the first id in what a command printed."""
    found = re.search(r"[a-z]+_01\w{22}", said)
    assert found, said
    return found[0]


ARCHIVE_DOORS = (
    "store.archive_due.before_commit",
    "store.archive_due.after_commit",
    "blobs.erase.before",
    "blobs.erase.done",
    "store.finish_erasure.before_commit",
    "store.finish_erasure.after_commit",
)


@pytest.mark.parametrize("door", ARCHIVE_DOORS)
def test_a_crash_while_a_batch_is_archived(tmp_path: Path, door: str) -> None:
    """Results that are too old go for good, also when the server dies on the way; the batch itself stays."""
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        batch_id = create(server, [item("a"), item("b", max_tokens=0)])["id"]
        ended = wait_ended(server, batch_id)
        server.terminate()
        assert server.wait() == 0
    soon = {"batch": {"retention_s": 0.001}}
    server = ServerProcess(data, env={"STANDBY_CRASH_AT": door}, config=soon).start()
    try:
        assert server.wait() == CRASHED, server.tail()
    finally:
        server.close()
    with ServerProcess(data, config=soon) as server:
        wait_until(lambda: not list(data.rglob(f"*{batch_id}*")), 30, "the files of an archived batch are still there")
        seen = retrieve(server, batch_id)
        assert seen["archived_at"] is not None
        assert seen["results_url"] is None
        assert seen["request_counts"] == ended["request_counts"]
        assert call(server, "GET", f"{BATCHES}/{batch_id}/results").status == 404
        server.terminate()
        assert server.wait() == 0
    doctor(data)
