"""`standby workspaces …`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings
from standby.cli.stores import store_of
from standby.cli.tables import moment, show
from standby.config import Settings


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


async def _list(settings: Settings) -> None:
    async with store_of(settings) as store:
        found = await store.list_workspaces()
    show(("id", "name", "created"), [(each.id, each.name, moment(each.created_us)) for each in found])
