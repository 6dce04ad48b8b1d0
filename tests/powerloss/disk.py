"""A model of what a disk keeps when the power goes, replayed from a recorded list of events.

A file keeps what was synced. Of what was written later it may keep any part: nothing, everything, or some of the
writes with the last one torn. A name is certain only after its folder was synced; until then the old or the new
state of the folder may come back.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
FOLDER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a file or folder; `kind` is a method of `Disk`."""

    kind: str
    path: str
    target: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Inode:
    """Content that is certain, and the writes and cuts since."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, kept: Sequence[tuple[int, bytes | None]]) -> bytes:
        """Apply some of the pending operations to what is certain; `None` as data cuts the file there."""
        content = bytearray(self.synced)
        for offset, data in kept:
            if data is None:
                content = content[:offset].ljust(offset, b"\0")
            else:
                content = content.ljust(offset, b"\0")
                content[offset : offset + len(data)] = data
        return bytes(content)


class Disk:
    """Files and names, certain and uncertain."""

    def __init__(self, events: Sequence[Event]) -> None:
        """Replay events."""
        self.inodes: list[Inode] = []
        self.live: dict[str, int] = {}
        self.certain: dict[str, int] = {}
        for event in events:
            getattr(self, event.kind)(event)

    def make(self, event: Event) -> None:
        """A file is made, if it is not there."""
        if event.path not in self.live:
            self.inodes.append(Inode())
            self.live[event.path] = len(self.inodes) - 1

    def make_folder(self, event: Event) -> None:
        """A folder is made."""
        self.live[event.path] = FOLDER

    def write(self, event: Event) -> None:
        """Bytes are written."""
        self._inode(event).pending.append((event.offset, event.data))

    def truncate(self, event: Event) -> None:
        """A file is cut or stretched."""
        self._inode(event).pending.append((event.offset, None))

    def sync(self, event: Event) -> None:
        """Everything written to a file becomes certain."""
        inode = self._inode(event)
        inode.synced, inode.pending = inode.content(inode.pending), []

    def sync_folder(self, event: Event) -> None:
        """The names in a folder become certain."""
        for names in (self.live, self.certain):
            for path in [path for path in names if str(Path(path).parent) == event.path]:
                if path in self.live:
                    self.certain[path] = self.live[path]
                else:
                    del self.certain[path]

    def remove(self, event: Event) -> None:
        """A name is removed."""
        self.live.pop(event.path, None)

    def rename(self, event: Event) -> None:
        """A name moves."""
        self.live[event.target] = self.live.pop(event.path)

    def image(self, folder: Path, chance: random.Random, *, keep: str) -> None:
        """Write what came back after the power went: `keep` is "synced", "all" or "some"."""
        names = self._names(chance, keep)
        contents = [inode.content(self._kept(inode, chance, keep)) for inode in self.inodes]
        for path in sorted(names):
            if any(str(above) not in names for above in list(Path(path).parents)[:-1]):
                continue
            if names[path] == FOLDER:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(contents[names[path]])

    def _names(self, chance: random.Random, keep: str) -> dict[str, int]:
        if keep == "synced":
            return self.certain
        if keep == "all":
            return self.live
        names = {}
        for path in {*self.live, *self.certain}:
            source = chance.choice((self.live, self.certain))
            if path in source:
                names[path] = source[path]
        return names

    @staticmethod
    def _kept(inode: Inode, chance: random.Random, keep: str) -> list[tuple[int, bytes | None]]:
        if keep != "some":
            return inode.pending if keep == "all" else []
        kept = [operation for operation in inode.pending if chance.random() < 0.7]
        if kept and (data := kept[-1][1]):
            torn = chance.randrange(len(data) + 1)
            kept[-1] = (kept[-1][0], data[: torn - torn % SECTOR] if chance.random() < 0.5 else data[:torn])
        return kept

    def _inode(self, event: Event) -> Inode:
        if event.path not in self.live:
            self.make(event)
        return self.inodes[self.live[event.path]]
