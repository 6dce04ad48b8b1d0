from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standby.blobs.local import LocalBlobs
from standby.config import Settings, load_settings
from standby.store.sqlite import SqliteStore
from tests.api.client import Client
from tests.api.world import Clock, Scripted, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server on an empty folder."""
    store, blobs = SqliteStore(tmp_path / "standby.db"), LocalBlobs(tmp_path)
    await store.open()
    await blobs.open()
    settings: Settings = load_settings(environ={}, flags={"store.data": str(tmp_path)})
    yield World(settings=settings, store=store, blobs=blobs, folder=tmp_path, engine=Scripted(), clock=Clock())
    await blobs.close()
    await store.close()


@pytest.fixture
def client(world: World) -> Client:
    """A caller on this machine, while no key is defined."""
    return world.client()
