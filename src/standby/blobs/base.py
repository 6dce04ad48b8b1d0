"""The contract of the blob room. Keys are `{batch}/{name}`; what a verb wrote is durable when it returns.

Keys of a batch: `items` (the create's body as it came, decoded), `plan` (packed `PlanEntry`s) and
`segments/{run}-{epoch}.jsonl` (rows; only the length that the manifest names exists).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from standby.records import BatchId


def items_key(batch_id: BatchId) -> str:
    """Key of the body that a create brought."""
    return f"{batch_id}/items"


def plan_key(batch_id: BatchId) -> str:
    """Key of the plan."""
    return f"{batch_id}/plan"


def segment_key(batch_id: BatchId, run: int, epoch: int) -> str:
    """Key of the segment that the holder of this epoch appends to."""
    return f"{batch_id}/segments/{run:05d}-{epoch}.jsonl"


class Spool(Protocol):
    """A local file that grows while an upload arrives."""

    @property
    def path(self) -> Path:
        """Where it lies; nobody else reads it before it is adopted."""
        ...

    async def write(self, data: bytes | bytearray) -> None:
        """Append; `BlobError` if the disk does not take it."""
        ...

    def sync(self) -> None:
        """Make it durable and close it; blocks."""
        ...

    async def discard(self) -> None:
        """Remove it and everything beside it; safe to call at any time, twice too."""
        ...


class Blobs(Protocol):
    """Big bytes."""

    async def open(self) -> None:
        """Make the room ready; whatever uploads were under way when it was last used are removed."""
        ...

    async def open_to_read(self) -> None:
        """Only look: nothing is removed, so that a server may be using the room."""
        ...

    async def close(self) -> None:
        """Let go of files."""
        ...

    async def spool(self) -> Spool:
        """Begin an upload."""
        ...

    async def adopt(self, batch_id: BatchId, *, items: Spool, plan: Path) -> None:
        """Make a spool and a plan file the batch's `items` and `plan`, durably."""
        ...

    async def append(self, key: str, data: bytes, *, at: int) -> None:
        """Write `data` at byte `at` of a segment, making it if `at` is 0, durably. Repeating it is harmless."""
        ...

    async def read(self, key: str, *, start: int, end: int) -> bytes:
        """Read bytes [start, end); `BlobError` if they are not all there."""
        ...

    async def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several ranges [start, end) of one blob at once; `BlobError` if one is not all there."""
        ...

    def stream(self, key: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Read bytes [start, end) in pieces of up to 1 MiB; `BlobError` if they are not all there."""
        ...

    async def size(self, key: str) -> int:
        """Size in bytes; `BlobError` if it is missing."""
        ...

    async def list_batches(self) -> list[BatchId]:
        """List the batches that have a folder."""
        ...

    async def erase(self, batch_id: BatchId) -> None:
        """Remove everything of a batch; safe to call twice."""
        ...
