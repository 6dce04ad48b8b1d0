"""Side environments for SDKs of other generations, made on first use under `.cache/sdk` and used again later.

An environment is done when its marker holds the text of what it was made from; anything else is made again.
Only PyPI and the npm registry are asked, through pip and npm; whatever versions are not named here are pinned by
`requirements/*.txt` and `typescript/*/package-lock.json`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "sdk"
PATIENCE_S = 300

PYTHON_VERSIONS = ("0.41.0", "0.121.0", "2.12.0")
TYPESCRIPT_VERSIONS = ("0.36.2", "1.12.0")


def python_with_sdk(version: str) -> Path:
    """Return an interpreter that has this version of the Python SDK, and what its own tests need."""
    requirements = HERE / "requirements" / f"anthropic-{version}.txt"
    home = CACHE / f"python-{version}"

    def make() -> None:
        venv.create(home, with_pip=True, clear=True)
        run(interpreter(home), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(requirements))

    once(home, requirements.read_text(encoding="utf-8") + sys.version, make)
    return interpreter(home)


def sources_of_sdk(version: str) -> Path:
    """Return the unpacked source archive of the Python SDK: its own tests are in there, and nowhere else."""
    home = CACHE / "sources" / f"anthropic-{version}"

    def make() -> None:
        shutil.rmtree(home, ignore_errors=True)
        wanted = ("--no-deps", "--no-binary", "anthropic", f"anthropic=={version}")
        run(python_with_sdk(version), "-m", "pip", "download", "--quiet", "--dest", str(home.parent), *wanted)
        with tarfile.open(home.parent / f"{home.name}.tar.gz") as archive:
            archive.extractall(home.parent, filter="data")

    once(home, version, make)
    return home


def typescript_with_sdk(version: str) -> Path:
    """Return a folder with the story and this version of the TypeScript SDK in its node_modules."""
    home = CACHE / f"typescript-{version}"
    locked = HERE / "typescript" / version
    story = HERE / "typescript" / "story.mjs"

    def make() -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(locked, home)
        shutil.copy(story, home)
        npm = shutil.which("npm")
        assert npm, "node is here, npm is not: the TypeScript SDK cannot be installed"
        run(npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=home)

    once(home, (locked / "package-lock.json").read_text(encoding="utf-8") + story.read_text(encoding="utf-8"), make)
    return home


def once(home: Path, made_from: str, make: Callable[[], None]) -> None:
    """Make `home` unless its marker says that it was made from the same; of two processes one waits."""
    home.parent.mkdir(parents=True, exist_ok=True)
    marker = home.with_name(f"{home.name}.made")
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home.is_dir() and marker.is_file() and marker.read_text(encoding="utf-8") == made_from:
            return
        marker.unlink(missing_ok=True)
        make()
        marker.write_text(made_from, encoding="utf-8")


def interpreter(home: Path) -> Path:
    """Find the interpreter of a virtual environment."""
    return home / "bin" / "python"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end; a failure shows what it said."""
    done = subprocess.run(
        command, cwd=cwd, env=quiet_environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def quiet_environment() -> dict[str, str]:
    """Build an environment in which no setting of this machine changes what an SDK does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "STANDBY_"))}
    loopback = "127.0.0.1,localhost"
    return {**kept, "NO_PROXY": loopback, "no_proxy": loopback, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
