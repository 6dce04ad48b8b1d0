"""The splitter in a process of its own: decoding holds the interpreter, and the server's belongs to live requests.

`python -m standby.scheduler.split_child ITEMS PLAN MAX_ITEMS ORDER` prints the result as JSON. It begins when the
body is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path

import msgspec

from standby.errors import ApiError, BlobError
from standby.scheduler.split import SplitResult, split

NICENESS = 10


async def split_in_child(items: Path, plan: Path, *, max_items: int, order: str) -> SplitResult:
    """Split a body as `split` does; `ApiError` 500 if the child died. A canceled caller ends the child."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "standby.scheduler.split_child",
        str(items),
        str(plan),
        str(max_items),
        order,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        answer, trouble = await child.communicate()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
    if child.returncode != 0:
        last = trouble.decode(errors="replace").strip().rpartition("\n")[2]
        raise ApiError(500, "api_error", "The batch could not be checked; try again") from BlobError(last)
    return msgspec.json.decode(answer, type=SplitResult)


def main(arguments: list[str]) -> None:
    """Split, and print the result."""
    os.nice(NICENESS)
    gc.disable()  # nothing here forms cycles, and looking for them takes a tenth of the time
    items, plan, max_items, order = arguments
    result = split(Path(items), Path(plan), max_items=int(max_items), order=order)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(sys.argv[1:])
