"""`standby run` and `standby serve` as real processes that die: at a door, at a sight on the disk, or at any moment.

A door is a place of `standby.doors`: the process ends there as if the power had gone. A sight is a file of the job that
has appeared. After each death the job's own files, and the server, say in which phase it came.

A parent has the command loaded and forks a process for each life, so that a life costs no start of an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from standby.workload.faults import FAILED_ROWS, Unavailable
from tests.harness import Died, ServerProcess, clean_environment, list_batches, wait_until
from tests.workload.conftest import MODEL
from tests.workload.truth import SCRIPT, Judged, judge, ledger_pico

CRASHED = 137
LONGEST_S = 120.0
TRIES = 2
PARTS, CANARY, CANARY_ABOVE = 40, 5, 50
PARENT = f"""
import json, os, sys
import anthropic, duckdb, jsonschema_rs, minijinja
import standby.workload
from standby import doors
from standby.cli import main
from standby.workload.parts import Canary, Limits

Limits.__init__.__kwdefaults__.update(items={PARTS})
Canary.__init__.__kwdefaults__.update(items={CANARY}, above={CANARY_ABOVE})

def live(life):
    os.environ.update(life["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "said")):
        os.dup2(os.open(life[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if life["door"]:
        doors.listener = doors.crash_at(life["door"])
    if life["doors_file"]:
        fd = os.open(life["doors_file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        doors.listener = lambda name: os.write(fd, name.encode() + b"\\n") and None
    return main(life["words"])

print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = live(json.loads(line))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Small parts: what is to be seen needs several, and no 100,000 rows."""
SERVER: dict[str, dict[str, object]] = {
    "simulator": {"script": "; ".join(SCRIPT), "slots": 8, "decode_tokens_s": 2000.0},
    "worker": {"commit_ms": 5.0, "lease_s": 1.0},
    "log": {"level": "error"},
}
PHASES = (
    "prepare",
    "estimate",
    "ready",
    "create, not taken",
    "create, taken",
    "polling",
    "download",
    "settle",
    "retry round",
    "join",
)

Sight = Callable[[Path], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a client dies."""

    door: str = ""
    """`name:n`: at the n-th passage."""
    sight: Sight | None = None
    after_s: float | None = None
    """So long after its job was opened."""


class Parent:
    """Forks the command. One life at a time; a context manager."""

    def __init__(self) -> None:
        """Load the command."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=clean_environment({}),
        )
        assert self._line(LONGEST_S) == "ready"

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def bear(self, life: dict[str, Any]) -> int:
        """Begin a life; return its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(life).encode() + b"\n")
        return int(self._line(LONGEST_S) or "0")

    def ended(self, within_s: float) -> int | None:
        """Return the exit status of the life at hand, None if it goes on after so many seconds."""
        line = self._line(within_s)
        return None if line is None else int(line)

    def _line(self, within_s: float) -> str | None:
        stdout = self._process.stdout
        assert stdout is not None
        return stdout.readline().decode().strip() if select.select([stdout], [], [], within_s)[0] else None


@dataclass(slots=True)
class Story:
    """One job, typed again until it is done."""

    folder: Path
    rows: int
    server: ServerProcess
    parent: Parent
    spent_before: int = 0
    """What the server's ledger held before the story."""
    made_before: set[str] = field(default_factory=set)
    """Its batches before the story."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Of the client, by phase."""
    server_deaths: int = 0
    report: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Name the files; nothing runs yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spent_before = ledger_pico(self.server.url)
        self.made_before = {batch["id"] for batch in list_batches(self.server)}
        source = "".join(json.dumps({"id": row, "text": f"row {row}"}) + "\n" for row in range(self.rows))
        (self.folder / "in.jsonl").write_text(source)

    @property
    def output(self) -> Path:
        """Where the answers go."""
        return self.folder / "out.parquet"

    @property
    def job(self) -> Path:
        """The folder of the job."""
        return self.folder / "out.parquet.standby"

    def live(self, death: Death | None = None, *, doors_file: str = "") -> bool:
        """Type the command and let it die, if it comes so far; say whether it is done. A death is counted."""
        death = death or Death()
        pid = self.parent.bear(self._life(death.door, doors_file))
        status = self._watched(pid, death)
        if status in {CRASHED, -signal.SIGKILL}:
            self.deaths[self.phase()] += 1
            return False
        if status == Unavailable.code:  # it gave up while the server was dead: type it again
            self.wait_for_server()
            return self.live(death, doors_file=doors_file)
        assert status == FAILED_ROWS, f"exit {status}: {(self.folder / 'said').read_text()[-3000:]}"
        self.report = json.loads((self.folder / "out").read_text())
        return True

    def _life(self, door: str, doors_file: str) -> dict[str, Any]:
        words = ["run", str(self.folder / "in.jsonl"), "-m", MODEL, "-p", "Say {{ text }}", "--id", "id"]
        words += ["-o", str(self.output), "--max-cost", "50", "--json", "--base-url", self.server.url]
        words += ["--poll", "0.05", "--settle", "0.5", "--retries", str(TRIES - 1)]
        env = {"ANTHROPIC_API_KEY": "any-key", "XDG_STATE_HOME": str(self.folder / "state")}
        out, said = str(self.folder / "out"), str(self.folder / "said")
        return {"words": words, "env": env, "out": out, "said": said, "door": door, "doors_file": doors_file}

    def _watched(self, pid: int, death: Death) -> int:
        """Kill the client at a sight, or after a time from when it holds its job; return its exit status."""
        lock = self.job / "lock"
        opened: float | None = None
        until = time.monotonic() + LONGEST_S
        while time.monotonic() < until:
            if (status := self.parent.ended(0.001)) is not None:
                return status
            if opened is None and lock.exists() and lock.read_text().strip() == str(pid):
                opened = time.monotonic()
            is_late = death.after_s is not None and opened is not None and time.monotonic() - opened >= death.after_s
            if is_late or (opened is not None and death.sight is not None and death.sight(self.job)):
                os.kill(pid, signal.SIGKILL)
                death = Death()
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"a life of {LONGEST_S} s: {(self.folder / 'said').read_text()[-3000:]}")

    def phase(self) -> str:
        """Say in which phase of the job its process died."""
        path = self.job / "job.sqlite"
        if not path.exists():
            return "prepare"
        database = sqlite3.connect(f"file:{path}?mode=rw", uri=True)
        try:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                return "prepare"
            facts = dict(database.execute("SELECT name, value FROM meta").fetchall())
            parts = database.execute("SELECT state, round, number, items, batch_id FROM parts").fetchall()
        finally:
            database.close()
        if not facts.get("prepared"):
            return "prepare"
        if not facts.get("budget_pico"):
            return "estimate"
        return self._phase_of(parts)

    def _phase_of(self, parts: list[tuple[str, int, int, int, str | None]]) -> str:
        open_parts = [part for part in parts if part[0] != "done"]
        if not open_parts:
            return "join"
        if open_parts[0][1]:
            return "retry round"
        states = {state: number for state, _, number, _, _ in open_parts}
        if "sending" in states:
            return self._phase_of_create({part[4] for part in parts})
        if "ended" in states:
            return "download" if (self.job / f"part-{states['ended']:04}.new").exists() else "polling"
        if "collected" in states:
            return "settle"
        return "polling" if "submitted" in states else "ready"

    def _phase_of_create(self, known: set[str | None]) -> str:
        self.wait_for_server()
        made = {batch["id"] for batch in list_batches(self.server)} - self.made_before
        return "create, taken" if made - known else "create, not taken"

    def wait_for_server(self) -> None:
        """Wait until it runs, through deaths that somebody mends."""
        wait_until(lambda: self.server.is_alive() and self._is_ready(), LONGEST_S, "nobody revived the server")

    def _is_ready(self) -> bool:
        try:
            return self.server.is_ready()
        except (Died, AssertionError):
            return False

    def strike(self) -> None:
        """SIGKILL to the server, if it runs."""
        process = self.server.process
        if process is not None:
            process.kill()

    def revive(self) -> None:
        """Start the server again after its death."""
        self.server_deaths += 1
        self.server.env.pop("STANDBY_CRASH_AT", None)
        with contextlib.suppress(Died):  # again, while it started: the next one revives it
            self.server.restart()

    def judged(self) -> Judged:
        """Hold the story against the server's books."""
        assert self.report is not None, "the job was never done"
        assert self.report["cost"]["charged_pico"] == ledger_pico(self.server.url) - self.spent_before
        return judge(self.server.url, self.output, self.report, rows=self.rows, tries=TRIES)


def doors_of(story: Story) -> Counter[str]:
    """Play a story through and count the passages of every door of the client."""
    seen = story.folder / "doors"
    assert story.live(doors_file=str(seen))
    story.judged()
    return Counter(name for name in seen.read_text().split() if name.startswith("job."))


def is_preparing(job: Path) -> bool:
    """A body appeared, and its items are not in the job's file yet."""
    return (job / "part-0001.json").exists()


def is_sending(job: Path) -> bool:
    """A part is on its way."""
    return any(state == "sending" for state in states_of(job))


def is_downloading(job: Path) -> bool:
    """Results are on their way."""
    return bool(list(job.glob("part-*.new")))


def is_joining(job: Path) -> bool:
    """Answers are being written."""
    return (job / ".answers.jsonl.new").exists() or (job / "answers.jsonl").exists()


def states_of(job: Path) -> list[str]:
    """List the states of the parts, if they can be read now."""
    try:
        database = sqlite3.connect(f"file:{job / 'job.sqlite'}?mode=ro", uri=True, timeout=0.1)
        try:
            return [row[0] for row in database.execute("SELECT state FROM parts")]
        finally:
            database.close()
    except sqlite3.Error:
        return []
