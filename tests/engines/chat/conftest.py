from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.wire.chat.dialect import Dialect
from tests.engines.chat.scripted import Connect, Script


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """Make a scripted engine that listens."""
    script = Script()
    runner = await script.start()
    yield script
    await runner.cleanup()


@pytest.fixture
async def connect(script: Script) -> AsyncIterator[Connect]:
    """Connect adapters to it."""
    made: list[Chat] = []

    async def make(dialect: Dialect | None = None, /, **settings: Any) -> Chat:
        engine = Chat(EngineSettings(**settings), base_url=script.url, dialect=dialect)
        made.append(engine)
        await engine.start()
        return engine

    yield make
    for engine in made:
        await engine.close()
