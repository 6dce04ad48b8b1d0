"""The splitter in a process of its own, at work while the body is still arriving.

`python -m standby.scheduler.split_child ITEMS PLAN MAX_ITEMS`: the file ITEMS grows until standard input ends; then
the result is printed as JSON. Decoding holds the interpreter, and the server's belongs to live requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from standby.errors import ApiError, BlobError
from standby.scheduler.split import SplitResult, split_body

WAIT_S = 0.005
NICENESS = 19


class SplitChild:
    """One child for one upload: `finish` it or `kill` it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take a process that `start` made."""
        self._process = process

    @classmethod
    async def start(cls, items: Path, plan: Path, *, max_items: int) -> Self:
        """Begin to split a body that still grows."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "standby.scheduler.split_child",
                str(items),
                str(plan),
                str(max_items),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def finish(self) -> SplitResult:
        """Say that the body is whole, and wait for the result; `ApiError` 500 if the child died."""
        answer, trouble = await self._process.communicate(b"")  # ends its input; None would not, on Python 3.11
        if self._process.returncode != 0:
            last = trouble.decode(errors="replace").strip().rpartition("\n")[2]
            raise ApiError(500, "api_error", "The batch could not be checked; try again") from BlobError(last)
        return msgspec.json.decode(answer, type=SplitResult)

    async def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate(b"")


class GrowingFile:
    """A file that another process appends to until `until` ends: reading waits for more instead of ending early."""

    def __init__(self, file: BinaryIO, until: int) -> None:
        """Read from `file`; `until` is a descriptor that becomes readable when no more will come."""
        self._file = file
        self._until = until
        self._is_whole = False

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, at least one unless the whole file was read; everything if `size` is negative."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while not (data := self._file.read(size)) and not self._is_whole:
            self._is_whole = bool(select.select([self._until], [], [], WAIT_S)[0])
        return data or self._file.read(size)

    def seek(self, offset: int) -> None:
        """Go to a place."""
        self._file.seek(offset)


def main(arguments: list[str]) -> None:
    """Split, and print the result."""
    os.nice(NICENESS)
    items, plan, max_items = arguments
    with Path(items).open("rb", buffering=0) as file:
        body = GrowingFile(file, sys.stdin.fileno())
        result = split_body(body, Path(plan), max_items=int(max_items))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(sys.argv[1:])
