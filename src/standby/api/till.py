"""Charges of live requests on their way to the store: many together, a moment after their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from standby.pricing.bills import bill_of
from standby.pricing.book import PriceBook
from standby.records import Bill, Clock, LiveBill, Principal
from standby.store.base import Store
from standby.wire.messages import Event, Message, MessageDelta, MessageStart, MessageStop, final_usage

Payer = tuple[str, str, str]
"""Workspace, credential and model: what bills are added up by before they are written."""


class Till:
    """Takes charges; `run_once` writes them. A crash loses at most those of the last moment."""

    def __init__(self, *, store: Store, prices: PriceBook, clock: Clock, settle: Callable[[int, int], None]) -> None:
        """Begin empty; `settle` gets each reservation and its charge once the store has it."""
        self._settle = settle
        self._reserved: dict[int, int] = {}
        self._store = store
        self._prices = prices
        self._clock = clock
        self._pending: dict[Payer, LiveBill] = {}
        self.wake = asyncio.Event()

    def charge(self, principal: Principal, message: Message, *, token: int | None = None) -> None:
        """Charge a finished answer; `token` is what was reserved for it."""
        bill = bill_of(message, self._prices, now_us=self._clock(), is_batch=False)
        self._add(LiveBill(workspace_id=principal.workspace_id, credential=principal.credential, bill=bill))
        if token is not None:
            self._reserved[token] = bill.charge_pico
        self.wake.set()

    async def run_once(self) -> float | None:
        """Write what is pending, in one transaction; after a failure it is pending again. None: sleep until woken."""
        taken, self._pending = self._pending, {}
        reserved, self._reserved = self._reserved, {}
        if not taken:
            return None
        try:
            await self._store.charge_live(list(taken.values()), now_us=self._clock())
        except BaseException:
            for one in taken.values():
                self._add(one)
            self._reserved |= reserved
            raise
        for token, pico in reserved.items():
            self._settle(token, pico)
        return GATHER_S

    def _add(self, one: LiveBill) -> None:
        payer = (one.workspace_id, one.credential, one.bill.model)
        before = self._pending.get(payer)
        self._pending[payer] = one if before is None else _added(before, one.bill)


GATHER_S = 0.1
"""After a write, how long charges gather before the next one."""


class Receipt:
    """Follows the events of an answer; `message` is the answer without its text, once it is complete."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self._message: Message | None = None
        self.message: Message | None = None

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, MessageStart):
            self._message = event.message
        elif isinstance(event, MessageDelta) and self._message is not None:
            self._message = replace(self._message, usage=final_usage(self._message.usage, event.usage))
        elif isinstance(event, MessageStop):
            self.message = self._message


def _added(before: LiveBill, bill: Bill) -> LiveBill:
    return LiveBill(workspace_id=before.workspace_id, credential=before.credential, bill=before.bill + bill)
