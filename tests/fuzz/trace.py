"""What a server shows and keeps: compared before and after a refusal, nothing may differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.harness import Answer, ServerProcess, list_batches, results, wait_ended, wait_until
from tests.kill.witness import expect_error

DATABASE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Trace:
    """The ids in the list and the files in the data folder."""

    ids: tuple[str, ...]
    files: frozenset[str]


def trace(server: ServerProcess) -> Trace:
    """Look at both."""
    return Trace(tuple(b["id"] for b in list_batches(server)), files(server.data))


def files(folder: Path) -> frozenset[str]:
    """Name all files below a folder, without those that the database makes beside its own."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return frozenset(name for name in found if not name.endswith(DATABASE))


def assert_nothing_left(server: ServerProcess, before: Trace) -> None:
    """Insist that list and folder are as they were; a broken-off upload is noticed a moment later."""
    wait_until(
        lambda: trace(server) == before,
        10,
        lambda: (
            f"left behind: {sorted(trace(server).files ^ before.files)}, {set(trace(server).ids) ^ set(before.ids)}"
        ),
    )


def assert_refused(server: ServerProcess, answer: Answer | None, before: Trace, *statuses: int) -> str:
    """Insist on a 4xx in the contract's shape that left nothing behind; returns its message."""
    assert answer is not None, "the server hung up without an answer"
    assert answer.status in (statuses or range(400, 500)), f"{answer.status}: {answer.body[:500]!r}"
    _, _, message = expect_error(answer)
    assert_nothing_left(server, before)
    return message


def assert_all_or_nothing(server: ServerProcess, answer: Answer | None, before: Trace) -> None:
    """Insist on a clean refusal, or on a batch that ends with as many results as it has items."""
    assert answer is not None, "the server hung up without an answer"
    if answer.status != 200:
        assert_refused(server, answer, before)
        return
    batch = answer.json()
    size = sum(batch["request_counts"].values())
    assert size > 0
    wait_ended(server, batch["id"])
    assert len(results(server, batch["id"])) == size
