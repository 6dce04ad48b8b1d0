"""A PostgreSQL of one's own, on a free port, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness import free_port, wait_until

PLACES = (Path("/usr/lib/postgresql"), Path("/usr/local/bin"), Path("/opt/homebrew/bin"))


def programs() -> Path | None:
    """Find the folder of `initdb` and `postgres`; Debian keeps them beside the path."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next((one.parent for place in PLACES for one in sorted(place.glob("**/initdb"), reverse=True)), None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield its address. It refuses to run as root, so that it is another's then."""
    place = programs()
    assert place is not None, "PostgreSQL is not installed"
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="standby-pg-", ignore_cleanup_errors=True) as name:
        if user is not None:
            shutil.chown(name, user)
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


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
