"""What it would save to move a job to batches, and when a prompt cache pays. Pure, exact until it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from standby.pricing.rates import Price, Tariff
from standby.records import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Requests that are alike: a prefix that all share, and what each has of its own."""

    requests: int
    shared_tokens: int = 0
    """Prompt tokens that every request begins with."""
    fresh_tokens: int
    """Prompt tokens of its own."""
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt of one request; it decides the tier of a tariff."""
        return self.shared_tokens + self.fresh_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The same job three ways, in pico-dollars; and as shares of the first."""

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


def compare(job: Job, price: Price, *, reads: int, ttl: str = "1h") -> Comparison:
    """Price a job in real time, as a batch, and as a batch whose shared prefix is cached.

    `reads` of the requests find the prefix in the cache, the others write it with the lifetime `ttl` (`5m` or `1h`);
    `ValueError` if there are more reads than requests, or all of them would read what nobody wrote.
    """
    if not 0 <= reads <= job.requests or (reads and reads == job.requests):
        raise ValueError(f"reads: must be between 0 and {max(job.requests - 1, 0)}: somebody has to write the prefix")
    plain = Tokens(input=job.prompt_tokens, output=job.output_tokens)
    read = Tokens(read=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
    write = _writing(job, ttl)
    return Comparison(
        standard=price.standard.of(plain) * job.requests,
        batch=price.batch.of(plain) * job.requests,
        batch_and_cache=price.batch.of(read) * reads + price.batch.of(write) * (job.requests - reads),
    )


def reads_at(job: Job, hit_rate: Fraction) -> int:
    """Count the requests that hit at a rate between 0 and 1, rounded down, at least one write left."""
    if not 0 <= hit_rate <= 1:
        raise ValueError("hit_rate: must be between 0 and 1")
    return min(int(job.requests * hit_rate), max(job.requests - 1, 0))


def break_even(tariff: Tariff, *, prompt_tokens: int, ttl: str) -> Fraction | None:
    """Return the share of hits from which on a cached prefix is cheaper than a plain one; None if it never is.

    With h hits: h·read + (1 - h)·write = input, so h = (write - input) / (write - read).
    """
    rate = tariff.rate(prompt_tokens)
    write = rate.write_1h if ttl == "1h" else rate.write_5m
    if rate.read >= rate.input:
        return None
    return max(Fraction(write - rate.input, write - rate.read), Fraction(0)) if write > rate.read else Fraction(0)


def _writing(job: Job, ttl: str) -> Tokens:
    match ttl:
        case "5m":
            return Tokens(write_5m=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
        case "1h":
            return Tokens(write_1h=job.shared_tokens, input=job.fresh_tokens, output=job.output_tokens)
        case _:
            raise ValueError("ttl: must be 5m or 1h")
