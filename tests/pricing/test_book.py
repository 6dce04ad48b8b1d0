"""Whose price a model has."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from standby.errors import SettingError
from standby.pricing.book import OwnPrice, PriceBook
from standby.pricing.claude import claude_price
from standby.pricing.rates import Price
from standby.records import SECOND, Tokens

NOW_US = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * SECOND


def test_an_own_price_fills_in_what_is_left_out() -> None:
    """Input and output are enough: the cache columns follow the usual multiples, a batch costs half."""
    price = _price(PriceBook({"smol": OwnPrice(input=Decimal("0.04"), output=Decimal("0.12"))}), "smol")
    assert price.charge(Tokens(input=10**6), is_batch=False) == 40_000_000_000
    assert price.charge(Tokens(write_5m=10**6), is_batch=True) == 25_000_000_000
    assert price.charge(Tokens(write_1h=10**6), is_batch=True) == 40_000_000_000
    assert price.charge(Tokens(read=10**6), is_batch=True) == 2_000_000_000
    assert price.source == "settings"


def test_a_model_can_cost_what_claude_would() -> None:
    """`same_as` prices a self-hosted model as the one that it replaces."""
    book = PriceBook({"smol": OwnPrice(same_as="claude-haiku-4-5")})
    assert _price(book, "smol") == claude_price("claude-haiku-4-5", date(2026, 11, 22))


def test_an_own_price_wins() -> None:
    """An override of a published price holds."""
    book = PriceBook({"claude-haiku-4-5": OwnPrice(input=Decimal(3), output=Decimal(9), batch_factor=Decimal("0.3"))})
    assert _price(book, "claude-haiku-4-5").charge(Tokens(input=10**6), is_batch=True) == 900_000_000_000


def test_unknown_is_unknown() -> None:
    """A model without a price has none."""
    assert PriceBook().price("smol", NOW_US) is None
    assert PriceBook({"smol": OwnPrice(same_as="claude-nobody")}).price("smol", NOW_US) is None


def test_the_day_is_that_of_utc() -> None:
    """A request just before midnight in UTC has the price of that day."""
    book = PriceBook()
    midnight = int(datetime(2026, 3, 13, tzinfo=UTC).timestamp()) * SECOND
    before, after = book.price("claude-sonnet-4-6", midnight - 1), book.price("claude-sonnet-4-6", midnight)
    assert before == claude_price("claude-sonnet-4-6", date(2026, 3, 12))
    assert after == claude_price("claude-sonnet-4-6", date(2026, 3, 13))
    assert before != after


@pytest.mark.parametrize(
    ("price", "named"),
    [
        (OwnPrice(output=Decimal(1)), "prices.smol.input: is missing"),
        (OwnPrice(input=Decimal(1)), "prices.smol.output: is missing"),
        (OwnPrice(input=Decimal(-1), output=Decimal(1)), "prices.smol.input: must be dollars"),
        (OwnPrice(input=Decimal("0.0000001"), output=Decimal(1)), "prices.smol.input: 1E-7 has more"),
        (OwnPrice(input=Decimal(1), output=Decimal("NaN")), "prices.smol.output: must be dollars"),
        (OwnPrice(input=Decimal(1), output=Decimal(1), batch_factor=Decimal(2)), "prices.smol.batch_factor: must be"),
    ],
)
def test_a_bad_price_is_named(price: OwnPrice, named: str) -> None:
    """What cannot be a price names its key."""
    with pytest.raises(SettingError, match=named.replace(".", r"\.")):
        PriceBook({"smol": price})


def _price(book: PriceBook, model: str) -> Price:
    price = book.price(model, NOW_US)
    assert price is not None
    return price
