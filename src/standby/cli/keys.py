"""`standby keys …`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings
from standby.cli.stores import store_of, workspace_of
from standby.cli.tables import moment, show
from standby.config import Settings
from standby.records import KeyId


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. Once there is one, every request needs one."""


@keys.command("create")
@with_settings
@click.option("--workspace", default="default", show_default=True, metavar="NAME|ID", help="Whose batches it opens.")
@click.argument("name")
def create(config_file: Path | None, data: str | None, workspace: str, name: str) -> None:
    """Make a key and print it, this once: only its digest is kept.

    The key alone goes to standard output, so that KEY=$(standby keys create ci) works.
    """
    secret, key_id = asyncio.run(_create(settings_from(config_file, store__data=data), workspace, name))
    click.echo(f"Key {key_id} for workspace {workspace}. It is shown only now:", err=True)
    click.echo(secret)


async def _create(settings: Settings, workspace: str, name: str) -> tuple[str, KeyId]:
    from standby.api.auth import digest, new_secret

    secret = new_secret()
    async with store_of(settings) as store:
        owner = await workspace_of(store, workspace)
        key = await store.create_key(
            owner, name, digest=digest(secret), hint=f"…{secret[-4:]}", now_us=time.time_ns() // 1000
        )
    return secret, key.id


@keys.command("list")
@with_settings
def list_(config_file: Path | None, data: str | None) -> None:
    """List all keys, oldest first, without their secrets."""
    asyncio.run(_list(settings_from(config_file, store__data=data)))


async def _list(settings: Settings) -> None:
    async with store_of(settings) as store:
        names = {each.id: each.name for each in await store.list_workspaces()}
        found = await store.list_keys()
    show(
        ("id", "name", "key", "workspace", "created", "revoked"),
        [
            (each.id, each.name, each.hint, names[each.workspace_id], moment(each.created_us), moment(each.revoked_us))
            for each in found
        ],
    )


@keys.command("revoke")
@with_settings
@click.argument("key_id", metavar="KEY_ID")
def revoke(config_file: Path | None, data: str | None, key_id: str) -> None:
    """Refuse a key from now on, for ever."""
    name = asyncio.run(_revoke(settings_from(config_file, store__data=data), KeyId(key_id)))
    click.echo(f"Key {key_id} ({name}) is revoked.", err=True)


async def _revoke(settings: Settings, key_id: KeyId) -> str:
    async with store_of(settings) as store:
        return (await store.revoke_key(key_id, now_us=time.time_ns() // 1000)).name
