"""Servers for the SDKs, started once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sdk.places import Tenant, quick_server, stage
from tests.sdk.stories import TENANTS, Stories


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    """The stories, on a stage of their own."""
    with stage(tmp_path_factory.mktemp("stage"), TENANTS) as built:
        yield Stories(built)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tenant]]:
    """A server that answers at once, with one tenant."""
    with quick_server(tmp_path_factory.mktemp("quick")) as built:
        yield built
