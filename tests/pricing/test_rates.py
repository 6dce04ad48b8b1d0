"""Money, to the pico-dollar: the check values of the contract (9.2, 10.1) and the edges of tiers."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.pricing.claude import claude_price
from standby.pricing.rates import DOLLAR, Price, Rate, Tariff, Tier, dollars, prompt_of, scaled
from standby.pricing.savings import Job, Ttl, break_even, compare, reads_at
from standby.records import Tokens

TODAY = date(2026, 11, 22)
SCENARIO = Job(requests=10_000, fresh_tokens=500, output_tokens=300)
SHARED = Job(requests=1_000, shared_tokens=6_000, fresh_tokens=200, output_tokens=300)
TABLE = {
    "claude-fable-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-mythos-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-fable-5-1": ("10", "12.5", "20", "0.25", "50"),
    "claude-fable-5": ("10", "12.5", "20", "1", "50"),
    "claude-opus-5-5": ("4", "5", "8", "0.20", "20"),
    "claude-opus-5": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-8": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-7": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-6": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-5-20251101": ("5", "6.25", "10", "0.50", "25"),
    "claude-sonnet-5-5": ("2", "2.5", "4", "0.10", "10"),
    "claude-sonnet-5": ("2", "2.5", "4", "0.20", "10"),
    "claude-sonnet-4-6": ("3", "3.75", "6", "0.30", "15"),
    "claude-haiku-5-5": ("0.10", "0.125", "0.20", "0.01", "0.50"),
    "claude-haiku-4-5": ("1", "1.25", "2", "0.10", "5"),
    "claude-haiku-4-5-20251001": ("1", "1.25", "2", "0.10", "5"),
    "claude-3-5-haiku-20241022": ("0.80", "1", "1.60", "0.08", "4"),
}
"""Dollars a million tokens, as the contract has them (10.1)."""

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(Tokens, input=counts, write_5m=counts, write_1h=counts, read=counts, output=counts)
rates = st.builds(Rate, **dict.fromkeys(("input", "write_5m", "write_1h", "read", "output"), st.integers(0, 10**9)))


def of(model: str) -> Price:
    """Look up a price that must be there."""
    price = claude_price(model, TODAY)
    assert price is not None
    return price


@pytest.mark.parametrize("model", TABLE)
def test_every_price_of_the_contract_is_the_book_s(model: str) -> None:
    """Five columns of each model are those of the contract, and a batch costs half of each."""
    price = of(model)
    expected = Rate(
        **dict(zip(("input", "write_5m", "write_1h", "read", "output"), map(_pico, TABLE[model]), strict=True))
    )
    assert price.standard.base == expected
    assert price.batch == scaled(price.standard, 1, 2)


def test_only_models_without_a_published_batch_price_have_an_assumed_one() -> None:
    """A half that nobody published is marked; one that is published is not."""
    assert not of("claude-haiku-4-5").is_batch_assumed
    assert of("claude-3-5-haiku-20241022").is_batch_assumed


def test_an_unknown_model_has_no_price() -> None:
    """Unknown is None, never 0, for a made-up Claude as for somebody else's model."""
    assert claude_price("claude-nobody-9", TODAY) is None
    assert claude_price("gpt-4o", TODAY) is None
    assert claude_price("SmolLM2-135M-Instruct", TODAY) is None


@pytest.mark.parametrize(
    ("model", "standard", "batch"),
    [
        ("claude-haiku-4-5", "$20.00", "$10.00"),
        ("claude-3-5-haiku-20241022", "$16.00", "$8.00"),
        ("claude-sonnet-4-6", "$60.00", "$30.00"),
        ("claude-opus-5-5", "$80.00", "$40.00"),
        ("claude-haiku-5-5", "$2.00", "$1.00"),
    ],
)
def test_ten_thousand_requests_cost_what_the_contract_says(model: str, standard: str, batch: str) -> None:
    """10,000 requests of 500 tokens in and 300 out."""
    found = compare(SCENARIO, of(model), reads=0)
    assert (dollars(found.standard), dollars(found.batch)) == (standard, batch)


def test_a_shared_prefix_costs_what_the_contract_says() -> None:
    """1,000 requests with 6,000 shared tokens: cached, not cached, all writing, and 60 % hits."""
    haiku = of("claude-haiku-4-5")
    best = compare(SHARED, haiku, reads=999)
    assert best.batch_and_cache == 1_155_700_000_000
    assert dollars(best.batch) == "$3.85"
    assert dollars(compare(SHARED, haiku, reads=0, ttl="5m").batch_and_cache) == "$4.60"
    hits = reads_at(SHARED, Fraction(60, 100))
    assert dollars(compare(SHARED, haiku, reads=hits).batch_and_cache) == "$3.43"


def test_mixed_lifetimes_cost_what_the_contract_says() -> None:
    """The worked example of 9.2 with 400 tokens out on Sonnet 4.6."""
    used = Tokens(read=10_000, write_1h=2_000, write_5m=3_000, input=50, output=400)
    sonnet = of("claude-sonnet-4-6")
    assert prompt_of(used) == 15_050
    assert sonnet.charge(used, is_batch=False) == 32_400_000_000
    assert sonnet.charge(used, is_batch=True) == 16_200_000_000


