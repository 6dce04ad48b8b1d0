"""Can an engine's own metrics be believed? Pure: what they say and what we know in, what may be used of them out.

They may be missing, stuck, old, or plainly wrong. Whoever trusted them blindly would stop for ever, or never.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from standby.engines.base import Signals
from standby.records import SECOND, Load

LOOK_US = 10 * SECOND
"""How long something must look wrong."""
SURE_US = 2 * SECOND
"""The least of what was seen so long counts as others' work: numbers that jump do not."""
PAUSE_US = 60 * SECOND
MOST_PAUSE_US = 900 * SECOND
HONEST = 0.3
"""Least share of the tokens that must come of those who are said to run."""
MOVED = 4
"""Requests by which our own load must have changed while their numbers stood still."""


@dataclass(frozen=True, slots=True)
class _Said:
    at_us: int
    own: int
    busy: float
    running: float
    made: float | None
    gap_s: float | None


class Trust:
    """Judges the metrics of one endpoint."""

    def __init__(self) -> None:
        """Believe until something is wrong."""
        self.foreign = 0
        """Requests in the engine that are not ours."""
        self._said: deque[_Said] = deque(maxlen=256)
        self._until_us = 0
        self._pause_us = PAUSE_US
        self._now_us = 0

    @property
    def is_trusted(self) -> bool:
        """Whether they may be used."""
        return self._now_us >= self._until_us

    @property
    def is_telling(self) -> bool:
        """Whether there is something to use."""
        return self.is_trusted and bool(self._said) and self._now_us - self._said[-1].at_us <= SURE_US

    def judge(self, now_us: int, load: Load, signals: Signals | None, gap_s: float | None) -> Signals | None:
        """Return the signals if they can be believed; `gap_s` is the time between tokens that we see ourselves."""
        self._now_us = now_us
        self.foreign = 0
        if signals is None or signals.running is None:
            return None
        own, busy = load.live + load.batch, signals.running + (signals.waiting or 0.0)
        self._said.append(_Said(now_us, own, busy, signals.running, signals.output_tokens, gap_s))
        while self._said[0].at_us < now_us - LOOK_US - SECOND:
            self._said.popleft()
        if self.is_trusted and self._is_wrong(now_us):
            self._until_us = now_us + self._pause_us
            self._pause_us = min(MOST_PAUSE_US, 2 * self._pause_us)
        if not self.is_trusted:
            return None
        sure = [one for one in self._said if one.at_us > now_us - SURE_US]
        self.foreign = max(0, int(min(one.busy - one.own for one in sure)))
        return signals

    def _is_wrong(self, now_us: int) -> bool:
        long = [one for one in self._said if one.at_us > now_us - LOOK_US]
        if now_us - self._said[0].at_us < LOOK_US:
            # what contradicts itself needs no long look: we moved, and they did not
            return _stands_still(long)
        return _stands_still(long) or _is_unheard(long) or _is_idle(long) or _is_boasting(long)


def _stands_still(said: list[_Said]) -> bool:
    """Our own load went up or down, and theirs is what it was."""
    owns = [one.own for one in said]
    return max(owns) - min(owns) >= MOVED and len({one.busy for one in said}) == 1 and len(said) >= MOVED


def _is_unheard(said: list[_Said]) -> bool:
    """All the time they count less than we alone have there."""
    return all(one.own >= MOVED and one.busy < one.own / 2 for one in said)


def _is_idle(said: list[_Said]) -> bool:
    """They speak of work, and no token comes of it."""
    made = {one.made for one in said}
    return len(made) == 1 and made != {None} and all(one.busy >= 1 for one in said)


def _is_boasting(said: list[_Said]) -> bool:
    """Everybody who runs gets a token in the time in which ours do; of so many who run, far too few tokens come."""
    gaps = [one.gap_s for one in said if one.gap_s]
    first, last = said[0], said[-1]
    if first.made is None or last.made is None or 2 * len(gaps) < len(said) or last.made < first.made:
        return False
    seconds = (last.at_us - first.at_us) / SECOND
    running, gap_s = sum(one.running for one in said) / len(said), sum(gaps) / len(gaps)
    return running >= MOVED and last.made - first.made < HONEST * seconds * running / gap_s
