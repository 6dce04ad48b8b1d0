"""The contract of a store. Every verb is exactly one transaction; when it returns, it is durable.

One behavioural suite (`tests/store/`) runs on every implementation. Times are microseconds and always
arguments: a store has no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Protocol

from standby.records import (
    Backlog,
    Batch,
    BatchId,
    Bill,
    Created,
    Key,
    KeyId,
    LeasedRun,
    LiveBill,
    NewBatch,
    OwnLimits,
    Page,
    PlanFacts,
    Queue,
    Reuse,
    Rules,
    Seal,
    Segment,
    SegmentCommit,
    Spent,
    UsageRow,
    Workspace,
    WorkspaceId,
)
from standby.states import Outcome

ANY_QUEUE = Queue()


class Batches(Protocol):
    """What the API asks for."""

    async def create_batch(self, new: NewBatch, *, now_us: int, room: Queue = ANY_QUEUE) -> Created:
        """Accept a batch with its runs, unless an earlier twin exists; then return the twin.

        `room` is how much may wait in a workspace that has no limits of its own; 0 is any amount. A batch that does
        not fit raises `QueueFull`; so of several creates at once only those are accepted that fit together.

        A twin has the same workspace and credential and the same `idempotency_key` made within 24 h; or, if there is
        no key and `new.origin.is_sdk_retry`, the same body digest made within 10 minutes. The same
        `idempotency_key` with another body digest raises `Conflict`. Deleted batches are no twins.
        """
        ...

    async def find_twin(self, workspace_id: WorkspaceId, new: NewBatch, *, now_us: int) -> Batch | None:
        """Look for the twin that `create_batch` would return, without writing."""
        ...

    async def get_batch(self, workspace_id: WorkspaceId, batch_id: BatchId) -> Batch:
        """Read a batch; raises `NotFound` for another workspace's, an unknown or a deleted one."""
        ...

    async def list_batches(
        self, workspace_id: WorkspaceId, *, limit: int, after: BatchId | None, before: BatchId | None
    ) -> Page:
        """List newest first (contract 2.4). `before` wins over `after`; a cursor need not exist any more."""
        ...

    async def cancel_batch(self, workspace_id: WorkspaceId, batch_id: BatchId, *, now_us: int) -> Batch:
        """in_progress -> canceling; canceling stays as it is; `Conflict` when ended; `NotFound`."""
        ...

    async def delete_batch(self, workspace_id: WorkspaceId, batch_id: BatchId) -> None:
        """Take an ended batch out of sight and owe the erasure of its blobs; `Conflict` unless ended; `NotFound`."""
        ...

    async def manifest(self, batch_id: BatchId) -> list[Segment]:
        """Read the manifest in the order in which results are served: by run, then epoch; sealing rows last."""
        ...


class Runs(Protocol):
    """What workers ask for."""

    async def backlogs(self, *, now_us: int) -> list[Backlog]:
        """List the batches that may be worked on (in_progress, not expired) and have a run to lease, oldest first.

        A leased run whose lease is over counts as pending.
        """
        ...

    async def lease_run(self, batch_id: BatchId, *, holder: str, now_us: int, until_us: int) -> LeasedRun | None:
        """Lease the first run of the batch that is pending or whose lease is over; None if there is none.

        The epoch grows by one. None also if the batch is not in_progress or expired.
        """
        ...

    async def renew_leases(self, *, holder: str, now_us: int, until_us: int) -> set[tuple[BatchId, int]]:
        """Extend every lease of the holder; return the runs (batch, number) that it still holds.

        A lease that ran out but that nobody took is extended as well.
        """
        ...

    async def stopped_batches(self, batch_ids: Sequence[BatchId], *, now_us: int) -> set[BatchId]:
        """Say which of these batches must not be dispatched any more: canceling, ended, deleted or expired."""
        ...

    async def commit_segments(self, commits: Sequence[SegmentCommit], *, now_us: int) -> list[bool]:
        """Commit results of several runs in one transaction; answer for each whether it counted.

        A commit counts only if its run is leased, or given back and not leased since, at the same epoch, and the
        segment's committed length equals `start`. One that does not count changes nothing; the others stand.
        With `is_last` the run becomes done. A commit may have no rows.
        """
        ...

    async def release_runs(self, *, holder: str | None) -> int:
        """Give back every leased run of the holder; of everybody if None (when nobody else can be alive)."""
        ...


