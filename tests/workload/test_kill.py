"""Client and server die at any moment, and the same command goes on: no row is lost, no part is sent twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import ServerProcess
from tests.workload.kills import (
    PHASES,
    SERVER,
    Death,
    Parent,
    Story,
    doors_of,
    is_downloading,
    is_joining,
    is_preparing,
    is_sending,
)

ROWS = 120
"""A canary of 5, two parts of 40, one of 35; row 7 and its like make a second round."""
SERVER_DOORS = (
    "store.create_batch.before_commit",
    "store.create_batch.after_commit",
    "store.seal_batch.before_commit",
)
RANDOM_STORIES = 12
MOST_DEATHS = 4
"""Of one process in one story of the random ones; then it is let live."""


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    """What the clients are forked from."""
    with Parent() as ready:
        yield ready


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with the simulator, for all stories of this file; it may die, and lives on."""
    with ServerProcess(tmp_path_factory.mktemp("kills") / "data", config=SERVER) as running:
        yield running


Begin = Callable[..., Story]


@pytest.fixture
def begin(server: ServerProcess, parent: Parent, tmp_path: Path) -> Begin:
    """Begin a story, in a folder of its own."""

    def named(name: object = "story", rows: int = ROWS) -> Story:
        return Story(tmp_path / str(name), rows, server, parent)

    return named


def test_one_job_dies_in_every_phase_and_is_done_in_the_end(begin: Begin) -> None:
    """A short chain of deaths of one job, each at another door; then it is let live, and its books are right."""
    story = begin(rows=30)
    for door in (
        "job.prepare.before_commit:1",
        "job.move_sending.after_commit:1",
        "job.move_submitted.before_commit:1",
        "job.change.after_commit:3",
        "job.settle.before_commit:1",
        "job.again.before_commit:1",
        "job.note_written.before_commit:1",
    ):
        assert not story.live(Death(door=door)), f"it did not die at {door}"
    assert story.live()
    story.judged()
    expected = {"prepare", "create, not taken", "create, taken", "download", "settle", "join"}
    assert expected <= story.deaths.keys(), story.deaths


@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_a_client_dies_at_every_door(begin: Begin) -> None:
    """Just before and just after each commit of the job's file, chained: each death goes on from the one before."""
    passages = doors_of(begin("learn"))
    firsts = [f"{door}:1" for door in passages]
    left = list(dict.fromkeys([*firsts, *(f"{door}:{count // 2 + 1}" for door, count in passages.items())]))
    deaths: Counter[str] = Counter()
    while left:
        story = begin(len(left))
        hit = [door for door in left if story.report is None and not story.live(Death(door=door))]
        assert story.report or story.live()
        story.judged()
        assert hit, f"no process came to {left}"
        deaths += story.deaths
        left = [door for door in left if door not in hit]
    print(f"{sum(deaths.values())} deaths at doors: {dict(deaths)}")  # noqa: T201 - for the report
    missed = set(PHASES) - deaths.keys() - {"polling"}
    assert not missed, f"nobody died in {missed}"


SIGHTS: dict[str, Callable[[Path], bool]] = {
    "preparing": is_preparing,
    "sending": is_sending,
    "downloading": is_downloading,
    "joining": is_joining,
}


@pytest.mark.kill
@pytest.mark.parametrize("sight", SIGHTS)
def test_a_client_is_killed_in_the_middle(begin: Begin, sight: str) -> None:
    """SIGKILL, again and again, as soon as something is seen to be under way."""
    story = begin()
    for _ in range(MOST_DEATHS):
        if story.live(Death(sight=SIGHTS[sight])):
            break
    else:
        assert story.live()
    story.judged()
    assert story.deaths


@pytest.mark.kill
@pytest.mark.parametrize("door", SERVER_DOORS)
def test_the_server_dies_under_a_client(begin: Begin, server: ServerProcess, door: str) -> None:
    """Before and after it accepted a batch, or ended one: the client waits for it, and sends nothing twice."""
    story = begin()
    server.terminate()
    server.wait()
    server.env["STANDBY_CRASH_AT"] = f"{door}:2"
    server.restart()
    with _reviving(story):
        assert story.live()
        story.wait_for_server()
    assert story.server_deaths == 1
    story.judged()


@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_both_die_at_any_moment(begin: Begin, subtests: pytest.Subtests) -> None:
    """Dice choose the moments of SIGKILL, of the client and of the server in turn."""
    began = time.monotonic()
    assert begin("whole").live()
    longest_s = time.monotonic() - began
    deaths: Counter[str] = Counter()
    servers = 0
    for seed in range(RANDOM_STORIES):
        dice = random.Random(seed)
        with subtests.test(seed=seed), _reviving(story := begin(seed)):
            for turn in range(MOST_DEATHS):
                with _struck(story, dice.uniform(0, longest_s) if turn % 2 else None):
                    is_done = story.live(Death(after_s=dice.uniform(0, longest_s)))
                if is_done:
                    break
            else:
                assert story.live()
            story.wait_for_server()
            story.judged()
            deaths += story.deaths
            servers += story.server_deaths
    print(f"{sum(deaths.values())} deaths of clients: {dict(deaths)}; {servers} of servers")  # noqa: T201
    assert sum(deaths.values()) >= RANDOM_STORIES
    assert servers


@contextmanager
def _struck(story: Story, after_s: float | None) -> Iterator[None]:
    """Kill the server so long after now, if at all; it has happened at the end."""
    timer = threading.Timer(after_s or 0, story.strike)
    if after_s is not None:
        timer.start()
    yield
    if after_s is not None:
        timer.join()


@contextmanager
def _reviving(story: Story) -> Iterator[None]:
    """Start the server again as often as it dies, as an init system does."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if not story.server.is_alive():
                story.revive()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
