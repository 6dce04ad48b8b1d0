"""Spend limits at work: reads limits and ledger every second, and says no in the contract's words."""

from __future__ import annotations

from standby.config import LimitSettings
from standby.records import Clock, OwnLimits, WorkspaceId
from standby.scheduler.quota import Quota, SpendLimit, Standing, Token, day_of, month_start, pico_of_dollars
from standby.store.base import Store
from standby.wire.errors import spend_limit_reached, spend_reserved

READ_S = 1.0
"""How often limits and ledger are read; so long a limit that was changed takes to hold."""


class Spending:
    """What the API and the worker ask; `quota` decides without I/O."""

    def __init__(self, *, store: Store, settings: LimitSettings, clock: Clock) -> None:
        """Read nothing yet: until `run_once` nothing starts in a workspace that is limited."""
        self._store = store
        self._clock = clock
        self._default = SpendLimit(
            day_pico=pico_of_dollars(settings.spend_per_day), month_pico=pico_of_dollars(settings.spend_per_month)
        )
        self._earlier: dict[WorkspaceId, tuple[int, int]] = {}
        self.quota = Quota(self._default)

    async def run_once(self) -> float | None:
        """Read the limits, and what was spent by those that have one."""
        await self._read_limits()
        for workspace_id in self.quota.limited():
            await self._read(workspace_id)
        return None

    async def check(self, workspace_id: WorkspaceId) -> None:
        """Refuse new work of a workspace whose limit is reached; `LimitReached` 400."""
        await self._know(workspace_id)
        await self._refuse_if_reached(workspace_id)

    async def reserve(self, workspace_id: WorkspaceId, estimate_pico: int) -> int:
        """Reserve for a live request, which cannot wait; `LimitReached` 400, or 429 if the rest is reserved."""
        await self._know(workspace_id)
        token = self.quota.reserve(workspace_id, estimate_pico, self._clock())
        if token is None:
            await self._refuse_if_reached(workspace_id)
            token = self.quota.reserve(workspace_id, estimate_pico, self._clock())
        if token is None:
            raise spend_reserved()
        return token

    def settle(self, token: int, charge_pico: int) -> None:
        """Say that the ledger has the charge."""
        self.quota.settle(Token(token), charge_pico)

    def release(self, token: int) -> None:
        """Give back what was not used; nothing happens if it was settled or released before."""
        self.quota.release(Token(token))

    def is_limited(self, workspace_id: WorkspaceId) -> bool:
        """Whether estimates matter for this workspace."""
        return not self.quota.limit(workspace_id).is_none

    async def standing(self, workspace_id: WorkspaceId) -> tuple[Standing, int]:
        """Read where a workspace stands; also how many requests of this month have no known price."""
        await self._read_limits()
        self._earlier.pop(workspace_id, None)
        unpriced = await self._read(workspace_id)
        return self.quota.standing(workspace_id, self._clock()), unpriced

    async def _know(self, workspace_id: WorkspaceId) -> None:
        if self.is_limited(workspace_id) and not self.quota.standing(workspace_id, self._clock()).is_read:
            await self._read(workspace_id)

    async def _refuse_if_reached(self, workspace_id: WorkspaceId) -> None:
        """Look again before saying no: a day may just have turned, or a limit been raised."""
        now_us = self._clock()
        if not self.quota.standing(workspace_id, now_us).reached:
            return
        await self._read_limits()
        await self._read(workspace_id)
        standing = self.quota.standing(workspace_id, now_us)
        if standing.reached:
            raise spend_limit_reached(access_us=standing.access_us(now_us))

    async def _read_limits(self) -> None:
        found = await self._store.list_limits()
        self.quota.set_limits({each: self._own(limits) for each, limits in found.items()})

    def _own(self, limits: OwnLimits) -> SpendLimit:
        return SpendLimit(
            day_pico=self._default.day_pico if limits.spend_per_day is None else limits.spend_per_day,
            month_pico=self._default.month_pico if limits.spend_per_month is None else limits.spend_per_month,
        )

    async def _read(self, workspace_id: WorkspaceId) -> int:
        """Read the whole month once a day, and afterwards today only; return the unpriced requests that were seen."""
        mark, today = self.quota.mark(), day_of(self._clock())
        first = month_start(today)
        day, earlier = self._earlier.get(workspace_id, (None, 0))
        days = await self._store.spent(workspace_id, since_day=today if day == today else first)
        if day != today:
            earlier = sum(spent.pico for at, spent in days.items() if at != today)
            self._earlier[workspace_id] = (today, earlier)
        spent_today = days[today].pico if today in days else 0
        self.quota.saw_spent(workspace_id, today, spent_today, earlier + spent_today, mark=mark)
        return sum(spent.unpriced for spent in days.values())