def test_the_step_of_a_tier_looks_at_the_whole_prompt() -> None:
    """At 100,000 tokens the low rate holds, at 100,001 the high one, for every token, however the prompt was cached."""
    haiku = of("claude-haiku-5-5")
    assert haiku.charge(Tokens(input=100_000, output=1_000), is_batch=True) == 5_250_000_000
    assert haiku.charge(Tokens(input=100_001, output=1_000), is_batch=True) == 26_250_250_000
    low, high = Tokens(read=99_999, input=1), Tokens(read=99_999, write_5m=1, input=1)
    assert haiku.charge(low, is_batch=True) == 99_999 * 5_000 + 50_000
    assert haiku.charge(high, is_batch=True) == 99_999 * 25_000 + 312_500 + 250_000


def test_a_price_that_changed_is_that_of_the_day() -> None:
    """Sonnet 4.6 had a second tier until 2026-03-12."""
    before, after = (
        claude_price("claude-sonnet-4-6", date(2026, 3, 12)),
        claude_price("claude-sonnet-4-6", date(2026, 3, 13)),
    )
    assert before is not None
    assert after is not None
    assert [tier.above for tier in before.standard.tiers] == [200_000]
    assert after.standard.is_flat


def test_a_region_adds_a_tenth_and_a_search_is_not_halved() -> None:
    """`us` multiplies tokens by 1.1; searches cost 10 dollars a thousand in a batch as well."""
    haiku = of("claude-haiku-4-5")
    used = Tokens(input=1_000_000)
    assert haiku.charge(used, is_batch=True, geo="us") == 55 * DOLLAR // 100
    assert haiku.charge(Tokens(), is_batch=True, searches=1000) == 10 * DOLLAR


def test_break_even_is_the_contract_s() -> None:
    """From 21.7 % hits on a 5-minute cache pays, from 52.6 % a 1-hour cache."""
    tariff = of("claude-haiku-4-5").batch
    assert break_even(tariff, prompt_tokens=6200, ttl="5m") == Fraction(25, 115)
    assert break_even(tariff, prompt_tokens=6200, ttl="1h") == Fraction(10, 19)


@given(usage=usages, more=usages, rate=rates)
def test_a_flat_tariff_adds_up(usage: Tokens, more: Tokens, rate: Rate) -> None:
    """Without tiers the price of a sum is the sum of the prices, exactly."""
    flat = Tariff(base=rate)
    assert flat.of(usage) + flat.of(more) == flat.of(usage + more)


@given(usage=usages, rate=rates, above=st.integers(0, 10**9))
def test_a_tier_prices_every_token_or_none(usage: Tokens, rate: Rate, above: int) -> None:
    """A request is priced whole at one of the two rates, and which one depends on the prompt's length alone."""
    dear = Rate(**{name: 3 * getattr(rate, name) for name in ("input", "write_5m", "write_1h", "read", "output")})
    tariff = Tariff(base=rate, tiers=(Tier(above=above, rate=dear),))
    assert tariff.of(usage) == (dear if prompt_of(usage) > above else rate).of(usage)


@given(
    requests=st.integers(2, 1000),
    shared=st.integers(1, 10**6),
    fresh=st.integers(0, 10**6),
    ttl=st.sampled_from(("5m", "1h")),
    reads=st.integers(0, 999),
)
def test_a_cache_saves_exactly_from_the_break_even_on(
    requests: int, shared: int, fresh: int, ttl: Ttl, reads: int
) -> None:
    """Above the break-even a cached batch is cheaper than a plain one, below it is dearer."""
    job, price = (
        Job(requests=requests, shared_tokens=shared, fresh_tokens=fresh, output_tokens=1),
        of("claude-haiku-4-5"),
    )
    reads = min(reads, requests - 1)
    edge = break_even(price.batch, prompt_tokens=job.prompt_tokens, ttl=ttl)
    assert edge is not None
    saved = compare(job, price, reads=reads, ttl=ttl).saved_by_cache
    assert (saved > 0) == (Fraction(reads, requests) > edge)


@pytest.mark.parametrize("reads", [-1, 1000, 1001])
def test_nobody_reads_what_nobody_wrote(reads: int) -> None:
    """At least one request writes the prefix."""
    with pytest.raises(ValueError, match="reads"):
        compare(SHARED, of("claude-haiku-4-5"), reads=reads)


@pytest.mark.parametrize(
    ("pico", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (5 * DOLLAR // 1000, "$0.0050"),
        (64_900_000, "$0.000065"),
        (1_155_700_000_000, "$1.16"),
        (1_234_567 * DOLLAR, "$1,234,567.00"),
        (-DOLLAR, "-$1.00"),
    ],
)
def test_money_is_shown_for_people(pico: int, shown: str) -> None:
    """To the cent, half up, and what is less than a cent is not shown as nothing."""
    assert dollars(pico) == shown


def _pico(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 10**6 + int(part.ljust(6, "0") or 0)
