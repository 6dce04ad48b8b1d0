"""One suite, every store: the fixture `opener` makes stores on the same data, `store` is the first of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from standby.records import Workspace
from standby.store.base import Store
from standby.store.sqlite import SqliteStore

Opener = Callable[[], Awaitable[Store]]
STORES: dict[str, Callable[[Path], Store]] = {"sqlite": lambda folder: SqliteStore(folder / "standby.db")}


@pytest.fixture(params=sorted(STORES))
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Open one more store object on the same data, as another process would."""
    opened: list[Store] = []

    async def open_one() -> Store:
        store = STORES[request.param](tmp_path)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(opener: Opener) -> Store:
    """A new store."""
    return await opener()


@pytest.fixture
async def workspace(store: Store) -> Workspace:
    """The workspace that is always there."""
    return (await store.list_workspaces())[0]
