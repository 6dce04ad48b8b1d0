"""What the Batches API has no word for, under `/standby/v1/`: progress, and results while a batch still runs."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from standby.api.batches import download, find_batch, no_results
from standby.api.call import Caller
from standby.api.cost import bound_of, engine_share, read_share
from standby.api.deps import Deps
from standby.api.replies import json_reply
from standby.records import SECOND, Batch, BatchView, PlanFacts, Reuse, SchedulerView, Tokens
from standby.wire.batches import timestamp


class Extensions:
    """Progress and partial results."""

    def __init__(self, deps: Deps) -> None:
        """Keep what the verbs need."""
        self._deps = deps

    async def progress(self, request: Request, caller: Caller) -> Response:
        """Read counts, rate, estimate and tokens of one batch."""
        store, batch = self._deps.store, await find_batch(self._deps, request, caller)
        tokens, told, plan = await asyncio.gather(
            store.tokens_of(batch.id), store.reuse_of(batch.id), store.plan_of(batch.id)
        )
        view = self._deps.explain.batch(batch.id) if batch.ended_us is None else None
        now_us = self._deps.clock()
        progress = progress_of(batch, tokens=tokens, now_us=now_us)
        body = progress | outlook_of(view, now_us=now_us) | {"reuse": reuse_of(tokens, told, plan)}
        return json_reply(msgspec.json.encode(body))

    async def scheduler(self, request: Request, caller: Caller) -> Response:  # noqa: ARG002 - the shape of a verb
        """Say what the scheduler does and why."""
        return json_reply(msgspec.json.encode(scheduler_of(self._deps.explain.scheduler())))

    async def partial_results(self, request: Request, caller: Caller) -> ASGIApp:
        """Stream the results that exist by now; none yet is an empty body."""
        batch = await find_batch(self._deps, request, caller)
        if batch.archived_us is not None:
            raise no_results(batch.id)
        return await download(self._deps, request, caller, await self._deps.store.manifest(batch.id))


def progress_of(batch: Batch, *, tokens: dict[str, int], now_us: int) -> dict[str, Any]:
    """Work out the progress of a batch.

    `items_per_s` is the mean over the run so far, `eta_s` what is left at that rate (`outlook_of` knows better); both
    null while nothing has a result, `eta_s` also once the batch has ended.
    """
    done = batch.size - batch.counts.processing
    elapsed_s = max((batch.ended_us or now_us) - batch.created_us, 1) / SECOND
    rate = done / elapsed_s if done else None
    is_ended = batch.ended_us is not None
    return {
        "id": batch.id,
        "type": "standby_batch_progress",
        "processing_status": batch.state,
        "size": batch.size,
        "request_counts": asdict(batch.counts),
        "created_at": timestamp(batch.created_us),
        "expires_at": timestamp(batch.expires_us),
        "ended_at": None if batch.ended_us is None else timestamp(batch.ended_us),
        "elapsed_s": round(elapsed_s, 3),
        "items_per_s": None if rate is None else round(rate, 3),
        "eta_s": None if rate is None or is_ended else round(batch.counts.processing / rate, 1),
        "tokens": tokens,
    }


def outlook_of(view: BatchView | None, *, now_us: int) -> dict[str, Any]:
    """Say what the scheduler expects of a batch; times are seconds from now. Nothing once it has no work left."""
    if view is None:
        return {}
    eta = view.eta
    found: dict[str, Any] = {
        "in_flight": view.in_flight,
        "recent_items_per_s": None if view.items_per_s is None else round(view.items_per_s, 3),
        "pressure": view.pressure,
        "is_urgent": view.is_urgent,
        "will_miss": view.will_miss,
        "waits": view.waits,
        "eta_range_s": None,
    }
    if eta is not None:
        found["eta_s"] = _seconds(eta.likely_us, now_us)
        found["eta_range_s"] = [_seconds(eta.early_us, now_us), _seconds(eta.late_us, now_us)]
    return found


def reuse_of(tokens: dict[str, int], told: Reuse, plan: PlanFacts) -> dict[str, Any]:
    """Say how much of the prompts so far the engines reused and how much was billed as read from a cache.

    `bound` is the most that the plan's order could have saved; `cached_share` is the first name of `billed_share`.
    """
    billed = read_share(Tokens(**tokens))
    return {
        "engine_share": engine_share(told),
        "bound": bound_of(plan) or 0.0,
        "billed_share": billed,
        "cached_share": billed,
        "groups": plan.groups,
    }


def scheduler_of(view: SchedulerView) -> dict[str, Any]:
    """Write the scheduler's view."""
    return {
        "type": "standby_scheduler",
        "batches": view.batches,
        "in_flight": view.in_flight,
        "held_runs": view.held_runs,
        "cost_tokens_per_s": None if view.cost_tokens_per_s is None else round(view.cost_tokens_per_s, 1),
        "pressure": round(view.pressure, 3),
        "endpoints": [
            {
                "name": one.name,
                "engine": one.engine,
                "cache": one.cache,
                "is_ready": one.is_ready,
                "slots": one.slots,
                "live_in_flight": one.live,
                "batch_in_flight": one.batch,
                "most_batch": one.most_batch,
                "inter_token_ms": _ms(one.gap_s),
                "target_inter_token_ms": _ms(one.target_gap_s),
                "why": one.why,
            }
            for one in view.endpoints
        ],
    }


def _seconds(at_us: int, now_us: int) -> float:
    return round(max(0, at_us - now_us) / SECOND, 1)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)
