"""Fixtures for pytest; pytest finds them by itself where Standby is installed.

    def test_my_job(standby_emulator):
        run_my_job(client=standby_emulator.client())
        standby_emulator.advance(hours=24)
        …

One server runs for the whole session; every test begins with no batches, no script, no faults. For other settings
define `standby_emulator_server` in your `conftest.py`, with `with emulator(…) as emu: yield emu`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from standby.testing.emulator import Emulator, emulator


@pytest.fixture(scope="session")
def standby_emulator_server() -> Iterator[Emulator]:
    """One emulator for all tests."""
    with emulator() as running:
        yield running


@pytest.fixture
def standby_emulator(standby_emulator_server: Emulator) -> Iterator[Emulator]:
    """An emulator as if it had just been started, but for its clock."""
    standby_emulator_server.reset()
    yield standby_emulator_server
    standby_emulator_server.close()
