"""Blobs in a local folder: obstore reads, lists and removes; appends are ours, since no object store appends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import obstore
from obstore.store import LocalStore

from standby.blobs.base import Spool
from standby.doors import door
from standby.errors import BlobError
from standby.folder import sync_folder
from standby.ids import is_id, random_id
from standby.records import BatchId

PIECE = 1 << 20


class LocalSpool:
    """One folder a upload, so that the plan can lie beside the body and both vanish together."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and the file."""
        self._folder = folder
        folder.mkdir()
        self._fd: int | None = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    @property
    def path(self) -> Path:
        """The body so far."""
        return self._folder / "items"

    async def write(self, data: bytes | bytearray) -> None:
        """Append off the event loop: a full page cache makes writes wait."""
        assert self._fd is not None
        await asyncio.to_thread(_write_all, self._fd, data)

    async def discard(self) -> None:
        """Remove the folder."""
        self.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the file, durable or not."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def sync(self) -> None:
        """Make the body durable and close it."""
        assert self._fd is not None
        with _as_blob_error("sync the upload"):
            os.fsync(self._fd)
        self.close()


class LocalBlobs:
    """A folder with `batches/` and `spool/`."""

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is made before `open`."""
        self._batches = root / "batches"
        self._spool = root / "spool"
        self._store: LocalStore | None = None

    async def open(self) -> None:
        """Make the folders; remove uploads that a crash cut off."""
        await asyncio.to_thread(self._prepare)
        self._store = LocalStore(prefix=self._batches)

    async def open_to_read(self) -> None:
        """Only look: nothing is removed, so a server may be using the folder."""
        await asyncio.to_thread(self._batches.mkdir, parents=True, exist_ok=True)
        self._store = LocalStore(prefix=self._batches)

    async def close(self) -> None:
        """Nothing is held open between calls."""

    async def spool(self) -> LocalSpool:
        """Begin an upload in a folder of its own."""
        with _as_blob_error("begin an upload"):
            return LocalSpool(self._spool / random_id("upload"))

    async def adopt(self, batch_id: BatchId, *, items: Spool, plan: Path) -> None:
        """Sync both files, move them, sync the folders: after this a power cut keeps them."""
        await asyncio.to_thread(self._adopt, batch_id, items, plan)

    async def append(self, key: str, data: bytes, *, at: int) -> None:
        """Write and sync off the event loop."""
        await asyncio.to_thread(self._append, key, data, at)

    async def read(self, key: str, *, start: int, end: int) -> bytes:
        """One range read."""
        if end <= start:
            return b""
        try:
            found = bytes(await obstore.get_range_async(self._opened, key, start=start, end=end))
        except (OSError, obstore.exceptions.BaseError) as error:
            raise BlobError(f"{key}: cannot be read ({type(error).__name__})") from error
        if len(found) != end - start:
            raise BlobError(f"{key}: ends at byte {start + len(found)}, expected {end}")
        return found

    async def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Range reads, all in one call."""
        wanted = [(start, end) for start, end in ranges if end > start]
        starts, ends = [start for start, _ in wanted], [end for _, end in wanted]
        try:
            read = await obstore.get_ranges_async(self._opened, key, starts=starts, ends=ends) if wanted else []
        except (OSError, obstore.exceptions.BaseError) as error:
            raise BlobError(f"{key}: cannot be read ({type(error).__name__})") from error
        found = iter(read)
        pieces = [bytes(next(found)) if end > start else b"" for start, end in ranges]
        for piece, (start, end) in zip(pieces, ranges, strict=True):
            if len(piece) != end - start:
                raise BlobError(f"{key}: ends at byte {start + len(piece)}, expected {end}")
        return pieces

    async def stream(self, key: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Range reads one after another."""
        for piece in range(start, end, PIECE):
            yield await self.read(key, start=piece, end=min(end, piece + PIECE))

    async def size(self, key: str) -> int:
        """Ask the file system."""
        try:
            return int((await obstore.head_async(self._opened, key))["size"])
        except (OSError, obstore.exceptions.BaseError) as error:
            raise BlobError(f"{key}: is missing") from error

    async def list_batches(self) -> list[BatchId]:
        """List folders whose name is a batch id."""
        names = await asyncio.to_thread(os.listdir, self._batches)
        return [BatchId(name) for name in sorted(names) if is_id("msgbatch", name)]

    async def erase(self, batch_id: BatchId) -> None:
        """Remove the folder, durably."""
        await asyncio.to_thread(self._erase, batch_id)

    @property
    def _opened(self) -> LocalStore:
        assert self._store is not None, "open() comes first"
        return self._store

    def _prepare(self) -> None:
        with _as_blob_error("make the data folder"):
            shutil.rmtree(self._spool, ignore_errors=True)
            for folder in (self._batches, self._spool):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(self._batches.parent)

    def _adopt(self, batch_id: BatchId, items: Spool, plan: Path) -> None:
        home = self._batches / batch_id
        door("blobs.adopt.before_sync")
        with _as_blob_error("keep the batch"):
            items.sync()
            with plan.open("rb") as file:
                os.fsync(file.fileno())
            door("blobs.adopt.before_rename")
            (home / "segments").mkdir(parents=True)
            items.path.rename(home / "items")
            door("blobs.adopt.between_renames")
            plan.rename(home / "plan")
            for folder in (home / "segments", home, self._batches):
                sync_folder(folder)
        door("blobs.adopt.done")

    def _append(self, key: str, data: bytes, at: int) -> None:
        path = self._batches / key
        door("blobs.append.before_write")
        with _as_blob_error(f"write {key}"):
            fd = os.open(path, os.O_WRONLY | (os.O_CREAT if at == 0 else 0), 0o600)
            try:
                os.lseek(fd, at, os.SEEK_SET)
                _write_all(fd, data)
                door("blobs.append.before_sync")
                os.fsync(fd)
            finally:
                os.close(fd)
            if at == 0:
                sync_folder(path.parent)
        door("blobs.append.done")

    def _erase(self, batch_id: BatchId) -> None:
        door("blobs.erase.before")
        with _as_blob_error(f"erase {batch_id}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._batches / batch_id)
            sync_folder(self._batches)
        door("blobs.erase.done")


def _write_all(fd: int, data: bytes | bytearray) -> None:
    with _as_blob_error("write"):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _as_blob_error(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BlobError(f"cannot {doing}: {error.strerror or error}") from error
