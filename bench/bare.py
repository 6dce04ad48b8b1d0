"""The dispatch that a bare program would write: an asyncio loop, the same engine, the same group commit to a file."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path

import uvloop

from standby.config import SimulatorSettings
from standby.engines.simulated import Simulated
from standby.records import Rules
from standby.wire.batches import decode_item, succeeded_row
from standby.wire.messages import decode_params

GROUP = 64


def dispatch_bare(items: list[bytes], out: Path, *, slots: int) -> tuple[float, float]:
    """Return wall and processor seconds."""
    return uvloop.run(_dispatch(items, out, slots))


async def _dispatch(items: list[bytes], out: Path, slots: int) -> tuple[float, float]:
    engine = Simulated(SimulatorSettings(slots=slots))
    await engine.start()
    queue, rows = iter(items), asyncio.Queue[bytes | None]()

    async def work() -> None:
        for raw in queue:
            custom_id, params = decode_item(raw)
            message = await engine.generate(decode_params(bytes(params), rules=Rules(), batch=True))
            rows.put_nowait(succeeded_row(custom_id, message))

    start, cpu = time.perf_counter(), _cpu_s()
    writer = asyncio.create_task(_write(rows, out))
    await asyncio.gather(*(work() for _ in range(slots)))
    rows.put_nowait(None)
    await writer
    return time.perf_counter() - start, _cpu_s() - cpu


async def _write(rows: asyncio.Queue[bytes | None], out: Path) -> None:
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    group: list[bytes] = []
    while (row := await rows.get()) is not None:
        group.append(row)
        if len(group) >= GROUP:
            await asyncio.to_thread(_append, fd, b"".join(group))
            group = []
    await asyncio.to_thread(_append, fd, b"".join(group))
    os.close(fd)


def _append(fd: int, data: bytes) -> None:
    os.write(fd, data)
    os.fsync(fd)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
