"""`standby serve` as a process: what it prints, and how it refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.harness import ServerProcess, clean_environment, doctor, free_port


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `standby serve` where it cannot start; a server that starts after all fails the test."""
    return subprocess.run(
        [sys.executable, "-m", "standby", "serve", "--engine", "simulated", *arguments],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_first_lines_show_how_to_use_it(tmp_path: Path) -> None:
    """The address and one line for each SDK come first."""
    with ServerProcess(tmp_path / "data") as server:
        shown = server.log.read_text(encoding="utf-8")
    assert f"Standby serves {server.url} with the simulated engine" in shown
    assert f'base_url="{server.url}"' in shown
    assert f'baseURL: "{server.url}"' in shown


def test_sigterm_is_an_orderly_end(tmp_path: Path) -> None:
    """SIGTERM ends with exit code 0, and the folder is sound and free again."""
    with ServerProcess(tmp_path / "data") as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert doctor(tmp_path / "data") == ""


def test_port_that_is_taken(tmp_path: Path) -> None:
    """A taken port is one line that names it, and exit code 3."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = refused("--port", str(port), "--data", str(tmp_path / "data"))
    assert done.returncode == 3
    assert f"server.port: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_that_is_in_use(tmp_path: Path) -> None:
    """A second server on one folder is refused and told who has it; the first goes on."""
    with ServerProcess(tmp_path / "data") as server:
        done = refused("--port", str(free_port()), "--data", str(tmp_path / "data"))
        assert server.is_ready()
        assert f"in use by process {server.pid}" in done.stderr
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_other_hosts_without_a_key(tmp_path: Path) -> None:
    """Without a key the server does not listen where others could reach it."""
    done = refused("--host", "0.0.0.0", "--port", str(free_port()), "--data", str(tmp_path / "data"))
    assert done.returncode == 3
    assert "standby keys create" in done.stderr


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A data folder below a file is one line and exit code 3."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = refused("--port", str(free_port()), "--data", str(tmp_path / "file" / "data"))
    assert done.returncode == 3
    assert str(tmp_path / "file" / "data") in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_engine(tmp_path: Path) -> None:
    """An engine that does not exist is exit code 3 and a line that says which ones there are."""
    done = refused("--engine", "gtp", "--port", "0", "--data", str(tmp_path / "data"))
    assert done.returncode == 3
    assert "standby: engine.kind: must be local, llamacpp, simulated or a URL, not 'gtp'" in done.stderr
    assert "Traceback" not in done.stderr
