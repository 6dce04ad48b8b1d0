"""What the API needs from the rest of the house, in one record; `server` fills it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from standby.api.metrics import Metrics
from standby.api.till import Till
from standby.blobs.base import Blobs
from standby.config import Settings
from standby.emulation.stage import Stage
from standby.engines.base import Engine
from standby.pricing.book import PriceBook
from standby.records import BatchId, BatchView, Clock, Created, Principal, Rules, SchedulerView, WorkspaceId
from standby.store.base import Store


class Phase(StrEnum):
    """Where the server is in its own life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Upload(Protocol):
    """One create whose body is on its way; bounded memory, whatever its size."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes as they came; may wait. `ApiError` 413 or for a bad encoding, `BlobError`."""
        ...

    async def finish(self) -> Created:
        """Accept the batch durably. `ApiError` 400 for the envelope, `Conflict` for a reused idempotency key."""
        ...

    async def abort(self) -> None:
        """Forget the upload without a trace; safe at any time, also after a failed `finish`."""
        ...


class Intake(Protocol):
    """Takes uploads."""

    def begin(
        self,
        *,
        principal: Principal,
        rules: Rules,
        encoding: str | None,
        idempotency_key: str | None,
        is_sdk_retry: bool,
    ) -> Upload:
        """Begin an upload; `encoding` is the `Content-Encoding`, lower case, None for plain bytes."""
        ...


class Explain(Protocol):
    """What the scheduler of this process says of itself."""

    def batch(self, batch_id: BatchId) -> BatchView | None:
        """Say how a batch is doing; None if nothing of it waits or runs here."""
        ...

    def scheduler(self) -> SchedulerView:
        """Say how all of it is doing."""
        ...


class Spending(Protocol):
    """Spend limits of workspaces."""

    def is_limited(self, workspace_id: WorkspaceId) -> bool:
        """Whether this workspace has one."""
        ...

    async def check(self, workspace_id: WorkspaceId) -> None:
        """Refuse new work of a workspace whose limit is reached; `LimitReached`."""
        ...

    async def reserve(self, workspace_id: WorkspaceId, estimate_pico: int) -> int:
        """Reserve what a live request is expected to cost; `LimitReached` if it may not run."""
        ...

    def release(self, token: int) -> None:
        """Give a reservation back, unless it was settled."""
        ...

    async def standing(self, workspace_id: WorkspaceId) -> tuple[SpendStanding, int]:
        """Read where a workspace stands, and how many requests of this month have no known price."""
        ...


class SpendStanding(Protocol):
    """Where a workspace stands, in pico-dollars."""

    @property
    def limits_pico(self) -> tuple[int, int]:
        """What it may spend a day and a month; 0 is any amount."""
        ...

    @property
    def day_pico(self) -> int:
        """Spent today."""
        ...

    @property
    def month_pico(self) -> int:
        """Spent this month."""
        ...

    @property
    def reserved_pico(self) -> int:
        """Expected of what is in flight."""
        ...

    def turns_us(self, now_us: int) -> tuple[int, int]:
        """Return when the day and the month end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """Everything behind the routes."""

    settings: Settings
    store: Store
    blobs: Blobs
    engine: Engine
    """The pool that live requests go to."""
    intake: Intake
    clock: Clock
    metrics: Metrics
    prices: PriceBook
    spending: Spending
    till: Till
    """Where live requests are charged."""
    state: Callable[[], Phase]
    explain: Explain
    stage: Stage | None = None
    """What tests can turn; None unless the engine is the simulator."""
