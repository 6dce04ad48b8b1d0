"""What the Batches API has no word for, under `/standby/v1/`: progress, and results while a batch still runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from standby.api.batches import download, find_batch, no_results
from standby.api.call import Caller
from standby.api.deps import Deps
from standby.api.replies import json_reply
from standby.records import SECOND, Batch
from standby.wire.batches import timestamp


class Extensions:
    """Progress and partial results."""

    def __init__(self, deps: Deps) -> None:
        """Keep what the verbs need."""
        self._deps = deps

    async def progress(self, request: Request, caller: Caller) -> Response:
        """Read counts, rate, estimate and tokens of one batch."""
        batch = await find_batch(self._deps, request, caller)
        tokens = await self._deps.store.tokens_of(batch.id)
        return json_reply(msgspec.json.encode(progress_of(batch, tokens=tokens, now_us=self._deps.clock())))

    async def partial_results(self, request: Request, caller: Caller) -> ASGIApp:
        """Stream the results that exist by now; none yet is an empty body."""
        batch = await find_batch(self._deps, request, caller)
        if batch.archived_us is not None:
            raise no_results(batch.id)
        return await download(self._deps, request, caller, await self._deps.store.manifest(batch.id))


def progress_of(batch: Batch, *, tokens: dict[str, int], now_us: int) -> dict[str, Any]:
    """Work out the progress of a batch.

    `items_per_s` is the mean over the run so far, `eta_s` what is left at that rate; both null while nothing has
    a result, `eta_s` also once the batch has ended.
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
