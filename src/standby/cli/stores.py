"""The store, open for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from standby.config import Settings
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
