"""A whole server without a socket and without workers: real store, real blobs, real intake, the application."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from standby.api.app import build_app
from standby.api.auth import digest, new_secret
from standby.api.deps import Deps, Phase
from standby.api.metrics import Metrics
from standby.api.till import Till
from standby.blobs.base import segment_key
from standby.blobs.local import LocalBlobs
from standby.config import Settings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.errors import EngineError, unknown_model
from standby.pricing.bills import bill_of
from standby.pricing.book import PriceBook
from standby.records import (
    BatchId,
    BatchView,
    Bill,
    Counts,
    Load,
    Queue,
    Record,
    SchedulerView,
    SegmentCommit,
    Tokens,
    Workspace,
    pack_records,
)
from standby.scheduler.intake import Intake
from standby.scheduler.sealing import seal
from standby.scheduler.spending import Spending
from standby.store.sqlite import SqliteStore
from standby.wire.batches import succeeded_row
from standby.wire.messages import (
    CountParams,
    Event,
    Message,
    MessageParams,
    TextBlock,
    Usage,
    events_of,
)
from tests.api.client import Client

MODEL = Model(
    id="standby-test-1",
    display_name="Standby Test 1",
    created_us=1_700_000_000_000_000,
    max_input_tokens=8192,
    max_output_tokens=4096,
)
OLDER = Model(
    id="standby-test-0",
    display_name="Standby Test 0",
    created_us=1_600_000_000_000_000,
    max_input_tokens=4096,
    max_output_tokens=1024,
)
START_US = 1_780_000_000_000_000


@dataclass(slots=True)
class Clock:
    """A clock that tests set."""

    now_us: int = START_US

    def __call__(self) -> int:
        """Read it."""
        return self.now_us


@dataclass(slots=True)
class Scripted:
    """An engine that does what a test tells it: answer, fail before or between events, or hang until stopped."""

    fault: Exception | None = None
    events_before_fault: int = 0
    hangs_after: int | None = None
    is_ready: bool = True
    seen: list[MessageParams | CountParams] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    answer: str = "As you wish."

    @property
    def profile(self) -> EngineProfile:
        """Two slots, nothing special."""
        return EngineProfile(name="scripted", slots=2, cache=CacheProfile.NONE, yields_to_live=False)

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to stop."""

    def ready(self) -> bool:
        """What the test says."""
        return self.is_ready

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer, fail or hang."""
        self.contexts.append(context)
        self.seen.append(params)
        self.begun.set()
        if self.fault is not None:
            raise self.fault
        if self.hangs_after is not None:
            await self._hang()
        return self._message()

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncIterator[Event]:
        """The same as events."""
        self.contexts.append(context)
        self.seen.append(params)
        self.begun.set()
        is_whole = False
        try:
            for number, event in enumerate(events_of(self._message(), piece=3)):
                if self.fault is not None and number >= self.events_before_fault:
                    raise self.fault
                if self.hangs_after is not None and number >= self.hangs_after:
                    await self._hang()
                yield event
            is_whole = True
        finally:
            if not is_whole:
                self.stopped.set()

    async def count_tokens(self, params: CountParams) -> int:
        """Any number that depends on the prompt."""
        self.seen.append(params)
        return 7 * len(params.messages)

    async def models(self) -> list[Model]:
        """Two, newest first."""
        return [MODEL, OLDER]

    async def resolve(self, model: str) -> str:
        """Both ids, and every Claude name for the newer one."""
        if model in {MODEL.id, OLDER.id}:
            return model
        if model.startswith("claude-"):
            return MODEL.id
        raise unknown_model(model)

    def load(self) -> Load:
        """Busy with one."""
        return Load(live=1, slots=2)

    async def signals(self) -> Signals | None:
        """No metrics."""
        return None

    async def _hang(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()

    def _message(self) -> Message:
        return Message(
            id="msg_01abc",
            model=MODEL.id,
            content=[TextBlock(text=self.answer)],
            stop_reason="end_turn",
            usage=Usage(input_tokens=9, output_tokens=4),
        )


class NobodyWorks:
    """What there is to say where no worker runs, unless a test says more."""

    def __init__(self) -> None:
        """Begin with nothing to say."""
        self.batches: dict[str, BatchView] = {}
        self.view = SchedulerView(
            endpoints=(), batches=0, in_flight=0, held_runs=0, cost_tokens_per_s=None, pressure=0.0
        )

    def batch(self, batch_id: BatchId) -> BatchView | None:
        """Say what the test wants said."""
        return self.batches.get(batch_id)

    def scheduler(self) -> SchedulerView:
        """Say what the test wants said."""
        return self.view


@dataclass(slots=True, kw_only=True)
class World:
    """Everything that a test of the API touches."""

    settings: Settings
    store: SqliteStore
    blobs: LocalBlobs
    folder: Path
    engine: Scripted
    clock: Clock
    phase: list[Phase] = field(default_factory=lambda: [Phase.READY])
    prices: PriceBook = field(default_factory=PriceBook)
    changes: dict[str, Any] = field(default_factory=dict)
    explain: NobodyWorks = field(default_factory=NobodyWorks)
    spending: Spending = field(init=False)
    till: Till = field(init=False)

    def __post_init__(self) -> None:
        """Open the till beside the store."""
        self.spending = Spending(store=self.store, settings=self.settings.limits, clock=self.clock)
        self.till = Till(store=self.store, prices=self.prices, clock=self.clock, settle=self.spending.settle)

    def app(self) -> ASGIApp:
        """Build the application with everything as it is now."""
        deps: dict[str, Any] = {
            "settings": self.settings,
            "store": self.store,
            "blobs": self.blobs,
            "engine": self.engine,
            "intake": Intake(
                store=self.store,
                blobs=self.blobs,
                settings=self.settings.batch,
                clock=self.clock,
                room=Queue(items=self.settings.limits.enqueued_items, tokens=self.settings.limits.enqueued_tokens),
                check=self.spending.check,
            ),
            "clock": self.clock,
            "metrics": Metrics(),
            "prices": self.prices,
            "spending": self.spending,
            "till": self.till,
            "explain": self.explain,
            "state": lambda: self.phase[0],
        }
        return build_app(Deps(**(deps | self.changes)))

    def client(self, **more: Any) -> Client:
        """Make a client of a fresh application."""
        return Client(self.app(), **more)

    async def key(self, workspace: str = "default") -> tuple[str, Workspace]:
        """Make a key for a workspace, and the workspace if it is new."""
        known = {each.name: each for each in await self.store.list_workspaces()}
        owner = known.get(workspace) or await self.store.create_workspace(workspace, now_us=self.clock())
        secret = new_secret()
        await self.store.create_key(owner.id, "test", digest=digest(secret), hint=secret[-4:], now_us=self.clock())
        return secret, owner

    async def work(self, batch_id: str, *, texts: Sequence[str] | None = None, runs: int | None = None) -> list[bytes]:
        """Settle the items of the batch's runs (all, or the next few), as a worker would; return the rows."""
        done: list[bytes] = []
        while runs is None or runs > 0:
            rows = await self._work_run(BatchId(batch_id), texts, first=len(done))
            if rows is None:
                break
            done += rows
            runs = None if runs is None else runs - 1
        return done

    async def end(self, batch_id: str) -> None:
        """Seal the batch: whatever has no result becomes canceled or expired."""
        for batch in [b for w in await self.store.list_workspaces() for b in await self._batches(w)]:
            if batch.id == batch_id:
                assert await seal(self.store, self.blobs, batch, clock=self.clock)
                return
        raise AssertionError(batch_id)

    async def ended(self, client: Client, size: int = 3, **more: Any) -> str:
        """Create a batch, work on it and end it; return its id."""
        batch_id: str = (await client.post("/v1/messages/batches", create_body(size))).ok()["id"]
        await self.work(batch_id, **more)
        await self.end(batch_id)
        return batch_id

    async def _batches(self, workspace: Workspace) -> Iterable[Any]:
        return (await self.store.list_batches(workspace.id, limit=1000, after=None, before=None)).batches

    def _bill(self, rows: int) -> Bill:
        one = bill_of(_message(""), self.prices, now_us=self.clock(), is_batch=True)
        return reduce(Bill.__add__, [one] * rows)

    async def _work_run(self, batch_id: BatchId, texts: Sequence[str] | None, *, first: int) -> list[bytes] | None:
        now_us = self.clock()
        run = await self.store.lease_run(batch_id, holder="test", now_us=now_us, until_us=now_us + 30_000_000)
        if run is None:
            return None
        items = range(run.first, run.first + run.count)
        rows = [
            succeeded_row(f"item-{item}", _message(texts[first + place] if texts else f"Answer {item}"))
            for place, item in enumerate(items)
        ]
        records = [
            Record(item=item, length=len(row), crc=zlib.crc32(row)) for item, row in zip(items, rows, strict=True)
        ]
        key = segment_key(batch_id, run.number, run.epoch)
        data = b"".join(rows)
        await self.blobs.append(key, data, at=0)
        commit = SegmentCommit(
            batch_id=batch_id,
            run=run.number,
            epoch=run.epoch,
            key=key,
            start=0,
            end=len(data),
            records=pack_records(records),
            counts=Counts(succeeded=len(rows)),
            tokens=Tokens(input=2 * len(rows), output=3 * len(rows)),
            is_last=True,
            bills=(self._bill(len(rows)),),
        )
        assert await self.store.commit_segments([commit], now_us=now_us) == [True]
        return rows


def engine_fault(failure: Any, **more: Any) -> EngineError:
    """Make a failure of the engine."""
    return EngineError(failure, "The engine said no.", **more)


def item(custom_id: str, **params: Any) -> dict[str, Any]:
    """Write one item of a create."""
    return {"custom_id": custom_id, "params": message(**params)}


def message(**params: Any) -> dict[str, Any]:
    """Write the body of a Messages request."""
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Say it."}],
        **params,
    }


def create_body(size: int) -> dict[str, Any]:
    """Write a create with items `item-0`, `item-1` and so on."""
    return {"requests": [item(f"item-{number}") for number in range(size)]}


def _message(text: str) -> Message:
    return Message(
        id="msg_01row",
        model=MODEL.id,
        content=[TextBlock(text=text)],
        stop_reason="end_turn",
        usage=Usage(input_tokens=2, output_tokens=3, service_tier="batch"),
    )
