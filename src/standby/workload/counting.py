"""How many tokens prompts have, when only some are counted: strata by size, a line through them, an interval."""

from __future__ import annotations

import math
import random
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from standby.workload.faults import Refused, WorkloadError

STRATA = 5
A_STRATUM = 10
"""Least requests that are counted in a stratum: fewer say nothing about their spread."""
GAP = 2
"""Sizes that are so many times apart are another kind of request, such as one with an image."""
AT_ONCE = 4
CERTAIN = 0.99
"""Of so many intervals the truth lies inside."""
LEAST_ERROR = 0.005
"""Of what was not counted: requests that look alike may still differ by a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Requests of like size."""

    rows: int
    size: int
    """Of all together, in bytes."""
    chosen: tuple[int, ...]
    """Which of them are counted, by their place in the list of sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who is counted."""

    edges: tuple[int, ...]
    """Sizes at which the next stratum begins."""
    strata: tuple[Stratum, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the counted ones say about all: a line through them, and how far each stratum lies off it."""

    base: float
    """Tokens of a request without bytes."""
    slope: float
    """Tokens a byte."""
    edges: tuple[int, ...]
    offsets: tuple[float, ...]
    """Tokens a request, by stratum."""
    likely: int
    span: tuple[int, int]
    counted: int

    def tokens(self, size: int) -> float:
        """Reckon the tokens of a request by its size in bytes."""
        return max(0.0, self.base + self.slope * size + self.offsets[bisect_right(self.edges, size)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a service counted; None where it did not."""

    tokens: tuple[int | None, ...]
    refused: int = 0
    error: WorkloadError | None = None
    """Why the last of those that were not counted was not."""


def planned(sizes: Sequence[int], *, room: int, seed: str) -> Plan:
    """Part requests into strata that weigh the same, and draw from each; the same seed draws the same."""
    histogram = sorted(Counter(sizes).items())
    edges = _edges(histogram, max(1, min(STRATA, room // A_STRATUM)))
    count = len(edges) + 1
    rows, weight = [0] * count, [0] * count
    for size, times in histogram:
        at = bisect_right(edges, size)
        rows[at] += times
        weight[at] += size * times
    kept = _drawn(sizes, edges, _rooms(rows, room), random.Random(seed))  # noqa: S311 - a sample keeps no secret
    strata = (Stratum(rows=n, size=w, chosen=tuple(k)) for n, w, k in zip(rows, weight, kept, strict=True))
    return Plan(edges=edges, strata=tuple(strata))


def _drawn(sizes: Sequence[int], edges: Sequence[int], rooms: Sequence[int], dice: random.Random) -> list[list[int]]:
    kept: list[list[int]] = [[] for _ in rooms]
    seen = [0] * len(rooms)
    for place, size in enumerate(sizes):
        at = bisect_right(edges, size)
        seen[at] += 1
        if len(kept[at]) < rooms[at]:
            kept[at].append(place)
        elif (other := dice.randrange(seen[at])) < rooms[at]:
            kept[at][other] = place
    return kept


def _rooms(rows: Sequence[int], room: int) -> list[int]:
    """Share the room out evenly; what a small stratum does not need goes to the others."""
    found = [0] * len(rows)
    for done, at in enumerate(sorted(range(len(rows)), key=lambda at: rows[at])):
        found[at] = min(rows[at], max(1, room // (len(rows) - done)))
        room -= found[at]
    return found


def counted(count: Callable[[int], int], places: Sequence[int]) -> Counted:
    """Count requests, a few at once. One that is refused is left out; whatever else fails ends the counting."""
    stop = threading.Event()

    def one(place: int) -> int | WorkloadError | None:
        if stop.is_set():
            return None
        try:
            return count(place)
        except Refused as error:
            return error
        except WorkloadError as error:
            stop.set()
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            found = list(pool.map(one, places))
        except BaseException:
            stop.set()
            raise
    errors = [error for error in found if isinstance(error, WorkloadError)]
    return Counted(
        tokens=tuple(value if isinstance(value, int) else None for value in found),
        refused=sum(isinstance(error, Refused) for error in errors),
        error=errors[-1] if errors else None,
    )


def fitted(plan: Plan, sizes: Sequence[int], tokens: dict[int, int]) -> Fit:
    """Reckon all tokens from those that were counted, by place; there must be one.

    The difference estimator: all requests by the line, and each stratum by what its own counted ones lie off it.
    """
    samples = [[(sizes[p], tokens[p]) for p in stratum.chosen if p in tokens] for stratum in plan.strata]
    base, slope = _line(plan, samples)
    misses = [[count - base - slope * size for size, count in sample] for sample in samples]
    known = [miss for sample in misses for miss in sample]
    offsets, total, variance, open_ = [], 0.0, 0.0, 0.0
    for stratum, sample in zip(plan.strata, misses, strict=True):
        offset = sum(sample) / len(sample) if sample else 0.0
        reckoned = max(0.0, stratum.rows * (base + offset) + slope * stratum.size)
        left = 1 - len(sample) / stratum.rows if stratum.rows else 0.0
        spread = variance_of(sample if len(sample) > 1 else known)
        offsets.append(offset)
        total += reckoned
        open_ += left * reckoned
        variance += left * stratum.rows**2 * (math.pow(total, 2) if spread is None else spread) / max(1, len(sample))
    free = sum(max(0, len(sample) - 1) for sample in samples)
    error = max(_quantile(free) * math.sqrt(variance), LEAST_ERROR * open_)
    span = (max(0, math.floor(total - error)), math.ceil(total + error))
    return Fit(
        base=base,
        slope=slope,
        edges=plan.edges,
        offsets=tuple(offsets),
        likely=round(total),
        span=span,
        counted=len(known),
    )


def _line(plan: Plan, samples: Sequence[Sequence[tuple[int, int]]]) -> tuple[float, float]:
    """Lay a line through what was counted, each as heavy as the requests that it stands for; through 0 if it must."""
    weighted = [
        (stratum.rows / len(sample), size, count)
        for stratum, sample in zip(plan.strata, samples, strict=True)
        for size, count in sample
    ]
    weight = sum(w for w, _, _ in weighted)
    size, count = (sum(one[0] * one[at] for one in weighted) / weight for at in (1, 2))
    width = sum(w * (x - size) ** 2 for w, x, _ in weighted)
    slope = sum(w * (x - size) * (y - count) for w, x, y in weighted) / width if width else -1.0
    if slope <= 0 or len(weighted) <= A_STRATUM:
        return 0.0, count / max(1.0, size)
    return count - slope * size, slope


def variance_of(values: Sequence[float]) -> float | None:
    """Return the variance of a sample; None if one value says nothing about others."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.fsum(math.pow(value - mean, 2) for value in values) / (len(values) - 1)


def _edges(histogram: Sequence[tuple[int, int]], strata: int) -> tuple[int, ...]:
    """Cut sizes so that each stratum weighs the same, since long ones matter most, and where there is a wide gap."""
    whole, sofar, found = sum(size * rows for size, rows in histogram), 0, set()
    for (size, rows), (next_size, _) in pairwise(histogram):
        before = strata * sofar // whole
        sofar += size * rows
        if strata * sofar // whole > before or next_size > GAP * size:
            found.add(next_size)
    return tuple(sorted(found))


def _quantile(free: int) -> float:
    """Return Student's quantile for an interval of `CERTAIN`, by the expansion of Fisher and Cornish."""
    z = NormalDist().inv_cdf((1 + CERTAIN) / 2)
    if free <= 2:
        return {2: 9.92}.get(free, 63.66)
    return z + sum(term / (scale * math.pow(free, power)) for power, scale, term in _terms(z))


def _terms(z: float) -> Iterator[tuple[int, int, float]]:
    yield 1, 4, z**3 + z
    yield 2, 96, 5 * z**5 + 16 * z**3 + 3 * z
    yield 3, 384, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
