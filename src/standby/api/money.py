"""What was used and what it cost, under `/standby/v1/`."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from standby.api.batches import find_batch
from standby.api.call import Caller
from standby.api.cost import cost_of
from standby.api.deps import Deps
from standby.api.limits import Limits
from standby.api.replies import json_reply
from standby.errors import invalid
from standby.records import DAY, Bill, UsageRow
from standby.store.base import By
from standby.wire.batches import timestamp

EPOCH = date(1970, 1, 1)
MOST_SHOWN = 100
TOP = 10


class Money:
    """Usage of a workspace, cost of a batch."""

    def __init__(self, deps: Deps, limits: Limits) -> None:
        """Keep what the verbs need."""
        self._deps = deps
        self._limits = limits

    async def usage(self, request: Request, caller: Caller) -> Response:
        """Sum what this workspace used: `by`, `since`, `until` as query parameters."""
        query = request.query_params
        by = by_of(query.get("by", ""))
        rows = await self._deps.store.usage(
            by=by,
            workspace_id=caller.workspace_id,
            since_day=day_of("since", query.get("since"), now_us=self._deps.clock()),
            until_day=day_of("until", query.get("until"), now_us=self._deps.clock()),
        )
        data = [usage_row(row, by) for row in rows]
        limits = await self._standing(caller)
        return json_reply(msgspec.json.encode({"type": "standby_usage", "data": data, "limits": limits}))

    async def _standing(self, caller: Caller) -> dict[str, object]:
        """Say where the workspace stands against its limits, whatever the query asked."""
        now_us = self._deps.clock()
        standing, unpriced = await self._deps.spending.standing(caller.workspace_id)
        queue, room = await self._deps.store.queue_of(caller.workspace_id), await self._limits.room(caller.workspace_id)
        (day_pico, month_pico), (day_us, month_us) = standing.limits_pico, standing.turns_us(now_us)
        reserved = standing.reserved_pico
        return {
            "spend_per_day": _spend(day_pico, standing.day_pico, reserved, day_us),
            "spend_per_month": _spend(month_pico, standing.month_pico, reserved, month_us),
            "unpriced_requests_this_month": unpriced,
            "enqueued_items": {"limit": room.items or None, "waiting": queue.items},
            "enqueued_tokens": {"limit": room.tokens or None, "waiting": queue.tokens},
        }

    async def cost(self, request: Request, caller: Caller) -> Response:
        """Report what a batch cost so far, `top` of its dearest items included."""
        top = _top(request.query_params.get("top", str(TOP)))
        batch = await find_batch(self._deps, request, caller)
        now_us = self._deps.clock()
        report = await cost_of(self._deps.store, self._deps.blobs, self._deps.prices, batch, top=top, now_us=now_us)
        return json_reply(msgspec.json.encode(report))


def _spend(limit_pico: int, spent_pico: int, reserved_pico: int, ends_us: int) -> dict[str, object]:
    return {
        "limit_pico": limit_pico or None,
        "spent_pico": spent_pico,
        "reserved_pico": reserved_pico,
        "left_pico": max(0, limit_pico - spent_pico - reserved_pico) if limit_pico else None,
        "ends_at": timestamp(ends_us),
    }


def by_of(text: str) -> tuple[By, ...]:
    """Read what to group by: names with commas between them; `key` is the credential. 400 names a wrong one."""
    found = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(By.CREDENTIAL if name == "key" else By(name))
        except ValueError:
            raise invalid(f"by: {name!r} is not one of workspace, key, model, day, kind") from None
    return tuple(dict.fromkeys(found))


def day_of(name: str, text: str | None, *, now_us: int) -> int | None:
    """Read a day, `2026-11-22`, or so many days back, `7d`; days since 1970, UTC. 400 names the parameter."""
    if not text:
        return None
    if text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 7:
        return now_us // DAY - int(text[:-1])
    try:
        return (date.fromisoformat(text) - EPOCH).days
    except ValueError:
        raise invalid(f"{name}: must be a day such as 2026-11-22, or 7d for a week back") from None


def usage_row(row: UsageRow, by: tuple[By, ...]) -> dict[str, object]:
    """Write one sum; only what it was grouped by is named."""
    names: dict[By, tuple[str, object]] = {
        By.WORKSPACE: ("workspace_id", row.workspace_id),
        By.CREDENTIAL: ("key", row.credential),
        By.MODEL: ("model", row.model),
        By.DAY: ("day", None if row.day is None else (EPOCH + timedelta(days=row.day)).isoformat()),
        By.KIND: ("kind", row.kind),
    }
    return dict(names[each] for each in by) | bill_object(row.bill)


def bill_object(bill: Bill) -> dict[str, object]:
    """Write what requests used and cost; `cost_pico` is null if none of them has a known price."""
    is_known = bill.unpriced < bill.requests
    return {
        "requests": bill.requests,
        "input_tokens": bill.tokens.input,
        "cache_write_5m_tokens": bill.tokens.write_5m,
        "cache_write_1h_tokens": bill.tokens.write_1h,
        "cache_read_tokens": bill.tokens.read,
        "output_tokens": bill.tokens.output,
        "cost_pico": bill.charge_pico if is_known else None,
        "uncached_batch_pico": bill.batch_pico if is_known else None,
        "uncached_standard_pico": bill.plain_pico if is_known else None,
        "unpriced_requests": bill.unpriced,
    }


def _top(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text) <= MOST_SHOWN):
        raise invalid(f"top: must be a whole number between 0 and {MOST_SHOWN}")
    return int(text)
