"""Spend limits, decided without I/O: what was spent, what is in flight, and whether one more may start.

reserve -> settle or release: what is about to run is reserved at an estimate; a success settles it at its charge once
the ledger has that charge, all else gives it back. What was spent is the latest reading of the ledger and what was
settled since that reading began, so a charge is never missed, and counted twice only until the next reading.
Reservations live in memory: after a crash nothing is in flight, and the ledger stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import NewType

from standby.records import DAY, SECOND, WorkspaceId

Token = NewType("Token", int)
"""One reservation."""
PICO = 10**12
"""Pico-dollars of a dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimit:
    """Pico-dollars that a workspace may spend a day and a month (UTC); 0 means any amount."""

    day_pico: int = 0
    month_pico: int = 0

    @property
    def is_none(self) -> bool:
        """Whether nothing is limited."""
        return not (self.day_pico or self.month_pico)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a workspace stands now, in pico-dollars."""

    limit: SpendLimit
    day_pico: int
    """Spent since midnight UTC."""
    month_pico: int
    """Spent since the first of the month."""
    reserved_pico: int
    """Expected of what is in flight."""
    is_read: bool
    """Whether the ledger was ever read for it; until then the sums are only what was settled since the start."""

    @property
    def left_pico(self) -> int | None:
        """What may still be spent and is not reserved; None without a limit, never below 0."""
        left = [
            limit - spent - self.reserved_pico
            for limit, spent in ((self.limit.day_pico, self.day_pico), (self.limit.month_pico, self.month_pico))
            if limit
        ]
        return max(0, min(left)) if left else None

    @property
    def reached(self) -> tuple[str, ...]:
        """Which limits are reached: `day`, `month`."""
        sums = (("day", self.limit.day_pico, self.day_pico), ("month", self.limit.month_pico, self.month_pico))
        return tuple(name for name, limit, spent in sums if limit and spent >= limit)

    @property
    def limits_pico(self) -> tuple[int, int]:
        """What may be spent a day and a month; 0 is any amount."""
        return self.limit.day_pico, self.limit.month_pico

    def turns_us(self, now_us: int) -> tuple[int, int]:
        """Return when the day and the month end, UTC."""
        return next_day_us(now_us), next_month_us(now_us)

    def access_us(self, now_us: int) -> int:
        """Return when every limit that is reached begins anew; `now_us` if none is."""
        ends = {"day": next_day_us(now_us), "month": next_month_us(now_us)}
        return max((ends[name] for name in self.reached), default=now_us)


def day_of(now_us: int) -> int:
    """Return the day, UTC, in days since 1970."""
    return now_us // DAY


def month_start(day: int) -> int:
    """Return the first day of the month of a day, both in days since 1970."""
    return day - datetime.fromtimestamp(day * DAY // SECOND, tz=UTC).day + 1


def next_day_us(now_us: int) -> int:
    """Return the next midnight, UTC."""
    return (day_of(now_us) + 1) * DAY


def next_month_us(now_us: int) -> int:
    """Return the midnight, UTC, at which the next month begins."""
    return month_start(month_start(day_of(now_us)) + 31) * DAY


def pico_of_dollars(dollars: float) -> int:
    """Turn a limit into pico-dollars, exactly as it was written; the smallest limit is one pico-dollar."""
    pico = round(Decimal(str(dollars)) * PICO)
    return max(1, pico) if dollars > 0 else 0


@dataclass(slots=True)
class _Account:
    day: int | None = None
    """The day of the latest reading."""
    day_pico: int = 0
    month_pico: int = 0
    reserved_pico: int = 0
    since: dict[int, int] = field(default_factory=dict)
    """Settled since the latest reading, by the mark that was the newest then."""

    def spent(self, day: int) -> tuple[int, int]:
        """Return what was spent on a day and in its month; what was settled lately counts for both."""
        lately = sum(self.since.values())
        is_month = self.day is not None and month_start(self.day) == month_start(day)
        return (self.day_pico if self.day == day else 0) + lately, (self.month_pico if is_month else 0) + lately


class Quota:
    """Spend limits of all workspaces."""

    def __init__(self, default: SpendLimit | None = None) -> None:
        """Take what is allowed to workspaces that have no limit of their own."""
        self._default = default or SpendLimit()
        self._limits: dict[WorkspaceId, SpendLimit] = {}
        self._accounts: dict[WorkspaceId, _Account] = {}
        self._reserved: dict[Token, tuple[WorkspaceId, int]] = {}
        self._last_token = 0
        self._mark = 0

    def limit(self, workspace_id: WorkspaceId) -> SpendLimit:
        """Return the limit that holds for a workspace."""
        return self._limits.get(workspace_id, self._default)

    def set_limits(self, limits: Mapping[WorkspaceId, SpendLimit]) -> None:
        """Replace the limits that workspaces have of their own."""
        self._limits = dict(limits)

    def allows(self, workspace_id: WorkspaceId, estimate_pico: int, now_us: int) -> bool:
        """Say whether one more may start.

        Not once a limit is reached, and not before the ledger was read. What is left must be enough for all that is in
        flight and this one, as estimated; alone, one may always start while anything is left, so that an estimate that
        is too high stops nobody. So spending ends beyond a limit by what estimates were too low, or by one request.
        """
        limit = self.limit(workspace_id)
        if limit.is_none:
            return True
        account = self._account(workspace_id)
        if account.day is None:
            return False
        wanted = account.reserved_pico + max(0, estimate_pico) if account.reserved_pico else 0
        spent_day, spent_month = account.spent(day_of(now_us))
        return _fits(limit.day_pico, spent_day, wanted) and _fits(limit.month_pico, spent_month, wanted)

    def is_spent(self, workspace_id: WorkspaceId, now_us: int) -> bool:
        """Say whether a limit is reached (or not known yet): nothing starts there before a new day, or a new limit."""
        standing = self.standing(workspace_id, now_us)
        return not standing.limit.is_none and (bool(standing.reached) or not standing.is_read)

    def reserve(self, workspace_id: WorkspaceId, estimate_pico: int, now_us: int) -> Token | None:
        """Reserve what one request is expected to cost; None if `allows` says no."""
        if not self.allows(workspace_id, estimate_pico, now_us):
            return None
        self._last_token += 1
        token = Token(self._last_token)
        self._reserved[token] = (workspace_id, max(0, estimate_pico))
        self._account(workspace_id).reserved_pico += max(0, estimate_pico)
        return token

    def settle(self, token: Token, charge_pico: int) -> None:
        """Turn a reservation into what was charged, once the ledger has it; a second time does nothing."""
        workspace_id = self._end(token)
        if workspace_id is not None and charge_pico > 0:
            since = self._account(workspace_id).since
            since[self._mark] = since.get(self._mark, 0) + charge_pico

    def release(self, token: Token) -> None:
        """Give a reservation back: it failed, was canceled, or came too late. A second time does nothing."""
        self._end(token)

    def mark(self) -> int:
        """Begin a reading of the ledger: it will see everything that is settled by now."""
        self._mark += 1
        return self._mark

    def saw_spent(
        self, workspace_id: WorkspaceId, day: int, day_pico: int, month_pico: int, *, mark: int | None = None
    ) -> None:
        """Take a reading of the ledger: spent on a day (days since 1970, UTC) and in its month up to then.

        `mark` is the one made before the ledger was read; without it, it was read just now.
        """
        began = self.mark() if mark is None else mark
        account = self._account(workspace_id)
        account.day, account.day_pico, account.month_pico = day, day_pico, month_pico
        account.since = {at: pico for at, pico in account.since.items() if at >= began}

    def standing(self, workspace_id: WorkspaceId, now_us: int) -> Standing:
        """Say where a workspace stands."""
        account = self._account(workspace_id)
        day_pico, month_pico = account.spent(day_of(now_us))
        return Standing(
            limit=self.limit(workspace_id),
            day_pico=day_pico,
            month_pico=month_pico,
            reserved_pico=account.reserved_pico,
            is_read=account.day is not None,
        )

    def limited(self) -> list[WorkspaceId]:
        """List the workspaces that have a limit and were asked about: those whose spending is to be read."""
        known = {*self._accounts, *self._limits}
        return sorted(each for each in known if not self.limit(each).is_none)

    def _end(self, token: Token) -> WorkspaceId | None:
        workspace_id, estimate_pico = self._reserved.pop(token, (None, 0))
        if workspace_id is not None:
            self._account(workspace_id).reserved_pico -= estimate_pico
        return workspace_id

    def _account(self, workspace_id: WorkspaceId) -> _Account:
        return self._accounts.setdefault(workspace_id, _Account())


def _fits(limit: int, spent: int, wanted: int) -> bool:
    return not limit or (spent < limit and spent + wanted <= limit)
