"""Folders that hold data: one server at a time in each, and names that survive a power cut."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from standby.errors import StartError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, made if missing; `StartError` if another process has it or it cannot be used."""
    try:
        fd = os.open(made(folder) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(f"store.data: {folder} cannot be used: {error.strerror}") from error
    try:
        _take(fd, folder)
        yield
    finally:
        os.close(fd)


def made(folder: Path) -> Path:
    """Return `folder`, made if missing and open to its owner only; `StartError` if it cannot be made."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(folder.parent)
    except OSError as error:
        raise StartError(f"store.data: {folder} cannot be used: {error.strerror}") from error
    return folder


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; where folders cannot be synced, nothing happens."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _take(fd: int, folder: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StartError(
                f"store.data: {folder} is in use by process {holder}; stop it, or choose another folder with --data"
            ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
