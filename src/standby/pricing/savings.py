"""What it would save to move a job to batches, and when a prompt cache pays. Pure, exact until it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from standby.pricing.rates import Price, Tariff
from standby.records import Bill, Tokens

Ttl = Literal["5m", "1h"]
NIGHTS_A_MONTH = 30
NIGHTS_A_YEAR = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Requests that are alike: a prefix that all share, and what each has of its own. One night's worth."""

    requests: int
    shared_tokens: int = 0
    """Prompt tokens that every request begins with: what a cache can save."""
    fresh_tokens: int
    """Prompt tokens of its own."""
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt of one request; it decides the tier of a tariff."""
        return self.shared_tokens + self.fresh_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The same job three ways, in pico-dollars."""

    standard: int
    batch: int
    batch_and_cache: int

    @property
    def saved_by_batch(self) -> int:
        """What the batch price takes off."""
        return self.standard - self.batch

    @property
    def saved_by_cache(self) -> int:
        """What the cache takes off the rest; below 0 if it costs more than it saves."""
        return self.batch - self.batch_and_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One model's answer to "what would it save": a night at the worst and the best hit rate, and break-evens."""

    model: str
    price: Price
    low: Comparison
    high: Comparison
    break_even_5m: Fraction | None
    break_even_1h: Fraction | None


def outlook(job: Job, price: Price, *, hits: tuple[Fraction, Fraction], ttl: Ttl) -> Outlook:
    """Work out a night at the two ends of a range of hit rates, each between 0 and 1."""
    low, high = (compare(job, price, reads=reads_at(job, rate), ttl=ttl) for rate in hits)
    return Outlook(
        model=price.model,
        price=price,
        low=low,
        high=high,
        break_even_5m=break_even(price.batch, prompt_tokens=job.prompt_tokens, ttl="5m"),
        break_even_1h=break_even(price.batch, prompt_tokens=job.prompt_tokens, ttl="1h"),
    )


def compare(job: Job, price: Price, *, reads: int, ttl: Ttl = "1h") -> Comparison:
    """Price a job in real time, as a batch, and as a batch whose shared prefix is cached.

    `reads` of the requests find the prefix in the cache, the others write it; `ValueError` if there are more reads
    than requests, or all of them would read what nobody wrote.
    """
    if not 0 <= reads <= job.requests or (reads and reads == job.requests):
        raise ValueError(f"reads: must be between 0 and {max(job.requests - 1, 0)}: somebody has to write the prefix")
    plain = Tokens(input=job.prompt_tokens, output=job.output_tokens)
    read = Tokens(read=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
    cached = price.batch.of(read) * reads + price.batch.of(_writing(job, ttl)) * (job.requests - reads)
    return Comparison(
        standard=price.standard.of(plain) * job.requests,
        batch=price.batch.of(plain) * job.requests,
        batch_and_cache=cached,
    )


def reads_at(job: Job, hit_rate: Fraction) -> int:
    """Count the requests that hit at a rate between 0 and 1, rounded down, at least one write left."""
    if not 0 <= hit_rate <= 1:
        raise ValueError("hit_rate: must be between 0 and 1")
    return min(int(job.requests * hit_rate), max(job.requests - 1, 0))


def break_even(tariff: Tariff, *, prompt_tokens: int, ttl: Ttl) -> Fraction | None:
    """Return the share of hits from which on a cached prefix is cheaper than a plain one; None if it never is.

    With h hits: h x read + (1 - h) x write = input, so h = (write - input) / (write - read).
    """
    rate = tariff.rate(prompt_tokens)
    write = rate.write_1h if ttl == "1h" else rate.write_5m
    if rate.read >= rate.input:
        return None
    return max(Fraction(write - rate.input, write - rate.read), Fraction(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A request that was made: its model, what it used, whether it was a batch's already."""

    model: str
    tokens: Tokens
    is_batch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """What past requests of one model cost in real time, and would have cost in a batch at the same cache use."""

    model: str
    requests: int
    tokens: Tokens
    standard: int | None
    """None if the model's price is not known."""
    batch: int | None
    already_batch: int
    """How many of them were batch items: they count at the batch price on both sides."""


def look_back(past: Iterable[Past], price_of: Callable[[str], Price | None]) -> Sequence[Hindsight]:
    """Sum past requests by model, each priced by itself, since a tier is each request's own; dearest first."""
    prices: dict[str, Price | None] = {}
    sums: dict[str, _Sum] = {}
    for one in past:
        if one.model not in sums:
            sums[one.model], prices[one.model] = _Sum(), price_of(one.model)
        sums[one.model].add(one, prices[one.model])
    found = [
        Hindsight(
            model=model,
            requests=total.requests,
            tokens=total.tokens,
            standard=total.standard if prices[model] else None,
            batch=total.batch if prices[model] else None,
            already_batch=total.already_batch,
        )
        for model, total in sums.items()
    ]
    return sorted(found, key=lambda each: (-(each.standard or 0), each.model))


def look_at_bills(bills: Iterable[Bill], price_of: Callable[[str], Price | None]) -> Sequence[Hindsight]:
    """Do the same from the bills of live requests: what they were charged, and the batch's share of it today.

    A batch costs the same share of every column and step, so the share can be taken of the sum.
    """
    return sorted(
        (_hindsight(bill, price_of(bill.model)) for bill in bills), key=lambda e: (-(e.standard or 0), e.model)
    )


def _hindsight(bill: Bill, price: Price | None) -> Hindsight:
    is_known = price is not None and bill.unpriced < bill.requests
    batch = None
    if price is not None and is_known:
        whole, part = price.standard.base.output, price.batch.base.output
        batch = bill.charge_pico * part // whole if whole else 0
    return Hindsight(
        model=bill.model,
        requests=bill.requests,
        tokens=bill.tokens,
        standard=bill.charge_pico if is_known else None,
        batch=batch,
        already_batch=0,
    )


class _Sum:
    def __init__(self) -> None:
        self.requests = self.standard = self.batch = self.already_batch = 0
        self.tokens = Tokens()

    def add(self, one: Past, price: Price | None) -> None:
        self.requests += 1
        self.already_batch += one.is_batch
        self.tokens += one.tokens
        if price is not None:
            self.standard += price.charge(one.tokens, is_batch=one.is_batch)
            self.batch += price.charge(one.tokens, is_batch=True)


def _writing(job: Job, ttl: Ttl) -> Tokens:
    if ttl == "5m":
        return Tokens(write_5m=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
    return Tokens(write_1h=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
