from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ServerProcess, doctor


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all hurtful bodies: what one of them breaks, the next ones notice."""
    data: Path = tmp_path_factory.mktemp("fuzz") / "data"
    with ServerProcess(data) as running:
        yield running
        assert running.is_alive(), "a body brought the server down"
        running.terminate()
        assert running.wait() == 0
    assert not list(complaints(running)), "the log speaks of errors that nobody foresaw"
    doctor(data)


def complaints(server: ServerProcess) -> Iterator[str]:
    """Find what the server logged as an error, or did not log but print."""
    for line in server.log_text().splitlines():
        if "Traceback" in line or '"level": "error"' in line or '"stack"' in line:
            yield line
