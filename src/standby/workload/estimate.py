"""What a job will cost, before anything is sent: a sample of its prompts is counted, the rest is reckoned from bytes.

The sample is stratified by the size of requests, each model for itself, and counted by the service (`count_tokens` is
free); what it says of tokens and bytes is carried over to the others, and its error makes the interval. How long
answers will be nobody knows before: costs are told for no answers and for the longest, and where this prompt ran
before, for answers as they were then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import msgspec

from standby.pricing.rates import Price
from standby.pricing.savings import Ttl, break_even
from standby.workload import history
from standby.workload.advice import HITS, LIKELY_LEAST, Advice, Begin, Facts, advise
from standby.workload.claudes import least_cached
from standby.workload.costs import PriceOf
from standby.workload.counting import Counted, Fit, counted, fitted, planned
from standby.workload.faults import BadInput, Unavailable, WorkloadError
from standby.workload.jobfile import JobFile
from standby.workload.pieces import Order, order_of
from standby.workload.quotes import Load, cached, loads_of, most_hits, plain
from standby.workload.service import Service
from standby.workload.survey import Asked, Survey, beginning_of, params_at, survey

MOST_COUNTED, LEAST_COUNTED = 100, 50
EVERY = 10
"""Of a small job one row in so many is counted."""
MOST_CALLS = 200
ADVISED = 3
"""Models that advice is given for, the most used first."""
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known of a job before it runs; money in pico-dollars, None where it is not known.

    Each span begins with no answers at the low end of the prompts, and ends with the longest answers at the high end.
    """

    rows: int
    sampled: int
    model: str
    """The one that most rows go to."""
    prompt_tokens: int
    prompt_tokens_span: Span
    shared_tokens: int
    """Of tools and system prompt, if every row has the same."""
    most_output_tokens: int
    standard_pico: Span | None
    batch_pico: Span | None
    cached_pico: Span | None
    """Batch with tools and system prompt cached: best hits and no answers, worst hits and the longest."""
    break_even: float | None
    """Share of hits from which on that cache is cheaper than none."""
    worst_pico: int | None
    """The most that the job as it is asked for can cost, what is tried again left out."""
    asked_pico: Span | None = None
    """The job as it is asked for, with its own cache markers: all of them hit, none does."""
    expected_output_tokens: int | None = None
    """By earlier answers to the same prompt of the same model."""
    expected_pico: int | None = None
    """With those answers, as it is asked for."""
    expected_s: Span | None = None
    """Seconds, by earlier batches of this model on this service."""
    models: tuple[str, ...] = ()
    longest_prompts: dict[str, int] = field(default_factory=dict)
    """Tokens of the longest prompt, by model, as reckoned."""
    unknown: tuple[str, ...] = ()
    """What these figures leave out, or could not find out."""
    advice: tuple[Advice, ...] = ()


