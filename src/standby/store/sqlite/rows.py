"""Between rows and records: column names on one side, frozen records on the other."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator

from standby.errors import NotFound
from standby.records import Batch, BatchId, Counts, Key, PlanFacts, Reuse, Rules, Tokens, Workspace
from standby.states import BatchState

_ITEM = struct.Struct("<I8x")

SEALING_RUN = -1
"""The run number of the manifest row that sealing adds."""


def to_batch(row: sqlite3.Row) -> Batch:
    """Read a row of `counted_batches`."""
    settled = row["succeeded"] + row["errored"] + row["canceled"] + row["expired"]
    return Batch(
        id=row["id"],
        workspace_id=row["workspace_id"],
        state=BatchState(row["state"]),
        size=row["size"],
        counts=to_counts(row, processing=row["size"] - settled),
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        ended_us=row["ended_us"],
        cancel_initiated_us=row["cancel_initiated_us"],
        archived_us=row["archived_us"],
    )


def to_counts(row: sqlite3.Row, *, processing: int = 0) -> Counts:
    """Read the four outcome columns."""
    return Counts(
        processing=processing,
        succeeded=row["succeeded"],
        errored=row["errored"],
        canceled=row["canceled"],
        expired=row["expired"],
    )


def from_counts(counts: Counts) -> dict[str, int]:
    """Write the four outcome columns."""
    return {
        "succeeded": counts.succeeded,
        "errored": counts.errored,
        "canceled": counts.canceled,
        "expired": counts.expired,
    }


def settled(counts: Counts) -> int:
    """Count the items that have a result."""
    return counts.succeeded + counts.errored + counts.canceled + counts.expired


def from_tokens(tokens: Tokens) -> dict[str, int]:
    """Write the five token columns."""
    return {
        "input_tokens": tokens.input,
        "write_5m_tokens": tokens.write_5m,
        "write_1h_tokens": tokens.write_1h,
        "read_tokens": tokens.read,
        "output_tokens": tokens.output,
    }


def from_reuse(reuse: Reuse) -> dict[str, int]:
    """Write what engines told of prompts."""
    return {"told_tokens": reuse.prompt, "reused_tokens": reuse.reused}


def to_rules(row: sqlite3.Row) -> Rules:
    """Read what the create froze."""
    return Rules(
        version=row["version"],
        betas=tuple(json.loads(row["betas"])),
        user_profile_id=row["user_profile_id"],
        simulate=row["simulate"],
    )


def from_rules(rules: Rules) -> dict[str, str | None]:
    """Write what the create froze."""
    return {
        "version": rules.version,
        "betas": json.dumps(rules.betas),
        "user_profile_id": rules.user_profile_id,
        "simulate": rules.simulate,
    }


def to_plan(row: sqlite3.Row) -> PlanFacts:
    """Read what the plan knows of the batch as a whole."""
    return PlanFacts(
        prompt_tokens=row["prompt_tokens"], shared_tokens=row["shared_tokens"], groups=row["prefix_groups"]
    )


def from_plan(plan: PlanFacts) -> dict[str, int]:
    """Write what the plan knows of the batch as a whole."""
    return {
        "prompt_tokens": plan.prompt_tokens,
        "shared_tokens": plan.shared_tokens,
        "prefix_groups": plan.groups,
    }


def to_workspace(row: sqlite3.Row) -> Workspace:
    """Read a workspace."""
    return Workspace(id=row["id"], name=row["name"], created_us=row["created_us"])


def to_key(row: sqlite3.Row) -> Key:
    """Read a key."""
    return Key(
        id=row["id"],
        workspace_id=row["workspace_id"],
        name=row["name"],
        hint=row["hint"],
        created_us=row["created_us"],
        revoked_us=row["revoked_us"],
    )


def items_of(records: bytes) -> Iterator[int]:
    """Read only the item numbers of packed records."""
    return (item for (item,) in _ITEM.iter_unpack(records))


def no_batch(batch_id: BatchId) -> NotFound:
    """Answer for an unknown, foreign or deleted batch, with the contract's wording (2.3)."""
    return NotFound(f"Message Batch {batch_id} not found.")
