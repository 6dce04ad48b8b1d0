"""Plays the story of `calls.py` with every SDK, one process each, and remembers what became of every call."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

from tests.sdk.calls import CALLS
from tests.sdk.environments import (
    HERE,
    PYTHON_VERSIONS,
    TYPESCRIPT_VERSIONS,
    python_with_sdk,
    run,
    typescript_with_sdk,
)
from tests.sdk.places import Stage

INSTALLED = "2.12.0"
"""The version that this project's own environment has."""
SDKS = (*(f"python {version}" for version in PYTHON_VERSIONS), *(f"typescript {each}" for each in TYPESCRIPT_VERSIONS))
OTHER = "somebody else"
SHAPES = "shapes"
AT_ONCE = 3
TENANTS = (*SDKS, OTHER, SHAPES)


class Stories:
    """The stories of all SDKs, a few at a time, each played once; they begin when the first is asked for."""

    def __init__(self, stage: Stage) -> None:
        """Keep where they play."""
        self.stage = stage
        self._played: dict[str, Future[dict[str, str]]] = {}

    def calls(self, sdk: str) -> dict[str, str]:
        """Return what became of each call of this SDK, in the order of `CALLS`."""
        if not self._played:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                self._played = {each: pool.submit(play, each, self.stage) for each in SDKS if is_playable(each)}
        return self._played[sdk].result()


def is_playable(sdk: str) -> bool:
    """Whether this machine can run the SDK's language."""
    return sdk.startswith("python") or node_program() is not None


def play(sdk: str, stage: Stage) -> dict[str, str]:
    """Play one story to its end."""
    language, _, version = sdk.partition(" ")
    command = python_command(version) if language == "python" else typescript_command(version)
    told = json.loads(run(*command, json.dumps(setting(sdk, stage))))
    assert told["sdk"] == version, f"the environment of {sdk} has {told['sdk']}"
    assert set(told["calls"]) == set(CALLS), f"the story of {sdk} and calls.py differ"
    return {name: told["calls"][name] for name in CALLS}


def setting(sdk: str, stage: Stage) -> dict[str, str]:
    """Tell a story where it plays."""
    mine, other = asdict(stage.tenants[sdk]), asdict(stage.tenants[OTHER])
    return {
        "url": stage.url,
        "prefixed_url": stage.prefixed_url,
        **mine,
        **{f"other_{name}": value for name, value in other.items()},
    }


def python_command(version: str) -> tuple[str, ...]:
    """Start the Python story."""
    interpreter = sys.executable if version == INSTALLED else str(python_with_sdk(version))
    return (interpreter, "-W", "error", str(HERE / "story.py"))


def typescript_command(version: str) -> tuple[str, ...]:
    """Start the TypeScript story."""
    node = node_program()
    assert node, "node is not installed"
    return (node, str(typescript_with_sdk(version) / "story.mjs"))


def node_program() -> str | None:
    """Find node, if it is here."""
    return shutil.which("node")
