"""Newer prices of Claude, on demand: fetched once, kept beside the data, used from the next start on."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from standby.errors import PriceError
from standby.folder import sync_folder
from standby.pricing.claude import Published
from standby.pricing.rates import Price

FILE = "prices.json"
URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
MOST_BYTES = 50 << 20
WAIT_S = 30.0


def load_published(folder: Path) -> Published:
    """Open the prices of a data folder: updated ones if there are any; `PriceError` if they are damaged."""
    file = folder / FILE
    try:
        kept = json.loads(file.read_bytes())
        return Published(json.dumps(kept["prices"]).encode(), checked=date.fromisoformat(kept["fetched"]))
    except FileNotFoundError:
        return Published()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriceError(f"{file}: cannot be read ({type(error).__name__}); fetch it again or remove it") from None


async def fetch(url: str) -> bytes:
    """Download a document of prices; `PriceError` says why not."""
    import aiohttp  # noqa: PLC0415 - only an update needs it

    limits = aiohttp.ClientTimeout(total=WAIT_S)
    try:
        async with aiohttp.ClientSession(timeout=limits) as session, session.get(url) as response:
            response.raise_for_status()
            document = await response.content.read(MOST_BYTES + 1)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise PriceError(f"{url}: cannot be fetched ({type(error).__name__})") from None
    if len(document) > MOST_BYTES:
        raise PriceError(f"{url}: has more than {MOST_BYTES >> 20} MB")
    return document


def keep(folder: Path, document: bytes) -> Published:
    """Check a document and make it the prices of this data folder, whole or not at all; `PriceError` if it is none."""
    today = datetime.now(tz=UTC).date()
    published = Published(document, checked=today)
    if not any(published.price(model, today) for model in published.models()):
        raise PriceError("the prices price no model of Claude")
    anthropic = [one for one in json.loads(document) if one["id"] == "anthropic"]
    new = folder / f"{FILE}.new"
    with new.open("w", encoding="utf-8") as file:
        json.dump({"fetched": today.isoformat(), "prices": anthropic}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / FILE)
    sync_folder(folder)
    return published


def changes(before: Published, after: Published) -> dict[str, tuple[Price | None, Price | None]]:
    """Compare two price lists as of today, model by model; only what differs in money."""
    today = datetime.now(tz=UTC).date()
    models = sorted({*before.models(), *after.models()})
    pairs = {model: (before.price(model, today), after.price(model, today)) for model in models}
    return {model: pair for model, pair in pairs.items() if _money(pair[0]) != _money(pair[1])}


def _money(price: Price | None) -> Any:
    return None if price is None else (price.standard, price.batch)
