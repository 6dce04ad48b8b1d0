"""What became of a job, as plain JSON values: for `--json`, for the terminal, for a page.

One walk over the usages of its answers, equal ones together; memory does not grow with the rows. Its keys are described
in `docs/reference/workload-report.md`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import msgspec

from standby.pricing.rates import Price, prompt_of
from standby.pricing.savings import Ttl, break_even
from standby.records import Tokens
from standby.workload.compared import Actual, compared
from standby.workload.costs import Cost, PriceOf
from standby.workload.jobfile import Item, JobFile, Part
from standby.workload.lengths import Lengths
from standby.workload.outcomes import AGAIN, Used, read
from standby.workload.remedies import remedy
from standby.workload.states import PartState

SCHEMA = 1
"""Of the form of this report; it grows when a key changes its meaning or goes away. New keys may come at any time."""
MOST_NAMED = 10
"""Dearest rows and slowest parts."""
MOST_WORDS = 300
"""Of what the service said about a row."""


def report_of(job: JobFile, price_of: PriceOf) -> dict[str, Any]:
    """Sum a job up; money in pico-dollars, times in RFC 3339 and seconds. It may still be running."""
    parts, sums = job.parts(), _summed(job, price_of)
    cost = sums.cost
    is_known = cost.unpriced < cost.answers or not cost.answers
    return {
        **brief_of(job),
        "schema": SCHEMA,
        "endpoint": job.meta("endpoint"),
        "model": job.spec.model or None,
        "created_at": job.meta("created"),
        "written_at": job.meta("written", "") or None,
        "failures": _failures(job),
        "parts": [_part(part) for part in parts],
        "canary": _canary(job, parts),
        "rounds": _rounds(job, parts),
        "time": _time(parts),
        "tokens": _tokens(cost.tokens),
        "answers": cost.answers,
        "answer_tokens": sums.lengths.told(),
        "read_share": _ratio(cost.tokens.read, prompt_of(cost.tokens)),
        "cache": _cache(sums, price_of) if is_known else None,
        "cost": {
            "charged_pico": cost.charged if is_known else None,
            "batch_without_cache_pico": cost.uncached if is_known else None,
            "real_time_pico": cost.standard if is_known else None,
            "saved_by_batch_pico": cost.standard - cost.uncached if is_known else None,
            "saved_by_cache_pico": cost.uncached - cost.charged if is_known else None,
            "without_good_answer_pico": sums.in_vain if is_known else None,
            "unpriced_answers": cost.unpriced,
            "is_batch_price_assumed": bool(cost.is_assumed),
        },
        "models": [
            {"model": model, "answers": one.answers, "charged_pico": None if one.unpriced else one.charged}
            for model, one in sorted(sums.models.items(), key=lambda pair: (-pair[1].charged, pair[0]))
        ],
        "predicted": _predicted(job, sums),
        "dearest": [_dearest(job, *one) for one in sorted(sums.dearest, key=lambda one: (-one[0], -one[1]))],
    }


def brief_of(job: JobFile) -> dict[str, Any]:
    """Count the rows of a job; no prices, and no walk over its usages."""
    parts, counts = job.parts(), job.counts()
    return {
        "output": job.spec.output,
        "is_done": bool(parts) and all(part.state is PartState.DONE for part in parts),
        "rows": sum(count for _, _, count in counts),
        "succeeded": sum(count for outcome, cause, count in counts if outcome == "succeeded" and not cause),
        "failed": {str(cause): count for outcome, cause, count in counts if outcome is not None and cause},
        "open": sum(count for outcome, _, count in counts if outcome is None),
    }


class _Sums:
    """What one walk over the usages of a job adds up."""

    def __init__(self) -> None:
        self.models: dict[str, Cost] = {}
        self.in_vain = 0
        """Charged for answers that were cut, refused or not what was asked for, earlier tries among them."""
        self.lengths = Lengths()
        self.readers = self.writers = 0
        """Answers that found a prefix in a cache, and answers that only wrote one."""
        self.dearest: list[tuple[int, int, int]] = []
        """Heap of charge, minus the first row with it, rows with the same usage."""

    @property
    def cost(self) -> Cost:
        """Of all models together."""
        total = Cost()
        for one in self.models.values():
            for column in fields(Cost):
                setattr(total, column.name, getattr(total, column.name) + getattr(one, column.name))
        return total


def _summed(job: JobFile, price_of: PriceOf) -> _Sums:
    sums = _Sums()
    for text, outcome, cause, times, first in job.usages():
        tries = read(text)
        charges = [_add(sums, model, used, price_of(model), times) for model, used in tries]
        is_good = outcome == "succeeded" and not cause
        sums.in_vain += times * sum(charges[:-1] if is_good else charges)
        if outcome == "succeeded":
            sums.lengths.add(tries[-1][1].tokens.output, times)
        push = heapq.heappush if len(sums.dearest) < MOST_NAMED else heapq.heappushpop
        if sum(charges):
            push(sums.dearest, (sum(charges), -first, times))
    return sums


def _add(sums: _Sums, model: str, used: Used, price: Price | None, times: int) -> int:
    """Add so many equal results; return what one of them was charged, 0 if nobody knows."""
    cost = sums.models.get(model)
    if cost is None:
        cost = sums.models[model] = Cost()
    before = cost.charged
    cost.add(used, price, times)
    if used.tokens.read:
        sums.readers += times
    elif used.tokens.write_5m or used.tokens.write_1h:
        sums.writers += times
    return (cost.charged - before) // times


def _failures(job: JobFile) -> list[dict[str, Any]]:
    """Say of each cause what it means, what to do, and what the service said of the first row that has it."""
    found = []
    for outcome, cause, count in job.counts():
        if outcome is None or not cause:
            continue
        about, first = remedy(cause, job.spec.output), job.first_of(outcome, cause)
        found.append(
            {
                "cause": cause,
                "rows": count,
                "why": about.why,
                "todo": about.todo,
                "passes": cause in AGAIN,
                "first": {"row": first.number + 1, "key": first.key, "words": _words(job, first)},
            }
        )
    return found


class _Error(msgspec.Struct):
    message: str = ""


class _Wrapped(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


class _Result(msgspec.Struct):
    error: _Wrapped | None = None


class _Line(msgspec.Struct):
    result: _Result


def _words(job: JobFile, item: Item) -> str | None:
    """Read what the service said about a row, shortened; None if nothing, or its results are not here any more."""
    if item.place is None or item.length is None:
        return None
    try:
        with job.results(item.part).open("rb") as file:
            file.seek(item.place)
            error = msgspec.json.decode(file.read(item.length), type=_Line).result.error
    except (OSError, msgspec.DecodeError):
        return None
    said = error.error.message if error is not None else ""
    return (said if len(said) <= MOST_WORDS else f"{said[:MOST_WORDS]}…") or None


def _part(part: Part) -> dict[str, Any]:
    seconds = _seconds(part.created_at, part.ended_at)
    return {
        "number": part.number,
        "round": part.round,
        "items": part.items,
        "bytes": part.bytes,
        "state": str(part.state),
        "batch_id": part.batch_id,
        "created_at": part.created_at,
        "ended_at": part.ended_at,
        "seconds": seconds,
        "items_per_s": part.items / seconds if seconds else None,
        "foreign_rows": part.foreign_ids,
        "duplicate_rows": part.duplicates,
    }


def _canary(job: JobFile, parts: Sequence[Part]) -> dict[str, Any] | None:
    """Tell of the part that went first, alone; None if there was none. Rows that were tried again have left it."""
    if not job.meta("canary", "") or not parts:
        return None
    causes = job.causes(1)
    is_done = parts[0].state is PartState.DONE
    return {
        "rows": parts[0].items,
        "is_done": is_done,
        "succeeded": causes.get("", 0) if is_done else 0,
        "seconds": _seconds(parts[0].created_at, parts[0].ended_at),
    }


def _rounds(job: JobFile, parts: Sequence[Part]) -> list[dict[str, int]]:
    """Tell of each round, the first try being 0: what was sent, and how many rows got their good answer in it."""
    good = {round_: count for round_, _, count in job.rounds()}
    rounds = sorted({part.round for part in parts})
    return [
        {
            "round": round_,
            "parts": sum(part.round == round_ for part in parts),
            "sent": sum(part.items for part in parts if part.round == round_),
            "succeeded": good.get(round_, 0),
        }
        for round_ in rounds
    ]


def _time(parts: Sequence[Part]) -> dict[str, Any]:
    """Tell when the service worked, by its own clock, and which parts took longest."""
    began = min((part.created_at for part in parts if part.created_at), default=None)
    ended = max((part.ended_at for part in parts if part.ended_at), default=None)
    took = [(seconds, part) for part in parts if (seconds := _seconds(part.created_at, part.ended_at)) is not None]
    slowest = sorted(took, key=lambda pair: (-pair[0], pair[1].number))[:MOST_NAMED]
    seconds = _seconds(began, ended)
    rows = sum(part.items for _, part in took)
    return {
        "began_at": began,
        "ended_at": ended,
        "seconds": seconds,
        "items_per_s": rows / seconds if seconds else None,
        "slowest_parts": [part.number for _, part in slowest],
    }


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {
        "input": tokens.input,
        "cache_write_5m": tokens.write_5m,
        "cache_write_1h": tokens.write_1h,
        "cache_read": tokens.read,
        "output": tokens.output,
    }


def _cache(sums: _Sums, price_of: PriceOf) -> dict[str, Any] | None:
    """Tell whether the prompt cache paid; None if no request had a marker that took effect.

    The hit rate is that of tokens: read, of all that were read or written. It is what the break-even rate is about:
    above it a cache is cheaper than none, below it costs more.
    """
    tokens = sums.cost.tokens
    written = tokens.write_5m + tokens.write_1h
    if not written + tokens.read:
        return None
    return {
        "requests": sums.readers + sums.writers,
        "requests_that_read": sums.readers,
        "hit_rate": tokens.read / (tokens.read + written),
        "break_even": _break_even(sums, price_of),
        "saved_pico": sums.cost.uncached - sums.cost.charged,
    }


def _break_even(sums: _Sums, price_of: PriceOf) -> float | None:
    """Of one model and one lifetime; for a mixture there is no single rate."""
    tokens = sums.cost.tokens
    price = price_of(next(iter(sums.models))) if len(sums.models) == 1 else None
    if price is None or (tokens.write_5m and tokens.write_1h):
        return None
    ttl: Ttl = "5m" if tokens.write_5m else "1h"
    found = break_even(price.batch, prompt_tokens=prompt_of(tokens) // sums.cost.answers, ttl=ttl)
    return None if found is None else float(found)


def _predicted(job: JobFile, sums: _Sums) -> dict[str, Any] | None:
    cost = sums.cost
    return compared(
        job.meta("estimate", ""),
        Actual(
            answers=cost.answers,
            prompt_tokens=prompt_of(cost.tokens),
            output_tokens=cost.tokens.output,
            charged_pico=None if cost.unpriced else cost.charged,
            has_cache=bool(cost.tokens.read + cost.tokens.write_5m + cost.tokens.write_1h),
        ),
    )


def _dearest(job: JobFile, charged: int, first: int, times: int) -> dict[str, Any]:
    item = job.item(-first)
    used = [used.tokens for _, used in read(item.tokens or "")]
    return {
        "row": item.number + 1,
        "key": item.key,
        "charged_pico": charged,
        "prompt_tokens": sum(prompt_of(tokens) for tokens in used),
        "output_tokens": sum(tokens.output for tokens in used),
        "tries": item.tries,
        "rows_alike": times - 1,
    }


def _seconds(begin: str | None, end: str | None) -> float | None:
    if not begin or not end:
        return None
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
