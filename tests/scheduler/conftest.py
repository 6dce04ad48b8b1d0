"""A whole house in one process: real store, real blobs, the simulator, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from standby.blobs.local import LocalBlobs
from standby.config import BatchSettings, SimulatorSettings, WorkerSettings
from standby.engines.simulated import Simulated
from standby.records import SECOND, Batch, BatchId, Principal, Rules, WorkspaceId
from standby.scheduler.intake import Intake
from standby.scheduler.meters import Meters
from standby.scheduler.sweeper import Sweeper
from standby.scheduler.worker import Worker
from standby.states import BatchState
from standby.store.sqlite import SqliteStore

BOUND = 3_000
"""Most passes that a test waits for something."""


class House:
    """Everything between the API and the disk, with its loops in the test's hands."""

    def __init__(self, root: Path, *, batch: BatchSettings, worker: WorkerSettings) -> None:
        """Build it; `open` makes it live."""
        self.offset_us = 0
        self.batch_settings = batch
        self.worker_settings = worker
        self.store = SqliteStore(root / "standby.db")
        self.blobs = LocalBlobs(root)
        self.engine = Simulated(SimulatorSettings(slots=8))
        self.meters = Meters(CollectorRegistry())
        self.intake = Intake(store=self.store, blobs=self.blobs, settings=batch, clock=self.now_us)
        self.sweeper = Sweeper(
            store=self.store, blobs=self.blobs, settings=batch, clock=self.now_us, meters=self.meters
        )
        self.workspace = WorkspaceId("")
        self.worker = self.new_worker()

    async def open(self) -> None:
        """Open store, blobs and engine."""
        await self.store.open()
        await self.blobs.open()
        await self.engine.start()
        self.workspace = (await self.store.list_workspaces())[0].id

    async def close(self) -> None:
        """Close them."""
        await self.engine.close()
        await self.store.close()

    def now_us(self) -> int:
        """Return the clock's time: a fixed moment plus what the test let pass."""
        return 1_800_000_000 * SECOND + self.offset_us

    def pass_s(self, seconds: float) -> None:
        """Let time go by."""
        self.offset_us += int(seconds * SECOND)

    def new_worker(self, **more: Any) -> Worker:
        """Make another worker on the same store."""
        return Worker(
            store=self.store,
            blobs=self.blobs,
            engine=self.engine,
            settings=self.worker_settings,
            grace_s=self.batch_settings.grace_s,
            clock=self.now_us,
            meters=self.meters,
            **more,
        )

    async def submit(self, items: list[dict[str, Any]], **how: Any) -> BatchId:
        """Create a batch as the API would."""
        principal = Principal(workspace_id=self.workspace, credential="tester")
        upload = self.intake.begin(
            principal=principal,
            rules=Rules(),
            encoding=None,
            idempotency_key=how.get("idempotency_key"),
            is_sdk_retry=how.get("is_sdk_retry", False),
        )
        try:
            await upload.write(json.dumps({"requests": items}).encode())
            return (await upload.finish()).batch.id
        finally:
            await upload.abort()

    async def turn(self, worker: Worker | None = None) -> None:
        """One pass of every loop, a twentieth of a second later."""
        worker = worker or self.worker
        self.pass_s(0.06)
        await worker.renew_once()
        await worker.run_once()
        await asyncio.sleep(0)
        await worker.committer.run_once()
        await self.sweeper.run_once()

    async def until(self, holds: Callable[[Batch], bool], batch_id: BatchId) -> Batch:
        """Turn until the batch looks as it should."""
        for _ in range(BOUND):
            batch = await self.store.get_batch(self.workspace, batch_id)
            if holds(batch):
                return batch
            await self.turn()
        raise AssertionError(f"it never happened: {batch}")

    async def until_ended(self, batch_id: BatchId) -> Batch:
        """Turn until the batch ended."""
        return await self.until(lambda batch: batch.state is BatchState.ENDED, batch_id)

    async def rows(self, batch_id: BatchId) -> dict[str, dict[str, Any]]:
        """Read the results; every `custom_id` must stand there once."""
        found: dict[str, dict[str, Any]] = {}
        for segment in await self.store.manifest(batch_id):
            data = await self.blobs.read(segment.key, start=0, end=segment.length)
            for line in data.splitlines():
                row = json.loads(line)
                assert row["custom_id"] not in found
                found[row["custom_id"]] = row["result"]
        return found


def item(name: str, *, text: str = "hello", **params: Any) -> dict[str, Any]:
    """Make one item."""
    body = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": text}], **params}
    return {"custom_id": name, "params": body}


@pytest.fixture
def make_item() -> Callable[..., dict[str, Any]]:
    """The maker of items."""
    return item


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house with quick commits."""
    house = House(tmp_path, batch=BatchSettings(grace_s=5), worker=WorkerSettings(commit_ms=0))
    await house.open()
    try:
        yield house
    finally:
        await house.close()
