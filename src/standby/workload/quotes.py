"""What tokens will cost three ways: in real time, in a batch, in a batch with a cache. Pure, exact, in pico-dollars."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from standby.pricing.rates import Price, Tariff
from standby.pricing.savings import Ttl
from standby.records import Tokens

Sizes = Iterable[tuple[float, int]]
"""Tokens of a prompt, and how many have so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests at one step of a tariff: sums over all of them."""

    rows: int
    prompt: int
    output: int = 0
    shared: int = 0
    """Tokens that each of them begins with and a cache could hold."""

    @property
    def mean_prompt(self) -> int:
        """Tokens of a prompt, rounded up: it decides the step."""
        return -(-self.prompt // self.rows) if self.rows else 0


def plain(loads: Sequence[Load], tariff: Tariff) -> int:
    """Price requests without a cache."""
    return sum(tariff.rate(one.mean_prompt).of(Tokens(input=one.prompt, output=one.output)) for one in loads)


def cached(loads: Sequence[Load], tariff: Tariff, *, hits: Fraction, ttl: Ttl) -> int:
    """Price requests of which this share reads the prefix from a cache, and the others write it."""
    return sum(_cached(one, tariff, reads=int(one.rows * hits), ttl=ttl) for one in loads)


def loads_of(sizes: Sizes, price: Price, *, prompt: int, output: int, shared: int = 0) -> Sequence[Load]:
    """Part requests by the steps of a price; `prompt` and `output` are what they add up to."""
    steps = sorted({tier.above for tariff in (price.standard, price.batch) for tier in tariff.tiers})
    if not steps:
        return [Load(rows=sum(rows for _, rows in sizes), prompt=prompt, output=output, shared=shared)]
    rows, tokens = [0] * (len(steps) + 1), [0.0] * (len(steps) + 1)
    for size, times in sizes:
        at = bisect_left(steps, size)
        rows[at] += times
        tokens[at] += size * times
    whole, count = sum(tokens) or 1.0, sum(rows) or 1
    return [
        Load(rows=n, prompt=round(prompt * part / whole), output=-(-output * n // count), shared=shared)
        for n, part in zip(rows, tokens, strict=True)
        if n
    ]


def most_hits(rows: int, distinct: int) -> Fraction:
    """Return the share of requests that can hit at most: each form of a prefix is written once."""
    return Fraction(max(0, rows - distinct), rows) if rows else Fraction(0)


def _cached(load: Load, tariff: Tariff, *, reads: int, ttl: Ttl) -> int:
    shared = min(load.shared, load.prompt // load.rows)
    written = shared * (load.rows - reads)
    tokens = Tokens(
        input=load.prompt - shared * load.rows,
        read=shared * reads,
        write_5m=written if ttl == "5m" else 0,
        write_1h=written if ttl == "1h" else 0,
        output=load.output,
    )
    return tariff.rate(load.mean_prompt).of(tokens)
