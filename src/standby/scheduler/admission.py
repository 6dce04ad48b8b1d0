"""How many batch items may be in flight at an endpoint? Pure: what was seen of it in, a number out.

`FixedWindow` is a fixed cap with a reserve. `Adaptive` learns how the time between tokens grows with what is in flight,
and gives batches what the engine has left (docs/scheduling.md, Admission).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from standby.engines.base import Signals
from standby.records import SECOND, Load
from standby.scheduler.slowdown import Slowdown
from standby.scheduler.trust import Trust

TICK_US = SECOND // 4
WINDOW_US = SECOND
"""One decrease in this time: what was decided before must show first."""
LATELY_US = 2 * SECOND
"""What the gap that is seen stands for; the load that belongs to it is the mean over it."""
PEAK_US = 300 * SECOND
PEAK_SLICE_US = 10 * SECOND
NEAR_US = 20 * SECOND
"""In a burst the seats of its own peak are kept free."""
STARVED_US = 60 * SECOND
"""So long without a batch answer: one item gets a seat in a burst, too."""
PEAK_SHARE = 0.3
"""Of the live peak lately, seats that are kept free: the first of a burst need not wait until items have yielded."""
FULL_AT = 0.75
"""Share of the engine's power that live traffic takes, from which on batches get their floor only."""
BURST_MEAN = 0.2
BURST_HIGH = 0.5
"""Shares of the engine's power, on average and at the most of the last seconds, from which on there is a burst."""
BURST_AT = 0.25
"""Share of the engine's power that live requests take, from which on items of batches make way."""
MEAN_S = 3.0
HIGH_S = 5.0
"""How long a moment with many live requests is remembered: more of them come in a burst."""
CREST_S = 1800.0
"""How long it is remembered how much of the engine bursts take: what is in flight when one comes is in its way."""
CALM_S = 1.0
"""How long live traffic that ended is still counted, more and more faintly."""
CALM_AT = 0.15
"""Share of the engine's power that live traffic takes, up to which batches get the share of idle times."""
BUSY_AT = 0.45
"""And from which on they get the share of busy times only."""
SLOW_START = 1.25
TOLERATED = 1.1
"""Times the target before less is admitted."""
REJECTED = 0.7
FULL_KV = 0.95
GROWS_TO_KV = 0.85
MOST_WAITING = 2.0
QUIET_US = 10 * SECOND
"""So long without a gap while there is work: nobody knows how the engine is."""
BLIND_SHARE = 0.125
"""Of the slots, while nobody knows."""
SLACK = 0.1
WASTE_US = 300 * SECOND
WASTE_EACH = 64
"""Tokens that an item is expected to lose that has to yield; what it truly lost is told afterwards."""
READ_SHARE = 0.002
"""Of the time in a burst, in which an engine may read prompts of batches: whoever gets a token then waits longer."""
READ_MOST_S = 0.05
READ_WAIT = 1.5
"""Gaps between tokens that a prompt waits for its step and for its first token; the rest of the time it is read."""
READS = 65
PROMPTS = 8192
"""Unread prompt tokens of batch items at once, while no live traffic is about."""

SEATS = "its slots, less those kept for live requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of an endpoint at one tick."""

    now_us: int
    load: Load
    gap_s: float | None = None
    """Time between two tokens of an answer, lately."""
    signals: Signals | None = None
    rejected: int = 0
    """Attempts that it refused since the last tick."""
    push: float = 0.0
    """How much deadlines press, 0 to 1 (`Policy.push`)."""


