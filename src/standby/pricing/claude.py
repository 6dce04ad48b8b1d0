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
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

from standby.errors import PriceError
from standby.pricing.rates import Price, Rate, Tariff, Tier, pico_of, scaled

PROVIDER = "anthropic"
COLUMNS = {
    "input": "input_mtok",
    "write_5m": "cache_write_mtok",
    "write_1h": "cache_write_1h_mtok",
    "read": "cache_read_mtok",
    "output": "output_mtok",
}
MOST_KNOWN = 4096
CHECKED = date(2026, 11, 22)
"""The day on which the figures of the pinned version were compared with the contract's table (10.1)."""


class Published:
    """Claude's prices as somebody published them: those that came with the library, or a later document."""

    def __init__(self, document: bytes | None = None, *, checked: date = CHECKED) -> None:
        """Take a document of genai-prices (JSON), read on the day `checked`; `PriceError` if it is none.

        Without one nothing is loaded before the first look at a name with `claude` in it (0.3 s, some 30 MB).
        """
        self._checked = checked
        self._snapshot = None if document is None else _read(document)
        self._is_updated = document is not None
        self._known: dict[tuple[str, date], Price | None] = {}

    def price(self, model: str, day: date) -> Price | None:
        """Look up a model's price on a day; None if it is not known."""
        if "claude" not in model:
            return None
        if (model, day) not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[model, day] = self._look_up(model, day)
        return self._known[model, day]

    def models(self) -> list[str]:
        """Name every model of Claude that has a price."""
        return [
            model.id for provider in self._loaded().providers if provider.id == PROVIDER for model in provider.models
        ]

    def _look_up(self, model: str, day: date) -> Price | None:
        try:
            found = self._loaded().find_provider_model(model, None, PROVIDER, None)[1]
        except LookupError:
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
            source=f"genai-prices {'updated' if self._is_updated else importlib.metadata.version('genai-prices')}",
            checked=self._checked,
        )

    def _loaded(self) -> Any:
        if self._snapshot is None:
            from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - see __init__

            self._snapshot = get_snapshot()
        return self._snapshot


BUNDLED = Published()


def claude_price(model: str, day: date) -> Price | None:
    """Look up a price that came with the library."""
    return BUNDLED.price(model, day)


def _read(document: bytes) -> Any:
    from genai_prices.data_snapshot import DataSnapshot  # noqa: PLC0415 - see Published.__init__
    from genai_prices.types import _providers_from_raw  # noqa: PLC0415 - no public door; the version is pinned

    try:
        listed = [one for one in json.loads(document) if one["id"] == PROVIDER]
        providers = _providers_from_raw(listed)
    except (ValueError, TypeError, KeyError) as error:
        raise PriceError(f"the prices cannot be read ({type(error).__name__})") from None
    if not providers:
        raise PriceError(f"the prices name no {PROVIDER}")
    return DataSnapshot(providers, from_auto_update=True)


def _tariff(prices: Any) -> Tariff | None:
    """Read five columns and their tiers; None if one is missing, since a missing price is not a price of 0."""
    columns = {name: getattr(prices, key) for name, key in COLUMNS.items()}
    if any(value is None for value in columns.values()):
        return None
    starts = sorted({tier.start for value in columns.values() for tier in getattr(value, "tiers", ())})
    tiers = tuple(Tier(above=start, rate=_rate(columns, partial(_from, start=start))) for start in starts)
    return Tariff(base=_rate(columns, _base), tiers=tiers)


def _rate(columns: dict[str, Any], pick: Callable[[Any], Decimal]) -> Rate:
    return Rate(**{name: pico_of(pick(value)) for name, value in columns.items()})


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
