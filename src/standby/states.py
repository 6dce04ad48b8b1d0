"""The states of a batch and of a run, the kinds of result, and the only moves between them.

The tables are data: `docs/states.md` is drawn from them and the store's guards are checked against them.
"""

from __future__ import annotations

from enum import StrEnum


class BatchState(StrEnum):
    """`processing_status` on the wire (contract 2.1)."""

    IN_PROGRESS = "in_progress"
    CANCELING = "canceling"
    ENDED = "ended"


class RunState(StrEnum):
    """Where a run is. `DONE` means that its holder will add nothing more to it."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"


class Outcome(StrEnum):
    """`result.type` on the wire (contract 2.7.2)."""

    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"


BATCH_MOVES: dict[BatchState, dict[BatchState, str]] = {
    BatchState.IN_PROGRESS: {
        BatchState.CANCELING: "somebody cancels it",
        BatchState.ENDED: "every item has its result, or 24 hours are over",
    },
    BatchState.CANCELING: {BatchState.ENDED: "the items in flight are finished, the rest is canceled"},
    BatchState.ENDED: {},
}

RUN_MOVES: dict[RunState, dict[RunState, str]] = {
    RunState.PENDING: {
        RunState.LEASED: "a worker leases it; the epoch grows by one",
        RunState.DONE: "the batch is closed before anybody worked on it",
    },
    RunState.LEASED: {
        RunState.LEASED: "the lease ran out and another worker takes it; the epoch grows by one",
        RunState.PENDING: (
            "the worker stops and gives it back; the epoch stays, so late commits count until another worker leases it"
        ),
        RunState.DONE: "its last result is committed, or its batch was stopped",
    },
    RunState.DONE: {},
}
