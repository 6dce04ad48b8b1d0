"""Several endpoints behind a whole server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.engines.test_messages import START, TEXT, Upstream, stream
from tests.harness import (
    ServerProcess,
    call,
    create,
    item,
    message,
    metrics,
    results,
    retrieve,
    wait_ended,
    wait_until,
)

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to.md"


@pytest.fixture
async def upstreams() -> AsyncIterator[list[tuple[Upstream, str]]]:
    """Three Messages servers in this process: two with a model each, and one like Claude's."""
    runners: list[web.AppRunner] = []
    found = []
    for name in ("qwen3-8b", "llama-70b", ""):
        upstream = Upstream()
        if name:
            upstream.models = {"object": "list", "data": [{"id": name, "object": "model"}]}
        runner, url = await upstream.start()
        runners.append(runner)
        found.append((upstream, url.removesuffix("/v1/")))
    yield found
    for runner in runners:
        await runner.cleanup()


def example(urls: list[str]) -> dict[str, dict[str, Any]]:
    """Take the example out of the how-to, with other addresses."""
    text = HOW_TO.read_text(encoding="utf-8").partition("## Several engines, several models")[2]
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    endpoints = tomllib.loads(block[1])["endpoints"]
    assert len(endpoints) == len(urls)
    return {
        f"endpoints.{name}": {**own, "kind": url, "api": "messages"}
        for (name, own), url in zip(endpoints.items(), urls, strict=True)
    }


async def test_the_example_of_the_how_to(tmp_path: Path, upstreams: list[tuple[Upstream, str]]) -> None:
    """Each request goes where the page says, `/v1/models` shows all, and the welcome names the endpoints."""

    def ask_around() -> None:
        config = example([url for _, url in upstreams])
        with ServerProcess(tmp_path / "data", engine="local", config=config) as server:
            for name in ("claude-haiku-4-5", "llama-70b", "claude-b"):
                assert call(server, "POST", "/v1/messages", message(model=name)).status == 200
            assert call(server, "GET", "/v1/models/claude-haiku-4-5").ok()["id"] == "qwen3-8b"
            listed = [model["id"] for model in call(server, "GET", "/v1/models").ok()["data"]]
            assert listed == ["claude-b", "claude-a-20260101", "qwen3-8b", "llama-70b"]
            able = call(server, "GET", "/v1/models/claude-a").ok()["capabilities"]
            assert able["image_input"]["supported"]
            refused = call(server, "POST", "/v1/messages", message(model="gpt-x"))
            assert (refused.status, refused.json()["error"]["message"]) == (404, "model: gpt-x")
            assert "with 3 endpoints" in server.log_text()
            told = metrics(server)
            assert told['standby_endpoint_state{endpoint="gpu1",state="closed"}'] == 1
            assert told['standby_endpoint_attempts_total{endpoint="gpu2",result="ok"}'] == 1

    await asyncio.to_thread(ask_around)
    assert [[body["model"] for body in upstream.sent] for upstream, _ in upstreams] == [
        ["qwen3-8b"],
        ["llama-70b"],
        ["claude-b"],
    ]


async def test_a_client_that_leaves_stops_its_work_in_the_engine(
    tmp_path: Path, upstreams: list[tuple[Upstream, str]]
) -> None:
    """Through the server, the pool and the adapter, streamed or not."""
    upstream, url = upstreams[2]
    upstream.answer = stream(START, *TEXT, hang=True)
    config = {"endpoints.only": {"kind": url}}
    server = ServerProcess(tmp_path / "data", engine="local", config=config)
    try:
        await asyncio.to_thread(server.__enter__)
        for is_stream in (True, False):
            upstream.left.clear()
            before = len(upstream.sent)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            body = json.dumps(message(model="claude-b", stream=is_stream)).encode()
            writer.write(
                b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"anthropic-version: 2023-06-01\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            async with asyncio.timeout(20):
                if is_stream:
                    await reader.readuntil(b"text_delta")
                while len(upstream.sent) == before:  # noqa: ASYNC110 - what another process sends
                    await asyncio.sleep(0.01)
                writer.close()
                await upstream.left.wait()
    finally:
        await asyncio.to_thread(server.close)


def test_a_server_behind_that_is_killed_and_comes_back_fails_no_item(tmp_path: Path) -> None:
    """A batch half done waits for it; every item has one result, and none is errored."""
    slow: dict[str, dict[str, Any]] = {"simulator": {"decode_tokens_s": 400, "slots": 4}}
    with ServerProcess(tmp_path / "behind", config=slow) as behind:
        config: dict[str, dict[str, Any]] = {
            "endpoints.behind": {"kind": behind.url, "slots": 4},
            "engine": {"breaker_pause_s": 0.2},
        }
        with ServerProcess(tmp_path / "front", engine="local", config=config) as front:
            batch = create(front, [item(f"i{n}", text=f"number {n}") for n in range(150)])
            wait_until(lambda: retrieve(front, batch["id"])["request_counts"]["succeeded"] >= 20, 60, "it never began")
            behind.kill()
            wait_until(lambda: call(front, "GET", "/ready").status == 503, 60, "its end was not noticed")
            assert retrieve(front, batch["id"])["processing_status"] == "in_progress"
            behind.restart()
            ended = wait_ended(front, batch["id"])
            assert ended["request_counts"]["succeeded"] == 150
            assert len(results(front, batch["id"])) == 150
