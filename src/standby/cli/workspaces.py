"""`standby workspaces …`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings
from standby.cli.stores import store_of, workspace_of
from standby.cli.tables import moment, show
from standby.config import Settings
from standby.pricing.rates import dollars
from standby.records import OwnLimits, Spent
from standby.scheduler.quota import PICO, day_of, month_start, pico_of_dollars

LARGEST = 9_000_000 * PICO + 1


@click.group()
def workspaces() -> None:
    """Make and list workspaces. Each sees only its own batches."""


@workspaces.command("create")
@with_settings
@click.argument("name")
def create(config_file: Path | None, data: str | None, name: str) -> None:
    """Make a workspace and print its id."""
    click.echo(asyncio.run(_create(settings_from(config_file, store__data=data), name)))


async def _create(settings: Settings, name: str) -> str:
    async with store_of(settings) as store:
        return (await store.create_workspace(name, now_us=time.time_ns() // 1000)).id


@workspaces.command("list")
@with_settings
def list_(config_file: Path | None, data: str | None) -> None:
    """List all workspaces, oldest first."""
    asyncio.run(_list(settings_from(config_file, store__data=data)))


@workspaces.command("limit")
@with_settings
@click.option("--spend-per-day", metavar="DOLLARS", help="What may be charged a day, UTC.")
@click.option("--spend-per-month", metavar="DOLLARS", help="What may be charged a month, UTC.")
@click.option("--enqueued-items", metavar="N", help="Batch items that may wait for a result.")
@click.option("--enqueued-tokens", metavar="N", help="Prompt tokens that may wait for a result.")
@click.argument("workspace", metavar="NAME|ID")
def limit(*, config_file: Path | None, data: str | None, workspace: str, **given: str | None) -> None:
    """Limit what a workspace may do, beside or instead of `[limits]`; a running server heeds it within a second.

    Each value is a number, `none` for no limit, or `default` for what the settings say. Without options nothing is
    changed; the limits that hold are printed either way.
    """
    settings = settings_from(config_file, store__data=data)
    asyncio.run(_limit(settings, workspace, {name: text for name, text in given.items() if text is not None}))


async def _limit(settings: Settings, workspace: str, given: dict[str, str]) -> None:
    values = {name: _read_limit(name, text) for name, text in given.items()}
    async with store_of(settings) as store:
        workspace_id = await workspace_of(store, workspace)
        own = replace((await store.list_limits()).get(workspace_id, OwnLimits()), **values)
        if values:
            await store.set_limits(workspace_id, own)
        days = await store.spent(workspace_id, since_day=month_start(day_of(time.time_ns() // 1000)))
        queue = await store.queue_of(workspace_id)
    today = days.get(day_of(time.time_ns() // 1000), Spent()).pico
    used = {
        "spend_per_day": today,
        "spend_per_month": sum(spent.pico for spent in days.values()),
        "enqueued_items": queue.items,
        "enqueued_tokens": queue.tokens,
    }
    show(
        ("limit", "of", "at most", "used", "left"),
        [_line(name, getattr(own, name), getattr(settings.limits, name), now) for name, now in used.items()],
    )


def _line(name: str, own: int | None, default: float, used: int) -> tuple[str, ...]:
    """Show one limit; what is in flight is known to the server only."""
    is_money = name.startswith("spend")
    usual = pico_of_dollars(default) if is_money else int(default)
    most = usual if own is None else own
    write = dollars if is_money else "{:,}".format
    return (
        name.replace("_", " "),
        "the settings" if own is None else "its own",
        write(most) if most else "none",
        write(used),
        write(max(0, most - used)) if most else "-",
    )


def _read_limit(name: str, text: str) -> int | None:
    """Read a limit as it is stored: None is the settings' own, 0 is none; money in pico-dollars."""
    if text in {"default", "none"}:
        return None if text == "default" else 0
    flag = f"--{name.replace('_', '-')}"
    try:
        value = Decimal(text) * (PICO if name.startswith("spend") else 1)
        number = int(value)
    except (ArithmeticError, ValueError):
        raise click.UsageError(f"{flag}: must be a number, none or default, not {text!r}") from None
    if number != value or not 0 < number < LARGEST:
        raise click.UsageError(f"{flag}: must be above 0, whole, and at most 9 million dollars")
    return number


async def _list(settings: Settings) -> None:
    async with store_of(settings) as store:
        found = await store.list_workspaces()
    show(("id", "name", "created"), [(each.id, each.name, moment(each.created_us)) for each in found])
