"""Results come home: raw lines to disk, whole or not at all; then every item sent is accounted for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from standby.folder import sync_folder
from standby.workload.faults import LocalState, Unavailable
from standby.workload.jobfile import JobFile, Part, Settled
from standby.workload.names import item_of
from standby.workload.outcomes import Validate, verdict, written
from standby.workload.service import Download, Seen, Service

BUFFER = 1 << 20
SYNC_BYTES = 8 << 20
"""So much of a download may be lost by a power cut."""
MOST_NAMED = 5
MOST_PAUSE_S = 30.0
MOST_WRONG = 2
"""How often a body that came to its end without some of its rows is read; it will hardly be another one then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies in a file of results."""

    lines: int
    ours: int
    """Items of the part that have a row."""
    missing: int
    """Items of the part that have none."""
    others: int
    """Rows that are named as nothing in the part."""

    def is_whole(self, items: int) -> bool:
        """Whether each item has its row; of a batch that need not be ours, whether it has as many rows."""
        return not self.missing or (not self.ours and self.lines >= items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """How often results are read, and how the time in between is spent."""

    times: int
    first_pause_s: float
    wait: Callable[[float], None]

    def pause(self, attempt: int) -> None:
        """Wait before attempt number `attempt`, from 1."""
        self.wait(min(self.first_pause_s * 2.0 ** min(attempt - 1, 10), MOST_PAUSE_S))


def download(service: Service, job: JobFile, part: Part, batch: Seen, tries: Tries) -> Found:
    """Read the results of a batch into the file of a part: synced, renamed, so that it is complete or is not there.

    A connection that breaks is taken up where it broke if the service can do that, else from the start; also by the
    next process. One that ends early without a word is noticed by the rows that are not there. What is short after all
    tries is kept as it is: its missing rows will be named. `Unavailable` if it broke to the end, or no row came at all.
    """
    to = job.results(part.number)
    new = to.with_suffix(".new")
    with _room_on(new):
        _take_up(job, part, new)
        found = _read(service, job, part, batch, tries)
        if not (found.ours or found.others):
            _forget(job, part, new)
            raise Unavailable(f"the results of {batch.id} hold no row that can be read")
        _sync(new)
        new.replace(to)
        sync_folder(to.parent)
    return found


def _read(service: Service, job: JobFile, part: Part, batch: Seen, tries: Tries) -> Found:
    """Try until all is there, or there is nothing left to try."""
    new = job.results(part.number).with_suffix(".new")
    attempt = ended = wrong = 0
    if (found := look_into(new, job, part)).is_whole(part.items):  # by a process that died before it could say so
        return found
    while True:
        failure = _append(service, job, part, batch, new)
        _drop_half_a_line(new)
        found = look_into(new, job, part)
        attempt += 1
        ended += failure is None
        wrong += failure is None and found.lines >= part.items
        if found.is_whole(part.items) or wrong == MOST_WRONG or attempt == tries.times:
            break
        if failure is None and (wrong or ended % 2 == 0):  # it was taken up, or as long as it should be: all is suspect
            _forget(job, part, new)
        tries.pause(attempt)
    if failure is not None and not found.is_whole(part.items):
        raise failure
    return found


def _append(service: Service, job: JobFile, part: Part, batch: Seen, new: Path) -> Unavailable | None:
    """Read on from where the file ends; return what broke."""
    try:
        offset = new.stat().st_size if new.exists() else 0
        with service.results(batch, offset=offset, etag=job.part(part.number).etag) as answer, _writable(new) as file:
            _store(job, part, answer, file)
    except Unavailable as error:
        return error
    return None


def _store(job: JobFile, part: Part, answer: Download, file: BinaryIO) -> None:
    """Write what comes; now and then, and whatever ends it, sync it and write down how much there is."""
    file.truncate(answer.offset)
    file.seek(answer.offset)
    job.change(part, etag=answer.etag, fetched=min(job.part(part.number).fetched, answer.offset))
    synced = answer.offset
    try:
        for piece in answer.pieces:
            file.write(piece)
            if file.tell() - synced >= SYNC_BYTES:
                synced = _remember(job, part, file)
    finally:
        _remember(job, part, file)


def _remember(job: JobFile, part: Part, file: BinaryIO) -> int:
    """Sync what was written, and write down how much it is."""
    file.flush()
    os.fsync(file.fileno())
    job.change(part, fetched=file.tell())
    return file.tell()


def _take_up(job: JobFile, part: Part, new: Path) -> None:
    """Keep of an earlier process's download what is surely on disk, if it can be taken up at all."""
    known = job.part(part.number)
    if new.exists() and known.etag and known.fetched:
        os.truncate(new, min(new.stat().st_size, known.fetched))
    else:
        _forget(job, part, new)


