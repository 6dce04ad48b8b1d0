"""These tests talk to an engine that somebody else started: without its address they are not there at all."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder out unless an engine was named."""
    return None if config.getoption("--engine-url") else True


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Say where the engine listens."""
    return str(request.config.getoption("--engine-url"))
