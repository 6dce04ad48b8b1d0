"""Results come home: raw lines to disk, whole or not at all; then every item sent is accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from standby.folder import sync_folder
from standby.workload.faults import Unavailable
from standby.workload.jobfile import JobFile, Part, Settled
from standby.workload.names import item_of
from standby.workload.outcomes import Validate, verdict, written
from standby.workload.service import Seen, Service

BUFFER = 1 << 20
MOST_NAMED = 5


def download(service: Service, batch: Seen, to: Path, *, items: int, wait: Callable[[float], None], tries: int) -> None:
    """Read the results of a batch into a file: synced, renamed, so that the file is complete or is not there.

    A connection that breaks is taken up where it broke if the service can do that, else from the start. One that ends
    early without a word is noticed by the number of lines. What is short after all tries is kept as it is: its missing
    rows will be named. `Unavailable` if nothing at all came.
    """
    new = to.with_suffix(".new")
    new.unlink(missing_ok=True)
    etag: str | None = None
    failure: Unavailable | None = None
    for attempt in range(tries):
        if attempt:
            wait(min(2.0**attempt, 30.0))
        try:
            etag = _append(service, batch, new, etag)
            failure = None
        except Unavailable as error:
            failure = error
        if _keep_whole_lines(new) >= items:
            break
    if failure is not None:
        raise failure
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)


def _append(service: Service, batch: Seen, new: Path, etag: str | None) -> str | None:
    size = new.stat().st_size if new.exists() else 0
    with service.results(batch, offset=size, etag=etag) as answer:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(fd, "wb", buffering=BUFFER) as file:
            file.truncate(answer.offset)
            file.seek(answer.offset)
            for piece in answer.pieces:
                file.write(piece)
        return answer.etag


def _keep_whole_lines(path: Path) -> int:
    """Cut what stands behind the last newline, unless it is a whole row itself; count the lines."""
    if not path.exists():
        return 0
    lines = whole = 0
    last = b""
    with path.open("rb", buffering=BUFFER) as file:
        for line in file:
            last = line
            if line.endswith(b"\n"):
                lines += 1
                whole += len(line)
    if last and not last.endswith(b"\n"):
        if _is_json(last):
            return lines + 1
        os.truncate(path, whole)
    return lines


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


def is_ours(results: Path, job: JobFile, part: Part) -> bool:
    """Whether results belong to a part: any of their first rows is named as one of its items."""
    hashes, tag = job.hashes(part.number), job.tag
    with results.open("rb") as file:
        for _, line in zip(range(100), file, strict=False):
            found = _decoded(line)
            if found is not None and item_of(tag, found.get("custom_id")) in hashes:
                return True
    return False


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
    return found if isinstance(found, dict) and isinstance(found.get("result"), dict) else None
