"""Newer prices: fetched only when asked for, kept whole or not at all, and never for what is past."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from standby.cli import standby
from standby.config import Settings, StoreSettings
from standby.errors import PriceError
from standby.pricing.book import open_book
from standby.pricing.claude import claude_price
from standby.pricing.update import FILE, load_published
from standby.records import SECOND, Bill, LiveBill, Tokens
from standby.server import open_store

NOW_US = 1_795_000_000 * SECOND
COLUMNS = ("input_mtok", "cache_write_mtok", "cache_write_1h_mtok", "cache_read_mtok", "output_mtok")


def document(**models: tuple[float, ...]) -> bytes:
    """Write prices as genai-prices publishes them: five columns a model, a batch at half."""
    return json.dumps(
        [
            {"id": "openai", "name": "OpenAI", "api_pattern": "x", "models": []},
            {
                "id": "anthropic",
                "name": "Anthropic",
                "api_pattern": "https://api\\.anthropic\\.com",
                "models": [_model(name.replace("_", "-"), columns) for name, columns in models.items()],
            },
        ]
    ).encode()


def _model(name: str, columns: tuple[float, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "match": {"starts_with": name},
        "prices": dict(zip(COLUMNS, columns, strict=True)),
        "price_variants": [
            {"when": {"processing": "batch"}, "prices": dict(zip(COLUMNS, (c / 2 for c in columns), strict=True))}
        ],
    }


NEWER = document(claude_haiku_4_5=(2, 2.5, 4, 0.2, 10), claude_haiku_9=(1, 2, 3, 4, 5))


@pytest.fixture
def site() -> Iterator[str]:
    """Publish the newer prices on loopback."""
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(_published(NEWER))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _published(content: bytes) -> web.AppRunner:
    app = web.Application()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type="text/plain")

    app.router.add_get("/data.json", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


def run(data: Path, *arguments: str) -> Result:
    """Run a command in-process on a data folder."""
    return CliRunner().invoke(standby, ["prices", *arguments, "--data", str(data)])


def test_an_update_holds_for_its_data_folder(tmp_path: Path, site: str) -> None:
    """What is fetched is shown, kept, and used from then on; another folder keeps what came with the library."""
    result = run(tmp_path / "a", "update", "--url", f"{site}/data.json")
    assert result.exit_code == 0
    assert "claude-haiku-4-5: 1/1.25/2/0.1/5 -> 2/2.5/4/0.2/10" in result.stdout
    assert "claude-haiku-9: unknown -> 1/2/3/4/5" in result.stdout
    updated = open_book((), tmp_path / "a").price("claude-haiku-4-5-20251001", NOW_US)
    assert updated is not None
    assert updated.charge(Tokens(input=10**6), is_batch=True) == 10**12
    assert updated.source == "genai-prices updated"
    assert open_book((), tmp_path / "b").price("claude-haiku-4-5", NOW_US) == claude_price("claude-haiku-4-5", _day())
    assert "2.5" in run(tmp_path / "a", "show", "claude-haiku-4-5").stdout


def test_a_document_can_come_from_a_file(tmp_path: Path) -> None:
    """On a machine without a network the document is brought by hand."""
    (tmp_path / "prices").write_bytes(NEWER)
    assert run(tmp_path / "data", "update", "--file", str(tmp_path / "prices")).exit_code == 0
    assert load_published(tmp_path / "data").price("claude-haiku-9", _day()) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"{}",
        b"[]",
        b'[{"id": "openai"}]',
        b'[{"id": "anthropic", "models": 7}]',
        document(),
        NEWER[:-9],
    ],
)
def test_what_is_no_price_list_changes_nothing(tmp_path: Path, content: bytes) -> None:
    """A damaged or foreign document is refused, and the prices of before stay."""
    data = tmp_path / "data"
    (tmp_path / "good").write_bytes(NEWER)
    (tmp_path / "bad").write_bytes(content)
    run(data, "update", "--file", str(tmp_path / "good"))
    before = (data / FILE).read_bytes()
    assert isinstance(run(data, "update", "--file", str(tmp_path / "bad")).exception, PriceError)
    assert (data / FILE).read_bytes() == before


def test_a_site_that_does_not_answer_is_named(tmp_path: Path, site: str) -> None:
    """The URL and the kind of failure are said; nothing is written."""
    for url in (f"{site}/nothing", "http://127.0.0.1:1/data.json", "no-url"):
        error = run(tmp_path / "data", "update", "--url", url).exception
        assert isinstance(error, PriceError)
        assert str(error).startswith(f"{url}: cannot be fetched")
    assert not (tmp_path / "data" / FILE).exists()


def test_damaged_prices_stop_the_start(tmp_path: Path) -> None:
    """A file that cannot be read is an error that names it, never a silent step back to older prices."""
    (tmp_path / FILE).write_text('{"fetched": "today"', encoding="utf-8")
    with pytest.raises(PriceError, match=r"prices\.json: cannot be read"):
        load_published(tmp_path)


async def test_a_new_price_changes_no_past_charge(tmp_path: Path) -> None:
    """What was charged yesterday stays as it was charged."""
    store = await open_store(Settings(store=StoreSettings(data=str(tmp_path))))
    try:
        workspace = (await store.list_workspaces())[0]
        bill = Bill(model="claude-haiku-4-5", requests=1, tokens=Tokens(input=1), charge_pico=1_000_000)
        await store.charge_live([LiveBill(workspace_id=workspace.id, credential="k", bill=bill)], now_us=NOW_US)
        before = await store.usage(by=())
        (tmp_path / "newer").write_bytes(NEWER)
        assert (await asyncio.to_thread(run, tmp_path, "update", "--file", str(tmp_path / "newer"))).exit_code == 0
        assert await store.usage(by=()) == before
    finally:
        await store.close()


def _day() -> date:
    return date(2026, 11, 18)
