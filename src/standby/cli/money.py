"""`standby usage` and `standby cost`."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from standby.cli.flags import settings_from, with_settings
from standby.config import Settings
from standby.errors import InvalidParams, NotFound
from standby.records import Batch, BatchId
from standby.store.base import Store

BY = "What to group by: workspace, key, model, day, kind; several with commas."
COLUMNS = ("cost_pico", "uncached_batch_pico", "uncached_standard_pico")
LINES = (
    ("in real time", "standard_pico"),
    ("in a batch", "batch_pico"),
    ("with the cache: charged", "cost_pico"),
    ("saved by the batch", "saved_by_batch_pico"),
    ("saved by the cache", "saved_by_cache_pico"),
    ("an item, on average", "mean_item_pico"),
)


@click.command()
@with_settings
@click.option(
    "--by",
    default="model",
    show_default=True,
    metavar="NAMES",
    help=BY,
)
@click.option("--since", metavar="DAY", help="First day (UTC): 2026-11-22, or 7d for a week back.")
@click.option("--until", metavar="DAY", help="The day after the last one.")
@click.option("--workspace", metavar="NAME|ID", help="Only this one; without it all of them.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, money in pico-dollars.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, money in pico-dollars.")
def usage(
    *,
    config_file: Path | None,
    data: str | None,
    by: str,
    since: str | None,
    until: str | None,
    workspace: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Sum what was used and what it cost, batches and live requests; a server may be running.

    Only requests that succeeded are charged. Sums survive the deletion of batches. What has no known price is counted
    beside the sum, never as 0.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    rows = asyncio.run(_usage(settings_from(config_file, store__data=data), by, since, until, workspace))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0])) if rows else None
        if writer is not None:
            writer.writeheader()
            writer.writerows(rows)
    else:
        _show_usage(rows)


async def _usage(
    settings: Settings, by: str, since: str | None, until: str | None, workspace: str | None
) -> list[dict[str, Any]]:
    from standby.api.money import by_of, day_of, usage_row
    from standby.cli.stores import store_of, workspace_of

    try:
        now_us = time.time_ns() // 1000
        groups = by_of(by)
        since_day, until_day = day_of("since", since, now_us=now_us), day_of("until", until, now_us=now_us)
    except InvalidParams as error:
        raise click.UsageError(f"--{error.message}") from None
    async with store_of(settings) as store:
        owner = None if workspace is None else await workspace_of(store, workspace)
        found = await store.usage(by=groups, workspace_id=owner, since_day=since_day, until_day=until_day)
    return [usage_row(row, groups) for row in found]


def _show_usage(rows: list[dict[str, Any]]) -> None:
    from standby.cli.tables import show

    if not rows:
        click.echo("Nothing was used.", err=True)
        return
    names = [name for name in rows[0] if name in {"workspace_id", "key", "model", "day", "kind"}]
    show(
        (*names, "requests", "in", "written", "read", "out", "cost", "batch, no cache", "real time, no cache"),
        [
            (
                *(str(row[name]) or "-" for name in names),
                f"{row['requests']:,}",
                f"{row['input_tokens']:,}",
                f"{row['cache_write_5m_tokens'] + row['cache_write_1h_tokens']:,}",
                f"{row['cache_read_tokens']:,}",
                f"{row['output_tokens']:,}",
                *(_money(row[column], row) for column in COLUMNS),
            )
            for row in rows
        ],
    )


def _money(pico: int | None, row: dict[str, Any]) -> str:
    from standby.pricing.rates import dollars

    if pico is None:
        return "unknown"
    return dollars(pico) + (f" + {row['unpriced_requests']:,} unpriced" if row["unpriced_requests"] else "")


@click.command()
@with_settings
@click.option("--top", type=click.IntRange(0, 100), default=10, show_default=True, help="So many of the dearest items.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, money in pico-dollars.")
@click.argument("batch_id", metavar="BATCH_ID")
def cost(*, config_file: Path | None, data: str | None, top: int, as_json: bool, batch_id: str) -> None:
    """Report what a batch cost so far, and what was saved; a server may be running."""
    report = asyncio.run(_cost(settings_from(config_file, store__data=data), BatchId(batch_id), top))
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show_cost(report)


async def _cost(settings: Settings, batch_id: BatchId, top: int) -> dict[str, Any]:
    from standby import server
    from standby.api.cost import cost_of
    from standby.pricing.book import open_book

    prices = open_book(settings.prices, Path(settings.store.data))
    async with server.opened_to_read(settings) as (store, blobs):
        batch = await _batch(store, batch_id)
        return await cost_of(store, blobs, prices, batch, top=top, now_us=time.time_ns() // 1000)


async def _batch(store: Store, batch_id: BatchId) -> Batch:
    for workspace in await store.list_workspaces():
        try:
            return await store.get_batch(workspace.id, batch_id)
        except NotFound:
            continue
    raise NotFound(f"no batch {batch_id}; was it deleted? Its cost still counts in `standby usage`")


def _show_cost(report: dict[str, Any]) -> None:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars

    counts = report["request_counts"]
    click.echo(
        f"{report['id']} ({report['processing_status']}): "
        + ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    )
    lines = [("in real time", "standard_pico"), ("in a batch", "batch_pico"), ("with the cache: charged", "cost_pico")]
    lines += [("saved by the batch", "saved_by_batch_pico"), ("saved by the cache", "saved_by_cache_pico")]
    show(
        ("", "cost"),
        [(name, _money(report[column], report)) for name, column in [*lines, ("an item", "mean_item_pico")]],
    )
    _show_reuse(report["reuse"])
    if len(report["models"]) > 1:
        show(
            ("model", "requests", "charged"),
            [(m["model"] or "-", f"{m['requests']:,}", _money(m["cost_pico"], m)) for m in report["models"]],
        )
    if report["items"]:
        show(
            ("dearest items", "model", "cost"),
            [(one["custom_id"], one["model"], dollars(one["cost_pico"])) for one in report["items"]],
        )


def _show_reuse(reuse: dict[str, Any]) -> None:
    """Say what the engines reused, beside the most that they could, and what of it is billed."""
    engine, billed, bound = reuse["engine_share"], reuse["read_share"], reuse["bound"]
    if billed is None:
        return
    most = "" if bound is None else f"; its plan repeats {bound:.1%}, the most that could"
    told = "the engine does not tell how much it reused" if engine is None else f"the engine reused {engine:.1%}"
    click.echo(f"Of the prompt tokens {told}{most}; {billed:.1%} are billed as read from a cache.")
