"""What was predicted, beside what came: errors of tokens and cost, an answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What the answers of a job add up to."""

    answers: int
    """Those that were charged, each try for itself."""
    prompt_tokens: int
    output_tokens: int
    charged_pico: int | None
    has_cache: bool


class _Estimate(msgspec.Struct):
    """What is read of an estimate; keys that are not there are not claimed."""

    rows: int
    prompt_tokens: int
    prompt_tokens_span: tuple[int, int]
    most_output_tokens: int
    sampled: int = 0
    batch_pico: tuple[int, int] | None = None
    cached_pico: tuple[int, int] | None = None
    worst_pico: int | None = None
    expected_output_tokens: int | None = None
    expected_pico: int | None = None
    expected_s: tuple[float, float] | None = None


def predicted(estimate: str, *, cache: str) -> tuple[tuple[int, int] | None, tuple[float, float] | None]:
    """Read out of an estimate (JSON) what the whole job will cost, in pico-dollars, and how many seconds it will take.

    `cache` is what the job asks for: `off`, `5m` or `1h`. None for what the estimate does not say.
    """
    found = _read(estimate)
    return (None, None) if found is None else (_span(found, has_cache=cache != "off"), found.expected_s)


def compared(estimate: str, actual: Actual) -> dict[str, Any] | None:
    """Put an estimate (JSON) beside what came; None if there is none, or nothing was answered yet.

    A job may end with fewer answers than rows, or with more where rows were asked twice: so both sides are taken an
    answer. An error of 0.1 says that the prediction was a tenth too high.
    """
    found = _read(estimate)
    if found is None or not found.rows or not actual.answers:
        return None
    share = actual.answers / found.rows
    return {
        "rows": found.rows,
        "counted": found.sampled,
        "answers": actual.answers,
        "prompt_tokens": _beside(found.prompt_tokens, found.prompt_tokens_span, actual.prompt_tokens, share),
        "output_tokens": _beside(
            found.expected_output_tokens, (0, found.most_output_tokens), actual.output_tokens, share
        ),
        "charged_pico": _beside(
            found.expected_pico, _span(found, has_cache=actual.has_cache), actual.charged_pico, share
        ),
    }


def _read(estimate: str) -> _Estimate | None:
    try:
        return msgspec.json.decode(estimate, type=_Estimate) if estimate else None
    except msgspec.DecodeError:
        return None


def _span(found: _Estimate, *, has_cache: bool) -> tuple[int, int] | None:
    """Choose the span of what is done: with a cache, or without."""
    if has_cache and found.cached_pico is not None:
        return found.cached_pico[0], max(found.cached_pico[1], found.worst_pico or 0)
    return found.batch_pico


def _beside(
    likely: int | None, span: tuple[int, int] | None, actual: int | None, share: float
) -> dict[str, Any] | None:
    if span is None and likely is None:
        return None
    is_told = likely is not None and actual
    low, high = (None, None) if span is None else span
    return {
        "predicted": likely,
        "low": low,
        "high": high,
        "actual": actual,
        "error": likely * share / actual - 1 if is_told and likely is not None and actual else None,
        "is_inside": None if span is None or actual is None else span[0] * share <= actual <= span[1] * share,
    }
