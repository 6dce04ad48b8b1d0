"""The store, open for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from standby.config import Settings
from standby.errors import NotFound
from standby.records import WorkspaceId
from standby.store.base import Store


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[Store]:
    """Open the store of these settings and close it afterwards; a running server is not disturbed."""
    from standby import server

    store = await server.open_store(settings)
    try:
        yield store
    finally:
        await store.close()


async def workspace_of(store: Store, wanted: str) -> WorkspaceId:
    """Find a workspace by its name or id; `NotFound` says where they are listed."""
    for each in await store.list_workspaces():
        if wanted in {each.name, each.id}:
            return each.id
    raise NotFound(f"no workspace {wanted!r}; `standby workspaces list` shows them")
