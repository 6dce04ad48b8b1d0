"""Whose turn is it? Pure: backlogs in, a batch out.

This is the first policy, fair between batches: the batch with the fewest runs under way goes first, and among
equals the oldest. So twenty batches interleave, and a batch of ten beside one of twenty thousand is served
at once. Workspaces, costs and deadlines come with the scheduler's own issue.
"""

from __future__ import annotations

from collections.abc import Sequence

from standby.records import Backlog, BatchId


def choose(backlogs: Sequence[Backlog]) -> BatchId | None:
    """Return the batch whose next run should be leased, or None if none has a run to give."""
    waiting = [backlog for backlog in backlogs if backlog.pending_runs]
    if not waiting:
        return None
    return min(waiting, key=lambda backlog: (backlog.leased_runs, backlog.created_us, backlog.batch_id)).batch_id


def wants_another(
    *, queued: int, held: int, window: int, most_held: int, unserved: bool, is_stuck: bool = False
) -> bool:
    """Say whether a worker should lease one more run.

    It should when the items it holds that can be started (`queued`) would not fill its window twice, or when a batch
    has nobody working on it (`unserved`) and it can still hold one more run. While it holds items that cannot be
    started (`is_stuck`: their endpoint is full or down), half of what it can hold is kept for unserved batches.
    """
    if unserved and held < most_held:
        return True
    return queued < window and not (is_stuck and held >= most_held // 2)