class Chores(Protocol):
    """What the sweeper asks for."""

    async def batches_to_close(self, *, now_us: int, grace_us: int) -> list[Batch]:
        """List batches to be sealed now.

        in_progress with all runs done; canceling or expired with no valid lease left, or with `grace_us` over
        since the cancel or the expiry.
        """
        ...

    async def close_runs(self, batch_id: BatchId) -> bool:
        """Fence all workers off: every run becomes done and its epoch grows. False if the batch is ended or gone."""
        ...

    async def seal_batch(self, seal: Seal, *, now_us: int) -> bool:
        """End the batch in one step: manifest row for the added rows, frozen counts, `ended_us`, state.

        False, and nothing changed, if it is ended already. `StoreError` if the counts do not add up to the size or a
        run is not done.
        """
        ...

    async def archive_due(self, *, now_us: int, retention_us: int) -> list[BatchId]:
        """Archive ended batches whose `created_us + retention_us` is over: set `archived_us`, owe the erasure."""
        ...

    async def erasures(self) -> list[BatchId]:
        """List batches whose blobs must be erased: deleted or archived ones."""
        ...

    async def finish_erasure(self, batch_id: BatchId) -> None:
        """Forget runs, manifest and the debt; for a deleted batch the row as well."""
        ...

    async def known_batches(self, batch_ids: Sequence[BatchId]) -> set[BatchId]:
        """Say which of these ids have a row (deleted ones that still owe an erasure included): the rest are orphans."""
        ...


class Tenants(Protocol):
    """Workspaces and keys. Secrets never come here, only their digests."""

    async def create_workspace(self, name: str, *, now_us: int) -> Workspace:
        """Make a workspace; `Conflict` if the name is taken."""
        ...

    async def list_workspaces(self) -> list[Workspace]:
        """List all, oldest first. There is always one named `default`."""
        ...

    async def create_key(self, workspace_id: WorkspaceId, name: str, *, digest: bytes, hint: str, now_us: int) -> Key:
        """Keep the digest of a new key; `NotFound` for an unknown workspace."""
        ...

    async def list_keys(self) -> list[Key]:
        """List all, oldest first, revoked ones included."""
        ...

    async def revoke_key(self, key_id: KeyId, *, now_us: int) -> Key:
        """Revoke for ever; a second time changes nothing; `NotFound`."""
        ...

    async def set_limits(self, workspace_id: WorkspaceId, limits: OwnLimits) -> None:
        """Replace what a workspace may do; `NotFound` for an unknown one."""
        ...

    async def list_limits(self) -> dict[WorkspaceId, OwnLimits]:
        """List the workspaces that have limits of their own."""
        ...

    async def find_key(self, digest: bytes) -> Key | None:
        """Find the key, revoked or not, that has this digest."""
        ...


class Reports(Protocol):
    """Sums for metrics, limits and people."""

    async def count_batches(self) -> dict[str, int]:
        """Count batches by state, deleted ones left out."""
        ...

    async def queue_of(self, workspace_id: WorkspaceId) -> Queue:
        """Count what has no result in batches of this workspace that are not ended; computed, so it cannot drift."""
        ...

    async def count_results(self) -> dict[Outcome, int]:
        """Count all committed results since the store was made, from the ledger (survives deletion)."""
        ...

    async def tokens_of(self, batch_id: BatchId) -> dict[str, int]:
        """Sum the token columns of a batch: input, write_5m, write_1h, read, output."""
        ...

    async def reuse_of(self, batch_id: BatchId) -> Reuse:
        """Sum what engines said of the prompts behind the results of a batch; survives its erasure."""
        ...

    async def rules_of(self, batch_id: BatchId) -> Rules:
        """Read what the create froze."""
        ...

    async def plan_of(self, batch_id: BatchId) -> PlanFacts:
        """Read what its plan knows of a batch as a whole, as the create gave it; `NotFound`."""
        ...


class By(StrEnum):
    """What sums of usage can be grouped by; `credential` is the key."""

    WORKSPACE = "workspace"
    CREDENTIAL = "credential"
    MODEL = "model"
    DAY = "day"
    KIND = "kind"


class Bills(Protocol):
    """What requests cost. Batch items are entered by `commit_segments`, together with their results."""

    async def charge_live(self, bills: Collection[LiveBill], *, now_us: int) -> None:
        """Enter live requests that succeeded, on the day of `now_us`."""
        ...

    async def usage(
        self,
        *,
        by: Collection[By],
        workspace_id: WorkspaceId | None = None,
        since_day: int | None = None,
        until_day: int | None = None,
    ) -> list[UsageRow]:
        """Sum bills of all workspaces or one, from a day (UTC, days since 1970) up to but without another."""
        ...

    async def spent(self, workspace_id: WorkspaceId, *, since_day: int) -> dict[int, Spent]:
        """Sum what a workspace was charged by day (UTC, days since 1970), from a day on; days without are left out."""
        ...

    async def bills_of(self, batch_id: BatchId) -> list[Bill]:
        """Read what a batch cost so far, a bill a model; survives its deletion."""
        ...


class Store(Batches, Runs, Chores, Tenants, Reports, Bills, Protocol):
    """All verbs, and the two ends."""

    async def open(self) -> None:
        """Open or make the store; apply migrations; `StartError` if its schema is newer than this program."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go of files."""
        ...

    async def check(self) -> list[str]:
        """Check what the store can check by itself (invariants I1, I2 on rows, integrity); list what is wrong."""
        ...
