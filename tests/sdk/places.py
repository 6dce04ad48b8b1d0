"""The servers that the SDKs meet, with real workspaces and keys made by the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import ServerProcess
from tests.sdk.environments import run

PREFIX = "/llm"
SLOW = {"simulator": {"slots": 16, "decode_tokens_s": 24.0, "answer_tokens": 96}}
"""A second for 24 tokens, so that a batch of many is still running when a story cancels it."""
QUICK = {"simulator": {"slots": 8, "decode_tokens_s": 400.0}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A workspace and the key that opens it."""

    workspace: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the stories play: a server with a tenant for each of them, and one behind a path prefix without keys."""

    url: str
    prefixed_url: str
    tenants: dict[str, Tenant]


@contextmanager
def stage(folder: Path, names: Sequence[str]) -> Iterator[Stage]:
    """Run both servers for as long as the block lasts."""
    with ExitStack() as servers:
        tenants = {name: make_tenant(folder / "data", name) for name in names}
        server = servers.enter_context(ServerProcess(folder / "data", config=SLOW))
        prefix = {"server": {"path_prefix": PREFIX}}
        prefixed = servers.enter_context(ServerProcess(folder / "prefixed", config={**SLOW, **prefix}))
        yield Stage(url=server.url, prefixed_url=prefixed.url + PREFIX, tenants=tenants)


@contextmanager
def fleeting_server(folder: Path) -> Iterator[str]:
    """Run a server where a batch expires after a moment and is archived soon after."""
    batch = {"window_s": 0.5, "grace_s": 0.0, "retention_s": 3.0}
    with ServerProcess(folder / "data", config={**SLOW, "batch": batch}) as server:
        yield server.url


@contextmanager
def quick_server(folder: Path) -> Iterator[tuple[str, Tenant]]:
    """Run a server that answers at once, and yield its URL and one tenant."""
    tenant = make_tenant(folder / "data", "tests")
    with ServerProcess(folder / "data", config=QUICK) as server:
        yield server.url, tenant


def make_tenant(data: Path, name: str) -> Tenant:
    """Make a workspace and a key for it."""
    place = ("--data", str(data))
    workspace = standby("workspaces", "create", *place, name)
    return Tenant(workspace=workspace, key=standby("keys", "create", *place, "--workspace", workspace, name))


def standby(*command: str) -> str:
    """Run the command line and return what it says."""
    return run(sys.executable, "-m", "standby", *command).strip()
