"""The price book: which price a model has on a day. Own prices come first, then Claude's, then none.

A model without a price is unknown, and stays so: None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from standby.config import PriceSettings
from standby.errors import SettingError
from standby.pricing.claude import BUNDLED, Published
from standby.pricing.rates import Price, Rate, Tariff, pico_of, scaled
from standby.pricing.update import load_published
from standby.records import DAY, SECOND

WRITE_5M = Decimal("1.25")
WRITE_1H = Decimal(2)
READ = Decimal("0.1")
"""What the cache columns of an own model cost if they are left out, as multiples of its input (contract 10.1)."""
HALF = Decimal("0.5")
LEFT_OUT = -1.0
MOST_FOUND = 1024
"""Prices that are kept at hand, by model and day: names are the clients' to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrice:
    """What an operator says that a model costs, in dollars a million tokens; or whose price it has."""

    same_as: str = ""
    """A model of Claude: `what Claude would have cost`. The columns are then left out."""
    input: Decimal | None = None
    output: Decimal | None = None
    write_5m: Decimal | None = None
    write_1h: Decimal | None = None
    read: Decimal | None = None
    batch_factor: Decimal = HALF


def open_book(settings: Iterable[tuple[str, PriceSettings]], folder: Path) -> PriceBook:
    """Open the book of a data folder: the operator's prices, then Claude's, as updated as they are there."""
    return PriceBook(own_prices(settings), published=load_published(folder))


def own_prices(settings: Iterable[tuple[str, PriceSettings]]) -> dict[str, OwnPrice]:
    """Read the operator's prices out of the settings, exactly as written there."""
    return {model: _own(price) for model, price in settings}


class PriceBook:
    """Prices by model and day; asks no network."""

    def __init__(self, own: Mapping[str, OwnPrice] | None = None, *, published: Published = BUNDLED) -> None:
        """Take the operator's prices; `SettingError` names the key that cannot be read as a price."""
        self._own = dict(own or {})
        self._published = published
        self._plain = {model: _tariffs(model, price) for model, price in self._own.items() if not price.same_as}
        self._found: dict[tuple[str, int], Price | None] = {}

    def models(self) -> list[str]:
        """Name every model that has a price: the operator's, then Claude's."""
        return [*self._own, *(model for model in self._published.models() if model not in self._own)]

    def price(self, model: str, at_us: int) -> Price | None:
        """Find the price of a model at a moment (UTC); None if nobody knows it."""
        key = model, at_us // DAY
        if key not in self._found:
            if len(self._found) >= MOST_FOUND:
                self._found.clear()
            self._found[key] = self._price(model, datetime.fromtimestamp(at_us // SECOND, tz=UTC).date())
        return self._found[key]

    def _price(self, model: str, day: date) -> Price | None:
        if model in self._plain:
            standard, batch = self._plain[model]
            return Price(model=model, standard=standard, batch=batch, source="settings", checked=day)
        if model in self._own:
            return self._published.price(self._own[model].same_as, day)
        return self._published.price(model, day)


def _own(price: PriceSettings) -> OwnPrice:
    columns = {name: getattr(price, name) for name in ("input", "output", "write_5m", "write_1h", "read")}
    given: dict[str, Any] = {name: Decimal(str(value)) for name, value in columns.items() if value != LEFT_OUT}
    return OwnPrice(same_as=price.same_as, batch_factor=Decimal(str(price.batch_factor)), **given)


def _tariffs(model: str, price: OwnPrice) -> tuple[Tariff, Tariff]:
    at = f"prices.{model}"
    if price.input is None or price.output is None:
        missing = "input" if price.input is None else "output"
        raise SettingError(f"{at}.{missing}: is missing; give dollars a million tokens, or same_as")
    standard = Tariff(
        base=Rate(
            input=_pico(price.input, f"{at}.input"),
            write_5m=_pico(_or(price.write_5m, price.input * WRITE_5M), f"{at}.write_5m"),
            write_1h=_pico(_or(price.write_1h, price.input * WRITE_1H), f"{at}.write_1h"),
            read=_pico(_or(price.read, price.input * READ), f"{at}.read"),
            output=_pico(price.output, f"{at}.output"),
        )
    )
    if not 0 <= price.batch_factor <= 1:
        raise SettingError(f"{at}.batch_factor: must be between 0 and 1, not {price.batch_factor}")
    numerator, denominator = price.batch_factor.as_integer_ratio()
    try:
        return standard, scaled(standard, numerator, denominator)
    except ValueError as error:
        raise SettingError(f"{at}.batch_factor: {error}") from None


def _or(given: Decimal | None, default: Decimal) -> Decimal:
    return default if given is None else given


def _pico(dollars_a_million: Decimal, source: str) -> int:
    try:
        return pico_of(dollars_a_million)
    except ValueError as error:
        raise SettingError(f"{source}: {error}") from None
