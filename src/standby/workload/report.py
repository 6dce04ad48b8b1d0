"""What became of a job, as plain JSON values: for `--json`, for the terminal, for a page."""

from __future__ import annotations

from typing import Any

from standby.pricing.rates import prompt_of
from standby.workload.costs import PriceOf, cost_of
from standby.workload.jobfile import JobFile
from standby.workload.states import PartState

SCHEMA = 1
"""Of the form of this report; it grows when a key changes its meaning."""


def report_of(job: JobFile, price_of: PriceOf) -> dict[str, Any]:
    """Sum a job up; money in pico-dollars. It may still be running."""
    parts, counts = job.parts(), job.counts()
    cost = cost_of(job, price_of)
    good = sum(count for outcome, cause, count in counts if outcome == "succeeded" and not cause)
    prompt = prompt_of(cost.tokens)
    is_known = cost.unpriced < cost.answers or not cost.answers
    return {
        "schema": SCHEMA,
        "output": job.spec.output,
        "endpoint": job.meta("endpoint"),
        "model": job.spec.model or None,
        "is_done": bool(parts) and all(part.state is PartState.DONE for part in parts),
        "rows": sum(count for _, _, count in counts),
        "succeeded": good,
        "failed": {str(cause): count for outcome, cause, count in counts if outcome is not None and cause},
        "open": sum(count for outcome, _, count in counts if outcome is None),
        "parts": [
            {
                "number": part.number,
                "round": part.round,
                "items": part.items,
                "bytes": part.bytes,
                "state": str(part.state),
                "batch_id": part.batch_id,
                "created_at": part.created_at,
                "ended_at": part.ended_at,
                "foreign_rows": part.foreign_ids,
                "duplicate_rows": part.duplicates,
            }
            for part in parts
        ],
        "tokens": {
            "input": cost.tokens.input,
            "cache_write_5m": cost.tokens.write_5m,
            "cache_write_1h": cost.tokens.write_1h,
            "cache_read": cost.tokens.read,
            "output": cost.tokens.output,
        },
        "read_share": cost.tokens.read / prompt if prompt else None,
        "cost": {
            "charged_pico": cost.charged if is_known else None,
            "batch_without_cache_pico": cost.uncached if is_known else None,
            "real_time_pico": cost.standard if is_known else None,
            "saved_by_batch_pico": cost.standard - cost.uncached if is_known else None,
            "saved_by_cache_pico": cost.uncached - cost.charged if is_known else None,
            "unpriced_answers": cost.unpriced,
            "is_batch_price_assumed": cost.is_assumed,
        },
    }
