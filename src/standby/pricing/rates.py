"""Rates, tariffs, prices: what a token costs, and what usage costs at that. Pure, exact, integers only.

Money is counted in pico-dollars (1 USD = 10^12), tokens are whole, so that every product is exact; figures are
rounded when they are shown and nowhere before (contract 10.2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from typing import Any

from standby.records import Tokens

DOLLAR = 10**12
"""Pico-dollars of a dollar."""
PER_MILLION = 10**6
"""Pico-dollars a token of one dollar a million tokens."""
SEARCH = DOLLAR // 100
"""A web search: 10 dollars a thousand, which a batch does not halve (contract 10.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Pico-dollars a token, by the five columns of a price book."""

    input: int
    write_5m: int
    write_1h: int
    read: int
    output: int

    def of(self, tokens: Tokens) -> int:
        """Price tokens, column by column."""
        return (
            self.input * tokens.input
            + self.write_5m * tokens.write_5m
            + self.write_1h * tokens.write_1h
            + self.read * tokens.read
            + self.output * tokens.output
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A rate for requests whose whole prompt has more than `above` tokens."""

    above: int
    rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A base rate, and tiers by rising length of the prompt; the highest that applies prices every token."""

    base: Rate
    tiers: tuple[Tier, ...] = ()

    def rate(self, prompt_tokens: int) -> Rate:
        """Return the rate for a request with this many prompt tokens: plain, written and read ones together."""
        applied = [tier.rate for tier in self.tiers if prompt_tokens > tier.above]
        return applied[-1] if applied else self.base

    def of(self, tokens: Tokens) -> int:
        """Price one request. Sums of several requests must not be priced: the tier is each one's own."""
        return self.rate(prompt_of(tokens)).of(tokens)

    @property
    def is_flat(self) -> bool:
        """Whether the sum of many requests costs what they cost one by one."""
        return not self.tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from a day on, in real time and in a batch, and where that is known from."""

    model: str
    standard: Tariff
    batch: Tariff
    is_batch_assumed: bool = False
    """No batch rate is published for this model and day: half of the standard one is taken."""
    source: str
    checked: date
    """The day on which the source was read."""

    def charge(self, tokens: Tokens, *, is_batch: bool, geo: str | None = None, searches: int = 0) -> int:
        """Price one request that succeeded, in pico-dollars; `geo` is `usage.inference_geo`."""
        tariff = self.batch if is_batch else self.standard
        return _with_geo(tariff.of(tokens), geo) + SEARCH * searches

    def without_cache(self, tokens: Tokens, *, geo: str | None = None, searches: int = 0) -> tuple[int, int]:
        """Price the same request as if there were no prompt cache: in real time, and in a batch."""
        plain = Tokens(input=prompt_of(tokens), output=tokens.output)
        return (
            self.charge(plain, is_batch=False, geo=geo, searches=searches),
            self.charge(plain, is_batch=True, geo=geo, searches=searches),
        )


def prompt_of(tokens: Tokens) -> int:
    """Count all prompt tokens: a cache changes their price, not their number (contract 9.2)."""
    return tokens.input + tokens.write_5m + tokens.write_1h + tokens.read


def pico_of(dollars_a_million: Decimal) -> int:
    """Turn a price into pico-dollars a token; `ValueError` if that is no whole number, or less than none."""
    pico = dollars_a_million * PER_MILLION
    if not pico.is_finite() or pico < 0:
        raise ValueError(f"must be dollars a million tokens, not {dollars_a_million}")
    if pico != int(pico):
        raise ValueError(f"{dollars_a_million} has more than six digits after the point")
    return int(pico)


def scaled(tariff: Tariff, numerator: int, denominator: int) -> Tariff:
    """Multiply every rate by an exact factor; `ValueError` if a rate would not stay whole pico-dollars."""
    return Tariff(
        base=_scaled(tariff.base, numerator, denominator),
        tiers=tuple(Tier(above=t.above, rate=_scaled(t.rate, numerator, denominator)) for t in tariff.tiers),
    )


def dollars(pico: int) -> str:
    """Show money for people: to the cent, half up; what is less than a cent with its first two digits."""
    places = 2
    while 0 < abs(pico) < 10 ** (12 - places) and places < 12:
        places += 1
    if places > 2:
        places = min(places + 1, 12)
    unit = 10 ** (12 - places)
    whole, part = divmod((2 * abs(pico) + unit) // (2 * unit), 10**places)
    return f"{'-' if pico < 0 else ''}${whole:,}.{part:0{places}d}"


def _scaled(rate: Rate, numerator: int, denominator: int) -> Rate:
    columns: dict[str, Any] = {}
    for column in fields(Rate):
        product = getattr(rate, column.name) * numerator
        if product % denominator:
            raise ValueError(
                f"{column.name}: {numerator}/{denominator} of this rate is no whole number of pico-dollars"
            )
        columns[column.name] = product // denominator
    return Rate(**columns)


def _with_geo(pico: int, geo: str | None) -> int:
    """Add a tenth for `us` (contract 10.2); a remainder below a pico-dollar is rounded up, never away."""
    return pico if geo != "us" else -(-pico * 11 // 10)
