from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from standby import server
from standby.config import Settings, load_settings
from standby.errors import SettingError, StartError


def settings_for(data: Path, **flags: Any) -> Settings:
    """Settings of a server with the simulator on a free port."""
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(
        environ={}, flags={"store.data": str(data), "engine.kind": "simulated", "server.port": 0, **given}
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """Serve in this process; yields the URL that it says."""
    said: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    task = asyncio.create_task(server.serve(settings, say=said.put_nowait, stop=stop))
    first = asyncio.create_task(said.get())
    await asyncio.wait({task, first}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        first.cancel()
        task.result()
    try:
        yield (await first).split()[2]
    finally:
        stop.set()
        await task


def ask(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"anthropic-version": "2023-06-01"}
    connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


async def in_thread(work: Callable[..., tuple[int, Any]], *arguments: Any) -> tuple[int, Any]:
    """Ask without blocking the server that runs beside us."""
    return await asyncio.to_thread(work, *arguments)


async def test_a_batch_survives_a_stop_and_ends_after_the_next_start(tmp_path: Path) -> None:
    """Two lives of one data folder; the doctor finds nothing wrong in between and after."""
    params = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    items = [{"custom_id": f"i{n}", "params": params} for n in range(300)]
    async with serving(settings_for(tmp_path)) as url:
        status, batch = await in_thread(ask, url, "POST", "/v1/messages/batches", {"requests": items})
        assert status == 200
    assert await asyncio.to_thread(server.doctor, settings_for(tmp_path)) == []

    async with serving(settings_for(tmp_path)) as url:
        while batch["processing_status"] != "ended":
            _, batch = await in_thread(ask, url, "GET", f"/v1/messages/batches/{batch['id']}")

    assert batch["request_counts"]["succeeded"] == 300
    assert await asyncio.to_thread(server.doctor, settings_for(tmp_path)) == []


async def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    """The message names the setting and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"server\.port: cannot listen on 127\.0\.0\.1:{port}.*--port"):
            async with serving(settings_for(tmp_path, server__port=port)):
                pass


async def test_a_data_folder_serves_one_server(tmp_path: Path) -> None:
    """The second is told who has it; the doctor keeps away too."""
    async with serving(settings_for(tmp_path)):
        with pytest.raises(StartError, match=r"in use by process \d+"):
            async with serving(settings_for(tmp_path)):
                pass
        with pytest.raises(StartError, match="in use"):
            await asyncio.to_thread(server.doctor, settings_for(tmp_path))


async def test_without_a_key_only_loopback_is_served(tmp_path: Path) -> None:
    """An address that others can reach needs a key first."""
    with pytest.raises(StartError, match=r"server\.host: 0\.0\.0\.0 can be reached by others.*standby keys create"):
        async with serving(settings_for(tmp_path, server__host="0.0.0.0")):
            pass


async def test_an_unknown_engine_is_named(tmp_path: Path) -> None:
    """The setting and its choices stand in the message."""
    with pytest.raises(SettingError, match=r"engine\.kind: must be local, llamacpp, simulated or a URL, not 'gpt'"):
        async with serving(settings_for(tmp_path, engine__kind="gpt")):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StartError, match=r"store\.data: .*data cannot be used"):
        async with serving(settings_for(tmp_path / "data")):
            pass


def test_the_doctor_wants_a_data_folder(tmp_path: Path) -> None:
    """It makes none."""
    with pytest.raises(StartError, match="no Standby data"):
        server.doctor(settings_for(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
