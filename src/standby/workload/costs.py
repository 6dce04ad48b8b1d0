"""What a job cost: usage of every succeeded result at the batch price of its model and day. Exact until it is shown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standby.pricing.claude import claude_price
from standby.pricing.rates import Price
from standby.records import Tokens
from standby.workload.jobfile import JobFile
from standby.workload.outcomes import Used, read

PriceOf = Callable[[str], Price | None]


@dataclass(slots=True)
class Cost:
    """Sums, in pico-dollars; what has no known price is counted beside them, never as 0."""

    charged: int = 0
    uncached: int = 0
    """The same in a batch without any cache."""
    standard: int = 0
    """The same in real time without any cache."""
    unpriced: int = 0
    answers: int = 0
    is_assumed: bool = False
    tokens: Tokens = field(default_factory=Tokens)

    def add(self, used: Used, price: Price | None, times: int) -> None:
        """Add so many equal results."""
        t = used.tokens
        self.answers += times
        self.tokens += Tokens(
            input=t.input * times,
            write_5m=t.write_5m * times,
            write_1h=t.write_1h * times,
            read=t.read * times,
            output=t.output * times,
        )
        if price is None:
            self.unpriced += times
            return
        standard, uncached = price.without_cache(t, geo=used.geo, searches=used.searches)
        self.is_assumed = self.is_assumed or price.is_batch_assumed
        self.charged += times * charge(price, used)
        self.uncached += times * uncached
        self.standard += times * standard


def charge(price: Price, used: Used) -> int:
    """Price one result of a batch."""
    return price.charge(used.tokens, is_batch=True, geo=used.geo, searches=used.searches)


def prices_at(moment: str) -> PriceOf:
    """Look prices up on the day of a moment (RFC 3339), each model once."""
    day = datetime.fromisoformat(moment).astimezone(UTC).date()
    return functools.cache(lambda model: claude_price(model, day))


def cost_of(job: JobFile, price_of: PriceOf) -> Cost:
    """Sum what a job was charged so far."""
    cost = Cost()
    for text, times in job.tokens():
        for model, used in read(text):
            cost.add(used, price_of(model), times)
    return cost
