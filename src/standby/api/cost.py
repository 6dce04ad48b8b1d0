"""What a batch cost: from its bills, and its dearest items from its rows."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from standby.api.ranges import Span
from standby.api.results import rows
from standby.blobs.base import Blobs
from standby.pricing.bills import charge_of
from standby.pricing.book import PriceBook
from standby.pricing.rates import prompt_of
from standby.records import Batch, Bill, PlanFacts, Reuse, Tokens
from standby.store.base import Store
from standby.wire.batches import timestamp
from standby.wire.messages import Usage, tokens_of

LINES_A_TURN = 500


async def cost_of(
    store: Store, blobs: Blobs, prices: PriceBook, batch: Batch, *, top: int, now_us: int
) -> dict[str, Any]:
    """Report what a batch cost so far.

    Money is whole pico-dollars; null if no price is known. `items` are the dearest by the prices of the day on which
    the batch ended (of now, while it runs); none are named once its results are archived.
    """
    bills, told, plan = await asyncio.gather(
        store.bills_of(batch.id), store.reuse_of(batch.id), store.plan_of(batch.id)
    )
    whole = _whole(bills)
    dearest = []
    if top and batch.archived_us is None:
        dearest = await _dearest(store, blobs, prices, batch, top=top, at_us=batch.ended_us or now_us)
    return {
        "id": batch.id,
        "type": "standby_batch_cost",
        "processing_status": batch.state,
        "request_counts": asdict(batch.counts),
        "created_at": timestamp(batch.created_us),
        "ended_at": None if batch.ended_us is None else timestamp(batch.ended_us),
        **_sums(whole),
        "reuse": {
            "engine_share": engine_share(told),
            "bound": bound_of(plan),
            "read_share": read_share(whole.tokens),
        },
        "models": [{"model": bill.model or None, **_sums(bill)} for bill in bills],
        "not_charged": {
            outcome: {"items": getattr(batch.counts, outcome), "cost_pico": 0}
            for outcome in ("errored", "canceled", "expired")
        },
        "items": dearest,
    }


def _sums(bill: Bill) -> dict[str, Any]:
    priced = bill.requests - bill.unpriced
    sums = {
        "standard_pico": bill.plain_pico,
        "batch_pico": bill.batch_pico,
        "cost_pico": bill.charge_pico,
        "saved_by_batch_pico": bill.plain_pico - bill.batch_pico,
        "saved_by_cache_pico": bill.batch_pico - bill.charge_pico,
        "mean_item_pico": bill.charge_pico // priced if priced else None,
    }
    return {
        "requests": bill.requests,
        "unpriced_requests": bill.unpriced,
        "tokens": asdict(bill.tokens),
        **{name: value if priced else None for name, value in sums.items()},
    }


def _whole(bills: list[Bill]) -> Bill:
    whole = Bill(model="", requests=0, tokens=Tokens())
    for bill in bills:
        whole += bill
    return whole


def engine_share(told: Reuse) -> float | None:
    """Return the share of prompt tokens that engines took out of their caches; None if none of them told."""
    return round(told.reused / told.prompt, 4) if told.prompt else None


def read_share(tokens: Tokens) -> float | None:
    """Return the share of prompt tokens that is billed as read from a cache: only up to breakpoints (contract 9.2)."""
    prompt = prompt_of(tokens)
    return round(tokens.read / prompt, 4) if prompt else None


def bound_of(facts: PlanFacts) -> float | None:
    """Return the share of prompt tokens that a cache could have reused at most, as the plan estimated it."""
    return round(facts.shared_tokens / facts.prompt_tokens, 4) if facts.prompt_tokens else None


async def _dearest(
    store: Store, blobs: Blobs, prices: PriceBook, batch: Batch, *, top: int, at_us: int
) -> list[dict[str, Any]]:
    """Read every row once and keep the dearest, a few at a time, so that others get their turn."""
    segments = await store.manifest(batch.id)
    best: list[tuple[int, str, _Message]] = []
    left = b""
    async for piece in rows(blobs, segments, Span(0, sum(segment.length for segment in segments))):
        lines = (left + piece).split(b"\n")
        left = lines.pop()
        for start in range(0, len(lines), LINES_A_TURN):
            best = heapq.nlargest(
                top, [*best, *_priced(lines[start : start + LINES_A_TURN], prices, at_us)], key=_order
            )
            await asyncio.sleep(0)
    return [
        {"custom_id": custom_id, "model": message.model, "cost_pico": pico, "tokens": asdict(tokens_of(message.usage))}
        for pico, custom_id, message in best
    ]


def _order(one: tuple[int, str, _Message]) -> tuple[int, str]:
    return one[:2]


def _priced(lines: list[bytes], prices: PriceBook, at_us: int) -> Iterator[tuple[int, str, _Message]]:
    for line in lines:
        if b'"succeeded"' not in line:
            continue
        row = _decode(line)
        message = row.result.message
        if message is not None:
            price = prices.price(message.model, at_us)
            if price is not None:
                yield charge_of(message.usage, price, is_batch=True), row.custom_id, message


class _Message(msgspec.Struct, frozen=True):
    model: str
    usage: Usage


class _Result(msgspec.Struct, frozen=True):
    message: _Message | None = None


class _Row(msgspec.Struct, frozen=True):
    custom_id: str
    result: _Result


_decode = msgspec.json.Decoder(_Row).decode