def _forget(job: JobFile, part: Part, new: Path) -> None:
    """Begin anew."""
    new.unlink(missing_ok=True)
    job.change(part, etag=None, fetched=0)


def _writable(path: Path) -> BinaryIO:
    """Open without losing what is there; for its owner only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=BUFFER)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _room_on(path: Path) -> Iterator[None]:
    """Say what is wrong with the disk; what is there stays for the next command."""
    try:
        yield
    except OSError as error:
        raise LocalState(f"{path}: {error.strerror or type(error).__name__}; the same command goes on later") from error


class _Named(msgspec.Struct):
    custom_id: str


_named = msgspec.json.Decoder(_Named).decode


def look_into(results: Path, job: JobFile, part: Part) -> Found:
    """Count the rows of a part in a file of results, and those of others."""
    names, tag = job.hashes(part.number), job.tag
    left = set(names)
    lines = others = 0
    if results.exists():
        with results.open("rb", buffering=BUFFER) as file:
            for line in file:
                lines += 1
                with contextlib.suppress(msgspec.DecodeError):
                    item = item_of(tag, _named(line).custom_id)
                    others += item not in names
                    left.discard(item or b"")
    return Found(lines=lines, ours=len(names) - len(left), missing=len(left), others=others)


def _drop_half_a_line(path: Path) -> None:
    """Cut what stands behind the last newline, unless it is a whole row itself."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = start = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail:
            start = max(0, start - BUFFER)
            file.seek(start)
            tail = file.read(min(BUFFER, end - start)) + tail
        half = tail[tail.rfind(b"\n") + 1 :]
        if half and not _is_json(half):
            file.truncate(end - len(half))


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


@dataclass(slots=True)
class Account:
    """What was found in the results of one part that should not be there."""

    foreign: int = 0
    duplicates: int = 0
    unreadable: int = 0
    named: list[str] = field(default_factory=list)
    """The first few names of both kinds."""

    def facts(self) -> dict[str, object]:
        """Write it as facts of the part."""
        return {"foreign_ids": self.foreign + self.unreadable, "duplicates": self.duplicates}


def settled(job: JobFile, part: Part, account: Account, validate: Validate | None) -> Iterator[Settled]:
    """Walk over the results of a part and say what became of each item; `account` fills up on the way."""
    left, tag = job.hashes(part.number), job.tag
    seen: set[bytes] = set()
    place = 0
    with job.results(part.number).open("rb", buffering=BUFFER) as file:
        for line in file:
            found = _decoded(line)
            item = item_of(tag, found.get("custom_id")) if found is not None else None
            if found is None:
                account.unreadable += 1
            elif item in left:
                left.remove(item)
                seen.add(item)
                yield _settled(item, found["result"], place, len(line), validate)
            else:
                _name(account, found, is_duplicate=item in seen)
            place += len(line)


def _settled(item: bytes, result: dict[str, Any], place: int, length: int, validate: Validate | None) -> Settled:
    found = verdict(result, validate=validate)
    tokens = written(found.used, str(result["message"].get("model", ""))) if found.used is not None else None
    return Settled(hash=item, outcome=found.outcome, cause=found.cause, place=place, length=length, tokens=tokens)


def _name(account: Account, found: dict[str, Any], *, is_duplicate: bool) -> None:
    if is_duplicate:
        account.duplicates += 1
    else:
        account.foreign += 1
    if len(account.named) < MOST_NAMED:
        account.named.append(str(found.get("custom_id"))[:80])


def _decoded(line: bytes) -> dict[str, Any] | None:
    """Read one row; None if it is none. CRLF, which proxies make, does no harm."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) and _is_result(found.get("result")) else None


def _is_result(result: object) -> bool:
    """Whether it has the form of the contract (2.7.2), as far as it is read here."""
    if not isinstance(result, dict) or not isinstance(result.get("type"), str):
        return False
    message = result.get("message")
    return result["type"] != "succeeded" or (
        isinstance(message, dict)
        and isinstance(message.get("usage"), dict)
        and isinstance(message.get("content"), list)
        and all(isinstance(block, dict) for block in message["content"])
    )
