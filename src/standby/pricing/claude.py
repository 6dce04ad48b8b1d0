"""The one door to `genai-prices`: Claude's published prices, by model and day.

Its traps, and what is done about each (0.2.3, read and tried):

* It prices a request at some 3,000 a second: here a rate is taken out once a model and day, and multiplied by us.
* Without a batch price for a model and day it silently takes the standard one: here the price of the two is compared,
  and the half is taken and marked as assumed (`Price.is_batch_assumed`).
* An unknown model raises `LookupError`, and a name may match by its beginning alone: here a model must be one of the
  provider `anthropic`, and an unknown one is None, never 0.
* `input_tokens` there include cache tokens, here they do not: only its rates are used, never its counting.
* Geographic and speed variants are no batch price: only the plain ones are read.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from standby.pricing.rates import PER_MILLION, Price, Rate, Tariff, Tier, scaled

PROVIDER = "anthropic"
COLUMNS = {
    "input": "input_mtok",
    "write_5m": "cache_write_mtok",
    "write_1h": "cache_write_1h_mtok",
    "read": "cache_read_mtok",
    "output": "output_mtok",
}
CHECKED = date(2026, 11, 22)
"""The day on which the figures of the pinned version were compared with the contract's table (10.1)."""


def claude_price(model: str, day: date) -> Price | None:
    """Look up a model's price on a day; None if it is not known.

    The first look at a name with `claude` in it loads the library (0.3 s, some 30 MB); other names never do.
    """
    return _price(model, day) if "claude" in model else None


@lru_cache(maxsize=1024)
def _price(model: str, day: date) -> Price | None:
    found = _model(model)
    if found is None:
        return None
    at = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
    standard = _tariff(found.get_prices(at))
    if standard is None:
        return None
    batch = _tariff(found.get_prices(at, {"processing": "batch"}))
    is_assumed = batch is None or batch == standard
    return Price(
        model=found.id,
        standard=standard,
        batch=scaled(standard, 1, 2) if is_assumed or batch is None else batch,
        is_batch_assumed=is_assumed,
        source=f"genai-prices {importlib.metadata.version('genai-prices')}",
        checked=CHECKED,
    )


def _model(model: str) -> Any:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - 0.3 s, paid only where money is counted

    try:
        return get_snapshot().find_provider_model(model, None, PROVIDER, None)[1]
    except LookupError:
        return None


def _tariff(prices: Any) -> Tariff | None:
    """Read five columns and their tiers; None if one is missing, since a missing price is not a price of 0."""
    columns = {name: getattr(prices, key) for name, key in COLUMNS.items()}
    if any(value is None for value in columns.values()):
        return None
    starts = sorted({tier.start for value in columns.values() for tier in getattr(value, "tiers", ())})
    tiers = tuple(Tier(above=start, rate=_rate(columns, partial(_from, start=start))) for start in starts)
    return Tariff(base=_rate(columns, _base), tiers=tiers)


def _rate(columns: dict[str, Any], pick: Callable[[Any], Decimal]) -> Rate:
    return Rate(**{name: _pico(pick(value)) for name, value in columns.items()})


def _base(value: Any) -> Decimal:
    found: Decimal = getattr(value, "base", value)
    return found


def _from(value: Any, start: int) -> Decimal:
    """Pick the price that holds above `start` tokens."""
    found: Decimal = _base(value)
    for tier in getattr(value, "tiers", ()):
        if tier.start <= start:
            found = tier.price
    return found


def _pico(dollars_a_million: Decimal) -> int:
    pico = dollars_a_million * PER_MILLION
    if pico != int(pico):
        raise ValueError(f"{dollars_a_million} dollars a million tokens is no whole number of pico-dollars a token")
    return int(pico)
