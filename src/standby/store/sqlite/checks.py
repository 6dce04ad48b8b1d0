"""What the store can check by itself: the file, the rows, and invariants I1 and I2 on the manifest."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator

from standby.store.sqlite.rows import items_of
from standby.store.sqlite.statements import load

_SQL = load("checks")


def find_faults(db: sqlite3.Connection) -> list[str]:
    """List what is wrong; an empty list is a healthy store."""
    damage = list(_damage(db))
    return damage or [*_broken_references(db), *_impossible_rows(db), *_wrong_manifests(db)]


def _damage(db: sqlite3.Connection) -> Iterator[str]:
    """When pages are damaged, nothing that is read from them can be trusted."""
    for (said,) in db.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"database: {said}"


def _broken_references(db: sqlite3.Connection) -> Iterator[str]:
    for table, _, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield f"{table}: a row refers to a missing row of {parent}"


def _impossible_rows(db: sqlite3.Connection) -> Iterator[str]:
    for row in db.execute(_SQL["impossible_runs"]):
        yield f"batch {row['batch_id']}, run {row['number']}: {row['state']} although the batch has ended"
    for row in db.execute(_SQL["uncovered_batches"]):
        yield f"batch {row['id']}: its runs hold {row['covered']} of {row['size']} items"
    for row in db.execute(_SQL["unlike_ledger"]):
        yield f"batch {row['id']}: the ledger has {row['entered']} results, the manifest {row['settled']}"
    for row in db.execute(_SQL["unlike_bills"]):
        yield f"batch {row['batch_id']}: {row['billed']} results are on its bills, {row['succeeded']} succeeded"


def _wrong_manifests(db: sqlite3.Connection) -> Iterator[str]:
    """I1 and I2: no item twice, never more than the batch has, and all of them at its end."""
    for row in db.execute(_SQL["batches_with_manifest"]).fetchall():
        manifest = db.execute(_SQL["records_of_batch"], {"batch_id": row["id"]})
        items = Counter(item for segment in manifest for item in items_of(segment["records"]))
        twice = [item for item, times in items.items() if times > 1]
        if twice:
            yield f"batch {row['id']}: item {twice[0]} and {len(twice) - 1} more have several results"
        if any(item >= row["size"] for item in items):
            yield f"batch {row['id']}: a result belongs to an item that the batch does not have"
        if items.total() != row["settled"]:
            yield f"batch {row['id']}: counts say {row['settled']} results, the manifest has {items.total()}"
        if row["state"] == "ended" and len(items) != row["size"]:
            yield f"batch {row['id']}: ended with {len(items)} results for {row['size']} items"
