from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
from genai_prices import Usage, calc_price

from standby.pricing.rates import DOLLAR
from tests.harness import PROGRAM, ServerProcess, wait_ended

pytestmark = pytest.mark.sdk

ITEMS = 10_000
PREFIX = "You sort letters by the department that answers them. " * 400
MODELS = ("claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-5-5")
NOT_CHARGED = 7
COLUMNS: dict[str, Callable[[Any], int]] = {
    "input": lambda usage: usage.input_tokens,
    "write_5m": lambda usage: usage.cache_creation.ephemeral_5m_input_tokens,
    "write_1h": lambda usage: usage.cache_creation.ephemeral_1h_input_tokens,
    "read": lambda usage: usage.cache_read_input_tokens,
    "output": lambda usage: usage.output_tokens,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a server with the simulator."""
    with ServerProcess(tmp_path_factory.mktemp("charges") / "data", engine="simulated") as running:
        yield running


def test_the_ledger_is_what_the_results_add_up_to(server: ServerProcess) -> None:
    """10,000 items with caching: results read by the SDK, priced by genai-prices, and our books say the same."""
    client = anthropic.Anthropic(base_url=server.url, api_key="key")
    batch = client.messages.batches.create(requests=[_item(number) for number in range(ITEMS)])  # type: ignore[misc]
    wait_ended(server, batch.id)
    tokens: Counter[str] = Counter()
    charge, succeeded = Decimal(0), 0
    for row in client.messages.batches.results(batch.id):
        if row.result.type == "succeeded":
            succeeded += 1
            usage = row.result.message.usage
            tokens.update({name: read(usage) for name, read in COLUMNS.items()})
            charge += _genai_price(row.result.message.model, usage)
    report = _command(server.data, "cost", batch.id, "--top", "3", "--json")

    assert succeeded == ITEMS - ITEMS // 1000 * NOT_CHARGED
    assert report["requests"] == succeeded
    assert report["tokens"] == dict(tokens)
    assert tokens["read"] > 0
    assert tokens["write_5m"] > 0
    assert report["cost_pico"] == int(charge * DOLLAR)
    assert report["saved_by_cache_pico"] > 0
    assert report["not_charged"]["errored"] == {"items": ITEMS - succeeded, "cost_pico": 0}
    rows = _command(server.data, "usage", "--by", "model,kind", "--json")
    assert sum(row["cost_pico"] for row in rows) == report["cost_pico"]
    assert {row["kind"] for row in rows} == {"batch"}


def _item(number: int) -> dict[str, Any]:
    """Every model has its turn; a few items of every thousand ask for what cannot be."""
    params: dict[str, Any] = {
        "model": MODELS[number % len(MODELS)],
        "max_tokens": 0 if number % 1000 < NOT_CHARGED else 64,
        "system": [{"type": "text", "text": PREFIX, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": f"Letter {number}: where does it go?"}],
    }
    return {"custom_id": f"letter-{number}", "params": params}


def _genai_price(model: str, usage: Any) -> Decimal:
    """Let genai-prices price one request its own way: its input tokens include those of the cache."""
    columns = {name: read(usage) for name, read in COLUMNS.items()}
    counted = Usage(
        input_tokens=sum(columns.values()) - columns["output"],
        cache_write_tokens=columns["write_5m"] + columns["write_1h"],
        cache_read_tokens=columns["read"],
        output_tokens=columns["output"],
    )
    assert columns["write_1h"] == 0
    context = {"processing": "batch"}
    now = datetime.now(tz=UTC)
    return calc_price(
        counted, model, provider_id="anthropic", genai_request_timestamp=now, price_context=context
    ).total_price


def _command(data: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [*PROGRAM, *arguments, "--data", str(data)], check=True, capture_output=True, text=True, timeout=120
    )
    return json.loads(done.stdout)
