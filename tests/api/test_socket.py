from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn

from standby.api.auth import CACHE_US
from standby.api.protocol import JsonProtocol
from tests.api.world import World, message

PATIENCE_S = 20.0


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[int]:
    """Serve the world on a free port of this machine."""
    config = uvicorn.Config(
        world.app(), port=0, lifespan="off", log_config=None, access_log=False, http=JsonProtocol, ws="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def until(met: Callable[[], bool]) -> None:
    """Poll, within a bound, for what has no event to wait for."""
    async with asyncio.timeout(PATIENCE_S):
        while not met():  # noqa: ASYNC110 - a folder and a foreign server tell nobody when they change
            await asyncio.sleep(0.001)


async def exchange(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read the answer until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    async with asyncio.timeout(PATIENCE_S):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: many\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    ],
)
async def test_bytes_that_are_no_http(world: World, raw: bytes) -> None:
    """What the parser refuses is answered in the contract's shape too, with an id."""
    async with listening(world) as port:
        status, headers, body = await exchange(port, raw)

    assert status == 400
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert json.loads(body)["request_id"].lower() == headers["request-id"]


async def test_refused_body_still_gets_its_answer(world: World) -> None:
    """A body that is refused early is let through, so that the client reads the 413 instead of a broken pipe."""
    world.settings = replace(world.settings, batch=replace(world.settings.batch, max_body_mb=1))
    size = 24 << 20
    head = (
        f"POST /v1/messages/batches HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    )

    async with listening(world) as port:
        status, _, body = await exchange(port, head.encode() + bytes(size))
        await world.key()
        world.clock.now_us += CACHE_US
        unknown, _, _ = await exchange(port, head.encode() + bytes(size))

    assert (status, unknown) == (413, 401)
    assert json.loads(body)["error"]["type"] == "request_too_large"


async def test_refused_body_is_not_asked_for(world: World) -> None:
    """A client that asks before it sends its body is refused without sending it."""
    world.settings = replace(world.settings, batch=replace(world.settings.batch, max_body_mb=1))
    head = (
        "POST /v1/messages/batches HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-length: {24 << 20}\r\nexpect: 100-continue\r\n\r\n"
    )

    async with listening(world) as port:
        status, _, _ = await exchange(port, head.encode())

    assert status == 413


@pytest.mark.parametrize("stream", [False, True])
async def test_closed_connection_stops_the_engine(world: World, *, stream: bool) -> None:
    """A client that closes its connection frees the engine, while it waits and in mid-stream."""
    world.engine.hangs_after = 3
    body = json.dumps(message(stream=stream)).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"

    async with listening(world) as port, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        await world.engine.begun.wait()
        if stream:
            assert b"message_start" in await reader.readuntil(b"message_start")
        writer.close()
        await world.engine.stopped.wait()


async def test_broken_off_upload_on_a_socket(world: World) -> None:
    """A connection that breaks in the middle of a create leaves nothing behind."""
    head = b"POST /v1/messages/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n"

    async with listening(world) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b" " * 2_000_000)
        await until(lambda: bool(list(world.folder.glob("spool/*"))))
        writer.transport.abort()
        await until(lambda: not list(world.folder.glob("spool/*")))

    assert await world.store.count_batches() in ({}, {"in_progress": 0, "canceling": 0, "ended": 0})
