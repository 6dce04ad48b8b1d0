"""Figures as people read them, the same in a terminal and on a page. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400


def lasting(seconds: float) -> str:
    """Write a duration with the two units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    if minutes < 100:
        return f"{minutes} min"
    if seconds < 2 * DAY:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} days {hours % 24} h"


def counted(number: float, one: str, several: str | None = None) -> str:
    """Write a number before its noun; `several` where an s is not enough."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def percent(share: float) -> str:
    """Write a share; what is not quite all or nothing never becomes 100% or 0%."""
    if share in {0, 1}:
        return f"{share:.0%}"
    if not 0.0005 <= abs(share) < 0.9995:
        return "under 0.1%" if abs(share) < 0.5 else "over 99.9%" if share < 1 else f"{share:,.0%}"
    return f"{share:.1%}" if abs(share) < 0.1 or abs(share) > 0.9 else f"{share:.0%}"


def off_by(error: float) -> str:
    """Write how far a prediction was off."""
    if abs(error) < 0.0005:
        return "exactly" if error == 0 else "within 0.1%"
    return f"{percent(abs(error))} too {'high' if error > 0 else 'low'}"


def pace(per_s: float) -> str:
    """Write a rate of rows in the unit in which it is a number that one can imagine."""
    if per_s >= 1:
        return f"{per_s:,.0f} rows/s" if per_s >= 10 else f"{per_s:.1f} rows/s"
    return f"{per_s * MINUTE:.1f} rows/min" if per_s * MINUTE >= 1 else f"{per_s * HOUR:.1f} rows/h"


def moment(text: str | None) -> str:
    """Write a time (RFC 3339) in UTC, to the minute; empty if there is none."""
    return "" if not text else datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def short(text: str, most: int) -> str:
    """Cut a text in its middle, so that both ends are seen."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
