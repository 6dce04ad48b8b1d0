"""How a host is told what to do, and how it says that it is ready."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    backend: str
    model: Path
    name: str
    uds: str
    port: int
    threads: int
    kv_cache_mb: int
    slots: int
    context: int
    watch_stdin: bool
    measure: bool = True
    """Whether to measure speeds at the start."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The one line on stdout that says: work may be sent to this address now."""

    uds: str
    port: int
    model: str
    slots: int
    context: int
    pid: int


def listen(options: Options) -> socket.socket:
    """Open the unix socket, or a loopback port."""
    if options.uds:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.uds)
    else:
        listener = socket.socket(socket.AF_INET)
        listener.bind(("127.0.0.1", options.port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def say_ready(options: Options, *, port: int, slots: int, context: int) -> None:
    """Write the ready line."""
    name = options.name or options.model.stem
    ready = Ready(uds=options.uds, port=port, model=name, slots=slots, context=context, pid=os.getpid())
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()


async def serve_app(app: ASGIApp, listener: socket.socket) -> None:
    """Answer on `listener` until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    await uvicorn.Server(config).serve(sockets=[listener])
