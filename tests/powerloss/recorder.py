"""Listen to every write, sync, cut, rename and removal that SQLite and the blobs make under one folder.

SQLite is heard through a VFS of our own, put in front of the real one in the very library that Python's
`sqlite3` is linked to; the blobs are heard through the functions of `os`. Both write into one list, in order.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.powerloss.disk import Event

NAME = b"standby-recorder"
OPEN_CREATE = 0x4
JOURNALS = 0x800 | 0x4000 | 0x80000
"""Main journal, super-journal and WAL: the real VFS syncs their folder with their first sync."""

_METHODS = tuple(
    """
    xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl
    xSectorSize xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch
    """.split()  # noqa: SIM905 - a table of names is read as words
)
_VFS = tuple(
    """
    xOpen xDelete xAccess xFullPathname xDlOpen xDlError xDlSym xDlClose xRandomness xSleep xCurrentTime
    xGetLastError xCurrentTimeInt64 xSetSystemCall xGetSystemCall xNextSystemCall
    """.split()  # noqa: SIM905 - a table of names is read as words
)
P = ctypes.c_void_p


class Methods(ctypes.Structure):
    """`sqlite3_io_methods`."""

    _fields_ = (("iVersion", ctypes.c_int), *((name, P) for name in _METHODS))


class Vfs(ctypes.Structure):
    """`sqlite3_vfs`."""

    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", P),
        ("zName", ctypes.c_char_p),
        ("pAppData", P),
        *((name, P) for name in _VFS),
    )


OPEN = ctypes.CFUNCTYPE(ctypes.c_int, P, P, P, ctypes.c_int, P)
DELETE = ctypes.CFUNCTYPE(ctypes.c_int, P, ctypes.c_char_p, ctypes.c_int)
WRITE = ctypes.CFUNCTYPE(ctypes.c_int, P, P, ctypes.c_int, ctypes.c_int64)
TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, P, ctypes.c_int64)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, P, ctypes.c_int)

Fault = Callable[[str, str], int]


class Recorder:
    """The list of events under `root`, while `recording` is open."""

    def __init__(self, root: Path) -> None:
        """Name the folder; everything elsewhere is not heard."""
        self.root = root.resolve()
        self.events: list[Event] = []
        self.fault: Fault | None = None
        """Asked before each call of SQLite (kind, path): an error code other than 0 is returned instead."""
        self._lock = threading.Lock()

    def hear(self, kind: str, path: str | Path, **what: Any) -> None:
        """Add an event, if it lies under the root."""
        named = self.inside(path)
        if named is not None:
            if "target" in what:
                what["target"] = self.inside(what["target"])
            with self._lock:
                self.events.append(Event(kind=kind, path=named, **what))

    def inside(self, path: str | Path) -> str | None:
        """Path below the root, or None."""
        place = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and ask the disk
        return str(place.relative_to(self.root)) if place.is_relative_to(self.root) else None


@contextmanager
def recording(root: Path) -> Iterator[Recorder]:
    """Listen until the end of the block; every connection opened inside must be closed inside."""
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch, _listening_vfs(recorder):
        _listen_to_os(recorder, patch)
        yield recorder


@contextmanager
def _listening_vfs(recorder: Recorder) -> Iterator[None]:
    library = _library()
    real = library.sqlite3_vfs_find(None)
    vfs = Vfs.from_buffer_copy(real.contents)
    vfs.zName, vfs.pNext = NAME, None
    ears = _Ears(recorder, real)
    vfs.xOpen, vfs.xDelete = ears.pointer(OPEN(ears.open)), ears.pointer(DELETE(ears.delete))
    assert library.sqlite3_vfs_register(ctypes.byref(vfs), 1) == 0
    try:
        yield
    finally:
        assert library.sqlite3_vfs_unregister(ctypes.byref(vfs)) == 0


def _library() -> Any:
    """Find the library that `sqlite3` itself uses; skip where it is built in."""
    name = ctypes.util.find_library("sqlite3")
    with Path("/proc/self/maps").open(encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "libsqlite3" in line}
    if name is None or not loaded:
        pytest.skip("Python's sqlite3 is not linked to a shared libsqlite3, so its writes cannot be heard")
    library = ctypes.CDLL(loaded.pop())
    library.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_libversion.restype = ctypes.c_char_p
    assert library.sqlite3_libversion().decode() == sqlite3.sqlite_version
    return library


class _Ears:
    """Functions that SQLite calls instead of the real ones, which they call in turn."""

    def __init__(self, recorder: Recorder, real: Any) -> None:
        self.recorder = recorder
        self.real = real
        self.kept: list[Any] = []
        self.files: dict[int, tuple[str, Methods, bool]] = {}
        self.tables: dict[int, tuple[Methods, Methods]] = {}
        self.real_open = OPEN(real.contents.xOpen)
        self.real_delete = DELETE(real.contents.xDelete)

    def pointer(self, function: Any) -> Any:
        """Keep a callback alive and give its address."""
        self.kept.append(function)
        return ctypes.cast(function, P)

    def open(self, _vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code = int(self.real_open(ctypes.addressof(self.real.contents), name, file, flags, out))
        if code == 0 and name:
            path = ctypes.string_at(name).decode()
            table = ctypes.cast(file, ctypes.POINTER(P))
            real, heard = self._table(table[0])
            table[0] = ctypes.addressof(heard)
            self.files[file] = (path, real, bool(flags & JOURNALS))
            if flags & OPEN_CREATE:
                self.recorder.hear("make", path)
        return code

    def delete(self, _vfs: int, name: bytes, sync_folder: int) -> int:
        code = self._faulty("remove", name.decode()) or int(
            self.real_delete(ctypes.addressof(self.real.contents), name, sync_folder)
        )
        if code == 0:
            self.recorder.hear("remove", name.decode())
            if sync_folder:
                self.recorder.hear("sync_folder", Path(name.decode()).parent)
        return code

    def write(self, file: int, data: int, amount: int, offset: int) -> int:
        path, real, _ = self.files[file]
        content = ctypes.string_at(data, amount)
        code = self._faulty("write", path) or int(WRITE(real.xWrite)(file, data, amount, offset))
        if code == 0:
            self.recorder.hear("write", path, offset=offset, data=content)
        return code

    def truncate(self, file: int, size: int) -> int:
        path, real, _ = self.files[file]
        code = self._faulty("truncate", path) or int(TRUNCATE(real.xTruncate)(file, size))
        if code == 0:
            self.recorder.hear("truncate", path, offset=size)
        return code

    def sync(self, file: int, flags: int) -> int:
        path, real, is_journal = self.files[file]
        code = self._faulty("sync", path) or int(SYNC(real.xSync)(file, flags))
        if code == 0:
            self.recorder.hear("sync", path)
            if is_journal:
                self.recorder.hear("sync_folder", Path(path).parent)
                self.files[file] = (path, real, False)
        return code

    def _faulty(self, kind: str, path: str) -> int:
        return self.recorder.fault(kind, path) if self.recorder.fault and self.recorder.inside(path) else 0

    def _table(self, address: int) -> tuple[Methods, Methods]:
        """Copy a table of methods once and put our functions into it."""
        if address not in self.tables:
            real = Methods.from_address(address)
            heard = Methods.from_buffer_copy(real)
            heard.xWrite, heard.xTruncate = self.pointer(WRITE(self.write)), self.pointer(TRUNCATE(self.truncate))
            heard.xSync = self.pointer(SYNC(self.sync))
            self.tables[address] = (real, heard)
        return self.tables[address]


def _listen_to_os(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    real_open, real_write, real_fsync, real_mkdir, real_rename = os.open, os.write, os.fsync, os.mkdir, os.rename

    def path_of(fd: int) -> str:
        return str(Path(f"/proc/self/fd/{fd}").readlink())

    def listening_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, flags, *args, **kwargs)
        if flags & os.O_CREAT and kwargs.get("dir_fd") is None:
            recorder.hear("make", os.fspath(path))
        return fd

    def listening_write(fd: int, data: Any) -> int:
        path = path_of(fd)
        offset = os.lseek(fd, 0, os.SEEK_CUR) if recorder.inside(path) else 0
        written = real_write(fd, data)
        recorder.hear("write", path, offset=offset, data=bytes(memoryview(data)[:written]))
        return written

    def listening_fsync(fd: int) -> None:
        real_fsync(fd)
        path = Path(path_of(fd))
        if path.is_dir():
            recorder.hear("sync_folder", path)
        elif recorder.inside(path):
            # files that were written through Python's own buffers are first heard of here
            recorder.hear("write", path, data=path.read_bytes())
            recorder.hear("sync", path)

    def listening_mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        real_mkdir(path, *args, **kwargs)
        recorder.hear("make_folder", os.fspath(path))

    def listening_rename(source: Any, target: Any, **kwargs: Any) -> None:
        real_rename(source, target, **kwargs)
        recorder.hear("rename", os.fspath(source), target=os.fspath(target))

    for name, function in {
        "open": listening_open,
        "write": listening_write,
        "fsync": listening_fsync,
        "mkdir": listening_mkdir,
        "rename": listening_rename,
    }.items():
        patch.setattr(os, name, function)