class Controller(Protocol):
    """Decides for one endpoint."""

    def allowed(self, load: Load) -> int:
        """Return how many batch items may be in flight now."""
        ...

    def see(self, seen: Seen) -> None:
        """Learn; once a tick."""
        ...

    def surplus(self, load: Load) -> int:
        """Return how many batch items, the newest, should give way at once."""
        ...

    def takes_prompt(self, load: Load, unread: int, prompt_tokens: int) -> bool:
        """Whether a prompt may be sent while `unread` prompt tokens of batch items wait for their first token."""
        ...

    def sent(self, prompt_tokens: int) -> None:
        """Count a prompt that was sent; tokens that the engine has in its cache left out."""
        ...

    def was_read(self, prompt_tokens: int, seconds: float) -> None:
        """Learn how long it took to the first token."""
        ...

    def produced(self, tokens: int) -> None:
        """Count tokens of batch answers."""
        ...

    def wasted(self, tokens: int) -> None:
        """Count tokens of a batch answer that had to give way."""
        ...

    def why(self, load: Load) -> str:
        """Say in words what bounds `allowed`."""
        ...

    def state(self) -> Mapping[str, float | None]:
        """Return what it knows, for people."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedWindow:
    """A fixed cap with a reserve."""

    window: int
    """Most batch items in flight; 0 takes all slots less the reserve."""
    live_slots: int
    """Slots that batches never use."""

    def allowed(self, load: Load) -> int:
        """Return how many batch items may be in flight now, with `load.live` live requests on the endpoint."""
        free = load.slots - max(self.live_slots, load.live)
        cap = min(self.window, free) if self.window else free
        return max(cap, 0)

    def see(self, seen: Seen) -> None:
        """Nothing changes it."""

    def surplus(self, load: Load) -> int:  # noqa: ARG002 - see `Controller`
        """Nothing yields."""
        return 0

    def takes_prompt(self, load: Load, unread: int, prompt_tokens: int) -> bool:  # noqa: ARG002 - see `Controller`
        """It does not look at prompts."""
        return True

    def sent(self, prompt_tokens: int) -> None:
        """It does not look at prompts."""

    def was_read(self, prompt_tokens: int, seconds: float) -> None:
        """Nor at how long they take."""

    def produced(self, tokens: int) -> None:
        """Nothing yields, so nobody counts."""

    def wasted(self, tokens: int) -> None:
        """Nothing yields."""

    def why(self, load: Load) -> str:
        """Say in words what bounds `allowed`."""
        free = load.slots - max(self.live_slots, load.live)
        return "a fixed window" if self.window and self.window <= free else SEATS

    def state(self) -> Mapping[str, float | None]:
        """Return the cap."""
        return {"window": float(self.window)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What the adaptive controller is told (docs/reference/settings.md)."""

    live_slots: int = 1
    most: int = 0
    """Most batch items whatever is seen; 0 is no such limit."""
    target_s: float = 0.0
    """Time between tokens that live answers may have; 0 learns it."""
    factor: float = 1.5
    """Without a target: how much slower batches may make a busy engine's tokens, times those of an idle one."""
    share: float = 0.86
    """Without a target: share of the engine's power that batches get of an idle engine."""
    floor: int = 1
    waste: float = 0.05
    """Share of the batch tokens that may be lost to yielding."""
    deadline_floor: float = 0.25
    """Share of the budget that batches keep when their deadlines press."""


@dataclass(slots=True)
class _Live:
    """Live traffic: what it was lately, and its peak."""

    faint: float = 0.0
    mean: float = 0.0
    high: float = 0.0
    crest: float = 0.0
    at_us: int = 0
    peaks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=PEAK_US // PEAK_SLICE_US))

    def see(self, now_us: int, live: int) -> None:
        passed_s = max(0, now_us - self.at_us) / SECOND if self.at_us else 0.0
        self.faint += (live - self.faint) * (1 - math.exp(-passed_s / CALM_S))
        self.mean += (live - self.mean) * (1 - math.exp(-passed_s / MEAN_S))
        self.high = max(float(live), self.high * math.exp(-passed_s / HIGH_S))
        self.crest = max(self.mean, self.crest * math.exp(-passed_s / CREST_S))
        self.at_us = now_us
        number = now_us // PEAK_SLICE_US
        if not self.peaks or self.peaks[-1][0] != number:
            self.peaks.append((number, live))
        elif self.peaks[-1][1] < live:
            self.peaks[-1] = (number, live)

    def peak(self, over_us: int = PEAK_US) -> int:
        first = (self.at_us - over_us) // PEAK_SLICE_US
        return max((live for number, live in self.peaks if number >= first), default=0)


@dataclass(slots=True)
class _Waste:
    """Tokens made and lost in the last minutes, in two halves so that old ones are forgotten."""

    half: int = 0
    made: list[int] = field(default_factory=lambda: [0, 0])
    lost: list[int] = field(default_factory=lambda: [0, 0])

    def turn(self, now_us: int) -> None:
        half = now_us // (WASTE_US // 2)
        if half != self.half:
            is_next = half == self.half + 1
            self.made = [0, self.made[0] if is_next else 0]
            self.lost = [0, self.lost[0] if is_next else 0]
            self.half = half

    def left(self, share: float) -> int:
        return max(0, int(share * sum(self.made)) - sum(self.lost))


