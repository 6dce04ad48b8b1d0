"""What a job will cost, before anything is sent: a sample of its prompts is counted, the rest is reckoned from bytes.

The sample is stratified by the length of requests and counted by the service itself (`count_tokens` is free); in each
stratum the ratio of tokens to bytes is worked out, and its error makes the interval. How long answers will be nobody
knows before: costs are told for no answer and for the longest. Of a tariff with steps the mean prompt decides.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec

from standby.pricing.rates import Price
from standby.pricing.savings import Job, break_even, compare, reads_at
from standby.records import Tokens
from standby.workload.bodies import lines_of
from standby.workload.costs import PriceOf
from standby.workload.faults import BadInput
from standby.workload.jobfile import JobFile
from standby.workload.service import Service

SAMPLE = 100
STRATA = 5
SIGMAS = 2.6
"""Of the sampling error: 99 intervals of 100 hold the truth."""
HITS = (Fraction(98, 100), Fraction(30, 100))
"""The best and the worst hit rate that the service publishes for batches (contract 9.3)."""
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known of a job before it runs; money in pico-dollars, None where it is not known.

    Each span begins with no answers at the low end of the prompts, and ends with the longest answers at the high end.
    """

    rows: int
    sampled: int
    model: str
    prompt_tokens: int
    prompt_tokens_span: Span
    shared_tokens: int
    """Of the system prompt, which every row sends."""
    most_output_tokens: int
    standard_pico: Span | None
    batch_pico: Span | None
    cached_pico: Span | None
    """Batch with the system prompt cached for an hour: best hits and no answers, worst hits and the longest."""
    break_even: float | None
    """Share of hits from which on that cache is cheaper than none."""
    worst_pico: int | None
    """The most that the job as it is asked for can cost, what is tried again left out."""


class _Limits(msgspec.Struct):
    model: str = ""
    max_tokens: int = 0


class _Line(msgspec.Struct):
    params: _Limits


_limits = msgspec.json.Decoder(_Line).decode


def estimate(job: JobFile, service: Service, price_of: PriceOf, *, sample: int = SAMPLE) -> Estimate:
    """Estimate a prepared job; `BadInput` if it has none of its bodies any more."""
    lengths, most, model = array("L"), 0, ""
    for line in _lines(job):
        about = _limits(line).params
        model, most = model or about.model, most + about.max_tokens
        lengths.append(len(line))
    if not lengths:
        raise BadInput("there is nothing to estimate")
    edges = _edges(lengths)
    samples = [[(len(line), _count(service, line)) for line in lines] for lines in _chosen(job, edges, sample)]
    likely, error = _total(lengths, edges, samples)
    span = (max(0, int(likely - error)), math.ceil(likely + error))
    shared = _shared(job, service)
    price = price_of(model)
    cached = _cached(price, len(lengths), shared, span, most) if price and shared else None
    batch = None if price is None else _span(price, len(lengths), span, most, is_batch=True)
    pays_cache = job.spec.cache != "off" and cached is not None and batch is not None
    return Estimate(
        rows=len(lengths),
        sampled=sum(len(stratum) for stratum in samples),
        model=model,
        prompt_tokens=int(likely),
        prompt_tokens_span=span,
        shared_tokens=shared,
        most_output_tokens=most,
        standard_pico=None if price is None else _span(price, len(lengths), span, most, is_batch=False),
        batch_pico=batch,
        cached_pico=cached,
        break_even=_break_even(price, int(likely) // len(lengths)),
        worst_pico=2 * batch[1] if pays_cache and batch else batch[1] if batch else None,
    )


def _lines(job: JobFile) -> Iterator[bytes]:
    tag = job.tag
    for part in job.parts():
        if part.round == 0 and job.body(part.number).exists():
            yield from (line for _, line in lines_of(job.body(part.number), tag))


def _edges(lengths: Sequence[int]) -> list[int]:
    """Cut lengths into strata of equal numbers."""
    ordered = sorted(lengths)
    return sorted({ordered[len(ordered) * cut // STRATA] for cut in range(1, STRATA)})


def _chosen(job: JobFile, edges: list[int], sample: int) -> list[list[bytes]]:
    """Draw as many lines of each stratum, every line of it with the same chance; the same job draws the same."""
    dice = random.Random(job.tag)  # noqa: S311 - a sample keeps no secret
    room = max(1, sample // (len(edges) + 1))
    kept: list[list[bytes]] = [[] for _ in range(len(edges) + 1)]
    seen = [0] * len(kept)
    for line in _lines(job):
        at = bisect_right(edges, len(line))
        seen[at] += 1
        if len(kept[at]) < room:
            kept[at].append(line)
        elif (place := dice.randrange(seen[at])) < room:
            kept[at][place] = line
    return kept


def _count(service: Service, line: bytes) -> int:
    params: dict[str, Any] = msgspec.json.decode(line)["params"]
    return service.count_tokens(params)


def _total(lengths: Sequence[int], edges: list[int], samples: list[list[tuple[int, int]]]) -> tuple[float, float]:
    """Estimate the sum of tokens by a ratio in each stratum; return it with its error."""
    total, variance = 0.0, 0.0
    for at, stratum in enumerate(samples):
        sizes = [size for size in lengths if bisect_right(edges, size) == at]
        if not stratum:
            continue
        ratio = sum(tokens for _, tokens in stratum) / sum(size for size, _ in stratum)
        total += ratio * sum(sizes)
        left = 1 - len(stratum) / len(sizes)
        if len(stratum) > 1 and left > 0:
            spread = sum((tokens - ratio * size) ** 2 for size, tokens in stratum) / (len(stratum) - 1)
            variance += len(sizes) ** 2 * left * spread / len(stratum)
    return total, SIGMAS * math.sqrt(variance)


def _shared(job: JobFile, service: Service) -> int:
    """Count the system prompt, if it is the same for every row."""
    system = job.spec.system
    if not system or "{{" in system or "{%" in system:
        return 0
    bare = {"model": job.spec.model, "messages": [{"role": "user", "content": "x"}]}
    return max(0, service.count_tokens({**bare, "system": system}) - service.count_tokens(bare))


def _span(price: Price, rows: int, prompts: Span, most: int, *, is_batch: bool) -> Span:
    tariff = price.batch if is_batch else price.standard
    low, high = (tariff.rate(tokens // rows) for tokens in prompts)
    return low.of(Tokens(input=prompts[0])), high.of(Tokens(input=prompts[1], output=most))


def _cached(price: Price, rows: int, shared: int, prompts: Span, most: int) -> Span:
    ends = []
    for hits, tokens, answers in zip(HITS, prompts, (0, most), strict=True):
        fresh = max(0, -(-tokens // rows) - shared)
        job = Job(requests=rows, shared_tokens=shared, fresh_tokens=fresh, output_tokens=-(-answers // rows))
        ends.append(compare(job, price, reads=reads_at(job, hits), ttl="1h").batch_and_cache)
    return ends[0], ends[1]


def _break_even(price: Price | None, prompt: int) -> float | None:
    found = None if price is None else break_even(price.batch, prompt_tokens=prompt, ttl="1h")
    return None if found is None else float(found)
