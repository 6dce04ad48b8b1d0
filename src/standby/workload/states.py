"""The life of a part, as data, and what to do with it next. Pure: no clock, no files, no network.

A part is one batch of a job. Every move is written down before the world is asked for anything, so that a crash at any
moment leaves a part in a state from which the next process goes on:

* `ready`      its body lies on disk, complete; nothing was sent
* `sending`    the create may have been sent: whether it was accepted has to be found out, never tried again blindly
* `submitted`  the service has it, under a batch id
* `ended`      its results can be downloaded
* `collected`  its results lie on disk, complete
* `done`       every item of it has its outcome
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from standby.workload.faults import LocalState


class PartState(StrEnum):
    """Where a part is on its way."""

    READY = "ready"
    SENDING = "sending"
    SUBMITTED = "submitted"
    ENDED = "ended"
    COLLECTED = "collected"
    DONE = "done"


MOVES: Mapping[PartState, Mapping[PartState, str]] = {
    PartState.READY: {PartState.SENDING: "the intent to create is on disk"},
    PartState.SENDING: {
        PartState.SUBMITTED: "the create was answered, or its batch was found in the list",
        PartState.READY: "the service refused, or surely made no batch",
    },
    PartState.SUBMITTED: {
        PartState.ENDED: "the service says that the batch has ended",
        PartState.SENDING: "the batch that was found turned out to be another's",
        PartState.DONE: "the batch or its results are gone",
    },
    PartState.ENDED: {
        PartState.COLLECTED: "all results are on disk",
        PartState.SENDING: "the results are those of another's batch",
        PartState.DONE: "the results are gone",
    },
    PartState.COLLECTED: {PartState.DONE: "every item has its outcome"},
    PartState.DONE: {PartState.ENDED: "rows are missing, and a person asks for them again"},
}


def check_move(before: PartState, after: PartState) -> None:
    """Refuse a move that the table does not know."""
    if after not in MOVES[before]:
        raise LocalState(f"a part cannot go from {before} to {after}")


FIRST_WAIT_S = 2.0
GROWTH = 1.1
QUEUE_GROWTH = 1.5
LONGEST_WAIT_S = 300.0
JITTER = 0.1


def poll_wait_s(
    polls: int,
    *,
    first_s: float = FIRST_WAIT_S,
    growth: float = GROWTH,
    after_s: float | None = None,
    chance: float = 0.5,
) -> float:
    """How long to wait before poll number `polls` (from 0): 2 s growing by a tenth up to 5 minutes.

    So an end is noticed within about a tenth of what it took: a batch of seconds in seconds, and one of a day costs
    some 330 polls. `after_s` is the service's `retry-after`, which is the least; `chance` between 0 and 1 spreads it
    by a tenth.
    """
    wait_s = min(first_s * growth ** min(polls, 100), max(LONGEST_WAIT_S, first_s))
    return max(wait_s * (1 + JITTER * (2 * chance - 1)), after_s or 0.0)