@dataclass(slots=True)
class _Reading:
    """How long prompts take to be read, and how much of it batches may still do in a burst."""

    left_s: float = READ_MOST_S
    at_us: int = 0
    seen: deque[float] = field(default_factory=lambda: deque(maxlen=READS))
    """Seconds a token, of the last prompts."""

    def learn(self, tokens: int, seconds: float, gap_s: float) -> None:
        if tokens > 0:
            self.seen.append(max(0.0, seconds - READ_WAIT * gap_s) / tokens)

    def has_left(self, now_us: int) -> bool:
        self._refill(now_us)
        return self.left_s >= 0

    def take(self, now_us: int, tokens: int) -> None:
        self._refill(now_us)
        if self.seen:
            self.left_s -= tokens * statistics.median(self.seen)

    def _refill(self, now_us: int) -> None:
        passed_s = max(0, now_us - self.at_us) / SECOND
        self.left_s, self.at_us = min(READ_MOST_S, self.left_s + READ_SHARE * passed_s), now_us


class Adaptive:
    """Learns what an endpoint has left for batches. One per endpoint; no clock of its own, no I/O, no randomness."""

    def __init__(self, aims: Aims) -> None:
        """Know nothing yet: begin with very little."""
        self._aims = aims
        self._budget = 2.0
        """Requests in flight, live ones included, that are proven to be well."""
        self._is_starting = True
        self._slowdown = Slowdown()
        self._trust = Trust()
        self._live = _Live()
        self._waste = _Waste()
        self._reading = _Reading()
        self._loads: deque[tuple[int, Load]] = deque(maxlen=64)
        self._foreign = 0
        self._push = 0.0
        self._now_us = 0
        self._produced_us = 0
        self._cut_us = 0
        self._grew_us = 0
        self._gap_us: int | None = None
        self._gap_s: float | None = None
        self._was_rejected = False
        self._targets: deque[float | None] = deque(maxlen=LATELY_US // TICK_US)

    def allowed(self, load: Load) -> int:
        """Return how many batch items may be in flight now: never a seat that live traffic may want at once."""
        seats = self._seats(load)
        budget = self._budget - load.live - self._foreign
        if self._is_blind(load):
            budget = min(budget, max(1.0, BLIND_SHARE * load.slots) - load.live)
        cap = min(budget, self._room(load) - self._foreign)
        cap = max(cap, self._floor(load), self._push * self._aims.deadline_floor * self._budget)
        if self._aims.most:
            cap = min(cap, self._aims.most)
        return max(0, min(int(cap + 1e-6), seats))

    def surplus(self, load: Load) -> int:
        """Return how many give way: only to live traffic, only clear surplus, only as far as its waste may go.

        A few live requests between bursts are not worth an answer that is thrown away: what may be wasted is kept for
        the moment at which a burst comes. What admission tries or takes back by itself is no surplus either.
        """
        if not load.live or not self._is_busy(load):
            return 0
        over = load.batch - max(self._floor(load), int(min(float(self._seats(load)), self._room(load))))
        is_crowded = load.batch + load.live > load.slots - self._kept(load)
        if over <= 0 or (not is_crowded and over <= max(1, int(SLACK * load.batch))):
            return 0
        return min(over, self._waste.left(self._aims.waste) // WASTE_EACH)

    def _is_burst(self, load: Load) -> bool:
        """Whether live requests take much of the engine, on average or at the most of the last seconds."""
        return self._taken(self._live.mean, load) > BURST_MEAN or self._taken(self._live.high, load) > BURST_HIGH

    def _taken(self, live: float, load: Load) -> float:
        """Return the share of the engine's power that so many live requests take."""
        if self._slowdown.alone_s is None or self._slowdown.each_s is None:
            return live / load.slots if load.slots else 0.0
        return self._slowdown.power(live, load.slots)

    def _is_busy(self, load: Load) -> bool:
        """Whether live requests take enough of the engine for batches to make way."""
        if load.batch + load.live >= load.slots - self._kept(load):
            return True
        return self._taken(float(load.live), load) > BURST_AT

    def takes_prompt(self, load: Load, unread: int, prompt_tokens: int) -> bool:
        """Say yes to one prompt at a time while live traffic is about: everybody waits for a step that reads it.

        In a burst there is always somebody, so that prompts of batches may take a small part of the time only.
        """
        if self._is_burst(load) and not self._reading.has_left(self._now_us):
            return False
        if unread == 0:
            return True
        is_calm = load.live == 0 and self._live.faint < 0.5
        return is_calm and unread + prompt_tokens <= PROMPTS

    def sent(self, prompt_tokens: int) -> None:
        """Count a prompt that was sent; tokens that the engine has in its cache left out."""
        if self._loads and self._is_burst(self._loads[-1][1]):
            self._reading.take(self._now_us, prompt_tokens)

    def was_read(self, prompt_tokens: int, seconds: float) -> None:
        """Learn how long it took to the first token."""
        if self._gap_s is not None:
            self._reading.learn(prompt_tokens, seconds, self._gap_s)

    def produced(self, tokens: int) -> None:
        """Count tokens of batch answers."""
        self._waste.made[0] += tokens
        self._produced_us = self._now_us

    def wasted(self, tokens: int) -> None:
        """Count tokens of a batch answer that had to give way."""
        self._waste.lost[0] += tokens

    def see(self, seen: Seen) -> None:
        """Learn from one tick."""
        self._now_us, self._push = seen.now_us, seen.push
        self._live.see(seen.now_us, seen.load.live)
        self._waste.turn(seen.now_us)
        self._loads.append((seen.now_us, seen.load))
        was_trusted, was_foreign = self._trust.is_trusted, self._foreign
        signals = self._trust.judge(seen.now_us, seen.load, seen.signals, seen.gap_s)
        self._foreign = self._trust.foreign
        if was_trusted and was_foreign and not self._trust.is_trusted:
            self._slowdown = Slowdown()  # others' requests that never were are in all that was learned
        if seen.gap_s is not None:
            self._gap_us = seen.now_us
            if self._slowdown.each_s is None or seen.load.live <= seen.load.batch:
                # the prompts of live traffic slow tokens, too, and batches cannot change that
                self._slowdown.learn(self._load_lately(seen.now_us) + self._foreign, seen.gap_s, seen.now_us)
        elif self._gap_us is None:
            self._gap_us = seen.now_us
        elif not seen.load.live + seen.load.batch:
            self._gap_us = max(self._gap_us, seen.now_us - QUIET_US + SECOND)
        self._gap_s = seen.gap_s
        self._targets.append(self._target_s(seen.load))
        self._adjust(seen, signals)

    def why(self, load: Load) -> str:
        """Say in words what bounds `allowed`."""
        allowed = self.allowed(load)
        if allowed >= self._seats(load):
            return SEATS
        if self._aims.most and allowed >= self._aims.most:
            return "a fixed window"
        if self._is_blind(load):
            return "nobody tells how the engine is doing"
        if allowed + 1 > self._room(load) >= 0:
            return "live requests" if load.live else "the time between tokens"
        return "more is tried step by step" if allowed else "live requests"

    def state(self) -> Mapping[str, float | None]:
        """Return what it knows, for people: times in seconds."""
        return {
            "target_s": self._target_s(self._loads[-1][1]) if self._loads else None,
            "gap_s": self._gap_s,
            "base_s": self._slowdown.alone_s,
            "each_s": self._slowdown.each_s,
            "budget": self._budget,
            "foreign": float(self._foreign),
            "live_peak": float(self._live.peak()),
            "trusts_metrics": float(self._trust.is_trusted),
            "waste_left": float(self._waste.left(self._aims.waste)),
        }

    def _seats(self, load: Load) -> int:
        """Seats that batches may take: not those of live requests, nor some free ones for the next of a burst."""
        kept, peak = self._kept(load), self._live.peak()
        spare = max(kept, min(math.ceil(PEAK_SHARE * peak), peak - load.live, load.slots - 1))
        if self._is_burst(load) and not self._is_starving():
            spare = max(spare, self._live.peak(NEAR_US) - load.live + kept)
        return load.slots - load.live - spare

    def _is_starving(self) -> bool:
        """Whether batches got nothing for so long, or are so late, that they must have a seat in a burst, too."""
        return self._push > 0 or self._now_us - self._produced_us > STARVED_US

    def _kept(self, load: Load) -> int:
        return kept_of(self._aims.live_slots, load.slots)

    def _floor(self, load: Load) -> int:
        return self._aims.floor if load.slots else 0

    def _is_blind(self, load: Load) -> bool:
        """Whether there is work and nobody tells how it goes."""
        if not load.live + load.batch or self._gap_us is None or self._trust.is_telling:
            return False
        return self._now_us - self._gap_us > QUIET_US

    def _room(self, load: Load) -> float:
        """Return the batch items that the engine bears beside this live load, as far as is known of it."""
        slow = self._slowdown
        if slow.alone_s is None or slow.each_s is None:
            return math.inf
        relaxed = 1 + 0.25 * self._push
        if self._aims.target_s:
            return slow.most_at(self._aims.target_s * relaxed) - load.live
        busy = slow.most_at(slow.alone_s * self._aims.factor * relaxed)
        # bursts that nearly fill the engine leave no time in which what is in flight could end
        fullness = max(0.0, slow.power(self._live.crest, load.slots) - FULL_AT)
        idle = max(busy, slow.most_for(self._aims.share * (1 - fullness), load.slots))
        if math.isinf(busy):
            return busy
        taken = slow.power(max(float(load.live), self._live.faint), load.slots)
        if taken > BUSY_AT:
            # nearly full of live requests: what batches add would make those that come wait for those that are there
            return busy * max(0.0, (FULL_AT - taken) / (FULL_AT - BUSY_AT))
        return busy + (idle - busy) * min(1.0, (BUSY_AT - taken) / (BUSY_AT - CALM_AT))

    def _target_s(self, load: Load) -> float | None:
        """Return the gap that is to be expected with all that may be in flight."""
        if self._aims.target_s:
            return self._aims.target_s
        alone_s, room = self._slowdown.alone_s, self._room(load)
        if alone_s is None:
            return None
        if math.isinf(room):
            return alone_s * self._aims.factor
        live = max(float(load.live), self._live.faint)
        return max(alone_s * self._aims.factor, self._slowdown.gap_s(live + room) or 0.0)

    def _load_lately(self, now_us: int) -> float:
        found = [load.live + load.batch for at_us, load in self._loads if at_us > now_us - LATELY_US]
        return sum(found) / len(found)

    def _adjust(self, seen: Seen, signals: Signals | None) -> None:
        total = seen.load.live + seen.load.batch
        if seen.rejected:
            self._was_rejected = True
            self._cut(total * REJECTED, 2 * WINDOW_US)
        elif signals is not None and _is_full(signals):
            self._cut(total * REJECTED, WINDOW_US)
        elif self._is_slow(seen):
            self._cut(total * max(REJECTED, self._ratio(seen)), WINDOW_US)
        elif self._may_grow(seen, total, signals):
            self._grow(seen)
        self._budget = min(self._budget, float(max(2, seen.load.slots)))

    def _is_slow(self, seen: Seen) -> bool:
        if seen.gap_s is None or None in self._targets:
            return False
        # the gap is one of the last seconds; a target that just fell is for the seconds to come
        return seen.gap_s > TOLERATED * max(target_s or 0.0 for target_s in self._targets)

    def _ratio(self, seen: Seen) -> float:
        return (self._target_s(seen.load) or 0.0) / (seen.gap_s or math.inf)

    def _cut(self, to: float, window_us: int) -> None:
        if self._now_us - self._cut_us < window_us:
            return
        self._cut_us, self._is_starting = self._now_us, False
        self._budget = max(2.0, self._aims.floor, min(self._budget, to))

    def _may_grow(self, seen: Seen, total: int, signals: Signals | None) -> bool:
        """Grow only what is used, and only while the engine is known to be well."""
        if total + self._foreign < 0.9 * self._budget - 1 and seen.load.batch < self.allowed(seen.load):
            return False
        if signals is not None and (signals.kv_used or 0.0) > GROWS_TO_KV:
            return False
        if seen.gap_s is None:
            return signals is not None and self._trust.is_telling and not (signals.waiting or 0.0)
        target_s = self._target_s(seen.load)
        return target_s is None or seen.gap_s < target_s

    def _grow(self, seen: Seen) -> None:
        if self._slowdown.alone_s is None and seen.gap_s is not None:
            return
        if self._was_rejected and self._now_us - self._grew_us < WINDOW_US:
            return
        self._grew_us = self._now_us
        is_far = not self._was_rejected and (self._is_starting or self._ratio(seen) > SLOW_START)
        self._budget += max(0.5, (SLOW_START - 1) * self._budget) if is_far else max(1.0, 0.02 * self._budget)


def kept_of(live_slots: int, slots: int) -> int:
    """Return the slots kept for live requests; an engine with one slot would else never work for a batch."""
    return min(live_slots, max(0, slots - 1))


def _is_full(signals: Signals) -> bool:
    return (signals.waiting or 0.0) > MOST_WAITING or (signals.kv_used or 0.0) > FULL_KV
