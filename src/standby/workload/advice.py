"""What would make a job cheaper: where a cache marker pays or loses, what keeps requests from sharing.

Pure: facts in, sentences out. Each says what to change and what that would save; rates come from the price book, and
where no price is known nothing is said about money.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from standby.pricing.rates import Price, dollars
from standby.pricing.savings import Ttl, break_even
from standby.records import Tokens
from standby.workload.history import Answers
from standby.workload.pieces import Order

Kind = Literal["cache", "cache_loses", "cache_too_short", "cache_lifetime", "order", "repeated", "max_tokens"]
HITS = (Fraction(98, 100), Fraction(30, 100))
"""The best and the worst hit rate that the service publishes for batches (contract 9.3)."""
SHORT_S = 240
"""A batch that surely ends within this needs no longer lifetime than five minutes."""
WORTH = Fraction(1, 50)
"""Of the cost of the prompts: what saves less is not worth a sentence."""
SHARES = Fraction(3, 10)
LIKELY_LEAST = 1_024
"""Least tokens of a prefix worth caching, of a model whose own least is not known."""
ENOUGH_ANSWERS = 100
FAR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One sentence; `saves_pico` from the worst to the best case, below 0 if it costs; None if no price is known."""

    kind: Kind
    text: str
    saves_pico: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What requests begin with, up to one place."""

    tokens: int
    """Mean of the requests."""
    distinct: int
    """In how many forms it comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of the requests to one model."""

    model: str
    rows: int
    prompt_tokens: int
    """Of all requests together."""
    bytes_a_token: float
    price: Price | None
    least_cached: int | None
    """Tokens from which on the model caches; None if not known."""
    cache: Literal["off", "5m", "1h"] = "off"
    """What `--cache` says."""
    is_marked: bool = False
    """Ready requests that carry markers of their own."""
    is_templated: bool = True
    fixed: Begin
    """Tools and system prompt."""
    first: Begin
    """Those and the first block of the first turn."""
    common_tokens: int = 0
    """What all prompts begin with, to the letter."""
    order: Order | None = None
    repeated: int = 0
    """Requests that are equal to an earlier one."""
    batch_pico: tuple[int, int] | None = None
    longest_answer: int = 0
    """The longest that is allowed."""
    answer_tokens: int = 0
    """All that are allowed together."""
    earlier: Answers | None = None
    lasts_s: tuple[int, int] | None = None

    @property
    def mean_prompt(self) -> int:
        """Tokens of a prompt."""
        return -(-self.prompt_tokens // self.rows)


def advise(facts: Facts) -> tuple[Advice, ...]:
    """Say what to change, the dearest things first."""
    found = [*_markers(facts), *_order(facts), *_repeated(facts), *_max_tokens(facts)]
    return tuple(sorted(found, key=lambda one: -(one.saves_pico or (0, 0))[1]))


def _markers(facts: Facts) -> Iterator[Advice]:
    if facts.is_marked or not facts.rows > 1:
        return
    if facts.cache != "off":
        yield from _marked(facts)
    elif facts.least_cached is not None and facts.fixed.tokens < facts.least_cached:
        yield from _too_short(facts)
    elif facts.price is not None:
        marker = "`--cache [ttl]`" if facts.is_templated else "a cache_control marker of [ttl] behind the system prompt"
        forms = facts.fixed.distinct
        same = "the same" if forms == 1 else f"one of {forms:,} forms of"
        what = f"Requests begin with {same} tools and system prompt, [tokens] tokens: {marker}"
        yield from _pays(facts, facts.fixed, what, kind="cache")


def _marked(facts: Facts) -> Iterator[Advice]:
    """Judge a marker that the user asked for."""
    begin, least = facts.fixed, facts.least_cached
    if least is not None and begin.tokens < least:
        text = (
            f"`--cache {facts.cache}` has no effect: tools and system prompt have {begin.tokens:,} tokens, and "
            f"{facts.model} caches from {least:,} on"
        )
        yield Advice(kind="cache_too_short", text=text, saves_pico=(0, 0))
        return
    even = _even(facts, facts.cache)
    if even is None or facts.price is None:
        return
    if _most_hits(facts, begin) <= even:
        lost = -_saved(facts, begin, _most_hits(facts, begin), facts.cache)
        text = (
            f"`--cache {facts.cache}` loses money: the system prompt comes in {begin.distinct:,} forms for "
            f"{facts.rows:,} requests, so that {_percent(_most_hits(facts, begin))} at most can hit, and it pays from "
            f"{_percent(even)} on; without it {dollars(lost)} are saved"
        )
        yield Advice(kind="cache_loses", text=text, saves_pico=(lost, -_saved(facts, begin, Fraction(0), facts.cache)))
    elif facts.cache == "5m" and not (facts.lasts_s and facts.lasts_s[1] <= SHORT_S):
        best, worst = (_saved(facts, begin, hits, "1h") for hits in _hits(facts, begin))
        text = (
            "`--cache 1h` fits a batch better than 5m: entries of five minutes die where a batch pauses, and it may "
            f"take 24 hours; it saves {dollars(best)} at {_percent(_hits(facts, begin)[0])} hits against no cache"
        )
        yield Advice(kind="cache_lifetime", text=text, saves_pico=(worst, best))


def _too_short(facts: Facts) -> Iterator[Advice]:
    """Say that a prefix which looks worth it cannot be cached."""
    begin, least = facts.fixed, facts.least_cached
    is_much = begin.tokens * facts.rows >= SHARES * facts.prompt_tokens
    if least and begin.tokens and is_much and begin.distinct * 2 <= facts.rows:
        text = (
            f"No cache helps here: tools and system prompt have {begin.tokens:,} tokens, and {facts.model} caches from "
            f"{least:,} on"
        )
        yield Advice(kind="cache_too_short", text=text, saves_pico=(0, 0))


def _pays(facts: Facts, begin: Begin, what: str, *, kind: Kind) -> Iterator[Advice]:
    """Say that a marker pays, if it does at the best hit rate; `what` has places for tokens and lifetime."""
    ttl: Ttl = "5m" if facts.lasts_s and facts.lasts_s[1] <= SHORT_S else "1h"
    best, worst = _hits(facts, begin)
    if begin.tokens < (facts.least_cached or LIKELY_LEAST) or best < Fraction(1, 2):
        return
    what = what.replace("[tokens]", f"{begin.tokens:,}").replace("[ttl]", ttl)
    even = _even(facts, ttl)
    if facts.price is None:
        yield Advice(kind=kind, text=f"{what} lets up to {_percent(best)} of them come out of a cache")
        return
    saved, least = _saved(facts, begin, best, ttl), _saved(facts, begin, worst, ttl)
    if even is None or best <= even or saved < WORTH * _prompts_pico(facts):
        return
    text = (
        f"{what} saves {dollars(saved)} at {_percent(best)} hits and {_other_end(least)} at {_percent(worst)}; "
        f"it pays from {_percent(even)} on"
    )
    yield Advice(kind=kind, text=text, saves_pico=(least, saved))


def _order(facts: Facts) -> Iterator[Advice]:
    """Say what stands in the way of a longer prefix, or that it could be marked."""
    if facts.cache != "off" or facts.is_marked or facts.rows < 2:
        return
    if facts.is_templated:
        yield from _order_of_template(facts)
        return
    longer = facts.first if facts.first.distinct * 2 <= facts.rows else Begin(tokens=facts.common_tokens, distinct=1)
    if longer.tokens > facts.fixed.tokens * 5 // 4:
        what = "Requests begin with the same [tokens] tokens, in a block of their own a cache_control marker of [ttl]"
        yield from _pays(facts, longer, what, kind="order")


def _order_of_template(facts: Facts) -> Iterator[Advice]:
    order = facts.order
    if order is None or not order.best.gain(facts.rows):
        return
    begin = _cut(facts, order.best.bytes, order.best.distinct)
    named = _named(order.best.columns) or "the text that is the same for all"
    what = f"With {named} in -s, requests could share [tokens] tokens, and `--cache [ttl]`"
    if order.early and order.best.gain(facts.rows) > order.now.gain(facts.rows) * 3 // 2:
        first = f"The prompt puts {_named(order.early)} before {named}, so that requests share little"
        what = f"{first}: the other way round, and with {named} in -s, they could share [tokens] tokens"
        what += ", and `--cache [ttl]`"
    yield from _pays(facts, begin, what, kind="order")


def _named(columns: Sequence[str]) -> str:
    return ", ".join(f"{{{{ {name} }}}}" for name in columns)


def _cut(facts: Facts, size: int, distinct: int) -> Begin:
    return Begin(
        tokens=facts.fixed.tokens + int(size / facts.bytes_a_token), distinct=max(distinct, facts.fixed.distinct)
    )


def _repeated(facts: Facts) -> Iterator[Advice]:
    if facts.repeated * 100 < facts.rows or not facts.repeated:
        return
    share = Fraction(facts.repeated, facts.rows)
    saves = facts.batch_pico and (int(facts.batch_pico[0] * share), int(facts.batch_pico[1] * share))
    text = f"{facts.repeated:,} of {facts.rows:,} requests are the same as an earlier one, and each is paid"
    if saves:
        text += f": asking each once saves {dollars(saves[0])} to {dollars(saves[1])}"
    yield Advice(kind="repeated", text=text, saves_pico=saves)


def _max_tokens(facts: Facts) -> Iterator[Advice]:
    """Say that answers may be far longer than any was; it lowers the dearest case, not the cost."""
    earlier = facts.earlier
    if earlier is None or earlier.answers < ENOUGH_ANSWERS or facts.longest_answer < FAR * earlier.longest:
        return
    enough = 2 * max(earlier.longest, 1)
    text = (
        f"No one of {earlier.answers:,} earlier answers to this prompt had more than {earlier.longest:,} tokens: "
        f"`--max-tokens {enough}` instead of {facts.longest_answer} keeps the budget honest"
    )
    if facts.price is not None:
        rate = facts.price.batch.rate(facts.mean_prompt)
        less = rate.output * max(0, facts.answer_tokens - enough * facts.rows)
        text += f", and takes {dollars(less)} off the dearest case"
    yield Advice(kind="max_tokens", text=text, saves_pico=None if facts.price is None else (0, 0))


def _hits(facts: Facts, begin: Begin) -> tuple[Fraction, Fraction]:
    """Return the published rates, no higher than these requests allow."""
    most = _most_hits(facts, begin)
    return min(HITS[0], most), min(HITS[1], most)


def _most_hits(facts: Facts, begin: Begin) -> Fraction:
    """Every form is written once at least."""
    return Fraction(max(0, facts.rows - begin.distinct), facts.rows)


def _even(facts: Facts, ttl: str) -> Fraction | None:
    if facts.price is None:
        return None
    return break_even(facts.price.batch, prompt_tokens=facts.mean_prompt, ttl="5m" if ttl == "5m" else "1h")


def _saved(facts: Facts, begin: Begin, hits: Fraction, ttl: str) -> int:
    """Return what a marker saves in a batch, below 0 if it costs; there must be a price."""
    if facts.price is None:
        return 0
    reads = int(facts.rows * hits)
    tokens = begin.tokens * (facts.rows - reads)
    written = Tokens(write_5m=tokens) if ttl == "5m" else Tokens(write_1h=tokens)
    rate = facts.price.batch.rate(facts.mean_prompt)
    return (
        rate.of(Tokens(input=begin.tokens * facts.rows)) - rate.of(written) - rate.of(Tokens(read=begin.tokens * reads))
    )


def _prompts_pico(facts: Facts) -> int:
    return 0 if facts.price is None else facts.price.batch.rate(facts.mean_prompt).of(Tokens(input=facts.prompt_tokens))


def _other_end(saved: int) -> str:
    return f"costs {dollars(-saved)} more" if saved < 0 else f"{dollars(saved)}"


def _percent(share: Fraction) -> str:
    return f"{float(share):.0%}"