def estimate(
    job: JobFile,
    service: Service,
    price_of: PriceOf,
    *,
    sample: int | None = None,
    past: Sequence[history.Past] | None = None,
    found: Survey | None = None,
) -> Estimate:
    """Estimate a prepared job and note it there; `WorkloadError` if the service counts nothing at all.

    `sample` is how many prompts are counted at most; `found` is what a look at the bodies found, if there was one.
    """
    found = found or survey(job)
    if not found.rows:
        raise BadInput("there is nothing to estimate")
    past = history.recalled() if past is None else past
    asked = sorted(found.models.values(), key=lambda one: -len(one.sizes))
    room = sample or min(MOST_COUNTED, max(LEAST_COUNTED, found.rows // EVERY))
    least = max(1, min(LEAST_COUNTED, MOST_CALLS // len(asked)))
    groups, missed = [], Missed()
    for one in asked:
        share = max(least, room * len(one.sizes) // found.rows)
        groups.append(_group(job, service, found, one, room=share, price=price_of(one.model), missed=missed))
    made = _summed(job, found, groups, past, missed)
    job.note(estimate=msgspec.json.encode(made).decode())
    return made


def noted(job: JobFile) -> Estimate | None:
    """Read the estimate that was made of a job; None if there is none."""
    text = job.meta("estimate", "")
    return msgspec.json.decode(text, type=Estimate) if text else None


@dataclass(slots=True)
class Missed:
    """What could not be counted."""

    asked: int = 0
    refused: int = 0
    error: WorkloadError | None = None

    def add(self, counts: Counted) -> None:
        """Take one round of counting."""
        self.asked += len(counts.tokens)
        self.refused += counts.refused
        self.error = counts.error or self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The requests to one model."""

    asked: Asked
    fit: Fit
    price: Price | None
    shared: int
    """Mean tokens of tools and system prompt."""
    marker: Ttl | None
    """Of the markers that the job carries."""
    is_marked_all: bool = False
    """Ready requests with markers of their own: nobody knows how much of them is written."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.asked.sizes)

    @property
    def bytes_a_token(self) -> float:
        """By what was counted."""
        return sum(self.asked.sizes) / max(1, self.fit.likely)

    @property
    def is_cacheable(self) -> bool:
        """Whether tools and system prompt are long enough to be cached, as far as is known."""
        least = least_cached(self.asked.model)
        return bool(self.shared) and (least is None or self.shared >= least)

    def loads(self, prompt: int, output: int, *, shared: int | None = None) -> Sequence[Load]:
        """Part the requests by the steps of their price, as if they had so many tokens together."""
        if self.price is None:
            return []
        scale = prompt / max(1, self.fit.likely)
        sizes = ((self.fit.tokens(size) * scale, rows) for size, rows in Counter(self.asked.sizes).items())
        shared = self.shared if shared is None else shared
        return loads_of(sizes, self.price, prompt=prompt, output=output, shared=shared)

    def plain(self, *, is_batch: bool) -> Span | None:
        """Price them without a cache."""
        if self.price is None:
            return None
        tariff = self.price.batch if is_batch else self.price.standard
        ends = zip(self.fit.span, (0, self.asked.answer_tokens), strict=True)
        low, high = (plain(self.loads(prompt, output), tariff) for prompt, output in ends)
        return self._with_geo(low, high)

    def cached(self, hits: tuple[Fraction, Fraction], ttl: Ttl) -> Span | None:
        """Price them with tools and system prompt cached."""
        if self.price is None:
            return None
        ends = zip(self.fit.span, (0, self.asked.answer_tokens), hits, strict=True)
        low, high = (
            cached(self.loads(prompt, output), self.price.batch, hits=share, ttl=ttl) for prompt, output, share in ends
        )
        return self._with_geo(low, high)

    def as_asked(self) -> Span | None:
        """Price them with the markers that they carry: all hit, none does."""
        batch = self.plain(is_batch=True)
        if self.price is None or batch is None or self.marker is None:
            return batch
        if self.is_marked_all:
            ends = zip(self.fit.span, (0, self.asked.answer_tokens), (Fraction(1), Fraction(0)), strict=True)
            low, high = (
                cached(self.loads(end, out, shared=end), self.price.batch, hits=hits, ttl=self.marker)
                for end, out, hits in ends
            )
            return self._with_geo(low, high)
        most = most_hits(self.rows, self.asked.fixed.distinct.count)
        span = self.cached((most, Fraction(0)), self.marker)
        return span and (min(span[0], batch[0]), max(span[1], batch[1]))

    def expected(self, earlier: history.Answers | None) -> int | None:
        """Price them with answers, and with hits, as they were."""
        if self.price is None or earlier is None:
            return None
        loads = self.loads(self.fit.likely, round(earlier.mean * self.rows))
        if self.marker is None or not self.is_cacheable:
            return plain(loads, self.price.batch)
        hits = None if self.is_marked_all else earlier.hits
        return None if hits is None else cached(loads, self.price.batch, hits=hits, ttl=self.marker)

    def _with_geo(self, low: int, high: int) -> Span:
        """Add a tenth for requests that must stay in one country (contract 10.2)."""
        low = low * 11 // 10 if self.asked.is_used_by_all("us") else low
        return low, -(-high * 11 // 10) if self.asked.uses["us"] else high


def _group(
    job: JobFile, service: Service, found: Survey, asked: Asked, *, room: int, price: Price | None, missed: Missed
) -> Group:
    def params(place: int) -> dict[str, Any]:
        row = asked.rows[place]
        return params_at(job, (found.parts[row], found.offsets[row]))

    plan = planned(asked.sizes, room=room, seed=f"{len(asked.sizes)} {sum(asked.sizes)}")
    places = [place for stratum in plan.strata for place in stratum.chosen]
    counts = counted(lambda place: service.count_tokens(params(place)), places)
    missed.add(counts)
    tokens = {place: count for place, count in zip(places, counts.tokens, strict=True) if count is not None}
    if not tokens:
        raise counts.error or Unavailable("the service counted no prompts")
    fit = fitted(plan, asked.sizes, tokens)
    mean = asked.fixed.size * fit.likely // max(1, sum(asked.sizes) * len(asked.sizes))
    shared = _fixed_tokens(service, params(0)) if mean and asked.fixed.distinct.count == 1 else None
    is_native = job.spec.cache == "off"
    markers: dict[str, Ttl] = {"marker_1h": "1h", "marker": "5m"}
    marker = next((ttl for name, ttl in markers.items() if asked.uses[name]), None)
    return Group(
        asked=asked,
        fit=fit,
        price=price,
        shared=mean if shared is None else shared,
        marker=marker,
        is_marked_all=marker is not None and is_native,
    )


def _fixed_tokens(service: Service, params: Mapping[str, Any]) -> int | None:
    """Count tools and system prompt alone; None if the service does not."""
    whole = beginning_of(dict(params))
    bare: dict[str, Any] = {name: whole[name] for name in whole if name in {"model", "messages"}}
    asks = (whole, bare)
    counts = counted(lambda at: service.count_tokens(asks[at]), (0, 1)).tokens
    return None if counts[0] is None or counts[1] is None else max(0, counts[0] - counts[1])


def _summed(
    job: JobFile, found: Survey, groups: Sequence[Group], past: Sequence[history.Past], missed: Missed
) -> Estimate:
    first = groups[0]
    ttl: Ttl = "5m" if job.spec.cache == "5m" else "1h"
    asked = _sum([group.as_asked() for group in groups])
    cached_ones = [_cached_or_plain(group, ttl) for group in groups]
    is_open = any(group.asked.uses["search"] for group in groups)
    prompt, model = history.prompt_name(job.spec), first.asked.model
    earlier = history.answers_of(past, model=model, prompt=prompt) if len(groups) == 1 else None
    batches = [part.items for part in job.parts() if part.round == 0]
    lasts = history.expected_s(past, endpoint=job.meta("endpoint"), model=model, batches=batches)
    even = (
        None
        if first.price is None
        else break_even(first.price.batch, prompt_tokens=-(-first.fit.likely // first.rows), ttl=ttl)
    )
    return Estimate(
        rows=found.rows,
        sampled=sum(group.fit.counted for group in groups),
        model=model,
        prompt_tokens=sum(group.fit.likely for group in groups),
        prompt_tokens_span=(sum(g.fit.span[0] for g in groups), sum(g.fit.span[1] for g in groups)),
        shared_tokens=first.shared if first.asked.fixed.distinct.count == 1 else 0,
        most_output_tokens=sum(group.asked.answer_tokens for group in groups),
        standard_pico=_sum([group.plain(is_batch=False) for group in groups]),
        batch_pico=_sum([group.plain(is_batch=True) for group in groups]),
        cached_pico=_sum(cached_ones) if any(group.is_cacheable for group in groups) else None,
        break_even=None if even is None else float(even),
        worst_pico=None if asked is None or is_open else asked[1],
        asked_pico=asked,
        expected_output_tokens=None if earlier is None else round(earlier.mean * first.rows),
        expected_pico=first.expected(earlier),
        expected_s=lasts,
        models=tuple(group.asked.model for group in groups),
        longest_prompts={g.asked.model: round(g.fit.tokens(max(g.asked.sizes))) for g in groups},
        unknown=tuple(_unknown(groups, missed, is_open=is_open)),
        advice=_advice(job, found, groups, earlier, lasts),
    )


def _cached_or_plain(group: Group, ttl: Ttl) -> Span | None:
    if not group.is_cacheable:
        return group.plain(is_batch=True)
    most = most_hits(group.rows, group.asked.fixed.distinct.count)
    return group.cached((min(HITS[0], most), min(HITS[1], most)), ttl)


def _sum(spans: Sequence[Span | None]) -> Span | None:
    """Add spans up; None if one is not known."""
    known = [span for span in spans if span is not None]
    return (sum(low for low, _ in known), sum(high for _, high in known)) if len(known) == len(spans) else None


def _unknown(groups: Sequence[Group], missed: Missed, *, is_open: bool) -> Iterator[str]:
    for group in groups:
        if group.price is None:
            yield f"no price is known for {group.asked.model!r}"
        elif group.price.is_batch_assumed:
            yield f"no batch price of {group.asked.model!r} is published: half of the other is taken"
    if is_open:
        yield "web searches are charged apart, 10 dollars a thousand, and nobody knows how many there will be"
    if missed.error is not None:
        yield f"{missed.refused or 'some'} of {missed.asked} sampled prompts were not counted: {missed.error}"


def _advice(
    job: JobFile,
    found: Survey,
    groups: Sequence[Group],
    earlier: history.Answers | None,
    lasts: Span | None,
) -> tuple[Advice, ...]:
    repeated = found.repeated() if len(groups) == 1 else 0
    facts = (_facts(job, group, repeated=repeated, earlier=earlier, lasts=lasts) for group in groups[:ADVISED])
    return tuple(advice for one in facts for advice in advise(one))


def _facts(job: JobFile, group: Group, *, repeated: int, earlier: history.Answers | None, lasts: Span | None) -> Facts:
    asked, scale = group.asked, group.bytes_a_token * group.rows
    is_templated = not job.meta("dialect", "")
    return Facts(
        model=asked.model,
        rows=group.rows,
        prompt_tokens=group.fit.likely,
        bytes_a_token=group.bytes_a_token,
        price=group.price,
        least_cached=least_cached(asked.model),
        cache=job.spec.cache,
        is_marked=group.is_marked_all,
        is_templated=is_templated,
        fixed=Begin(tokens=group.shared, distinct=asked.fixed.distinct.count),
        first=Begin(tokens=int(asked.first.size / scale), distinct=asked.first.distinct.count),
        common_tokens=_common_tokens(group),
        order=_order(job, group) if is_templated else None,
        repeated=repeated,
        batch_pico=group.plain(is_batch=True),
        longest_answer=asked.longest_answer,
        answer_tokens=asked.answer_tokens,
        earlier=earlier,
        lasts_s=lasts,
    )


def _common_tokens(group: Group) -> int:
    """Reckon what all prompts begin with, tools and system prompt included if these are the same."""
    if group.asked.fixed.distinct.count > 1:
        return 0
    return group.shared + int(len(group.asked.common or b"") / group.bytes_a_token)


def _order(job: JobFile, group: Group) -> Order | None:
    """Look at the order of the template, if prompts are long enough to be cached in any."""
    least = least_cached(group.asked.model) or LIKELY_LEAST
    return order_of(job) if group.fit.likely >= least * group.rows else None
