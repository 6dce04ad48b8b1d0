"""What is asked of a house while it is measured: when live requests come, and what items are like. Pure, seeded."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from standby.emulation.cue import Cue
from standby.engines.simulated.lorem import WORDS

LIVE_TOKENS = re.compile(r"\Alive \d+ (\d+) ")
"""How the last turn of a live request begins: its number, and the length of its answer."""
ITEM_TOKENS = re.compile(r"-(\d+)\Z")
"""How an item's name ends: the length of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Live traffic: cycles of a burst and an idle phase, requests at random moments (Poisson), nobody waits for any."""

    burst_s: float = 15.0
    """Requests a second in a burst."""
    idle_s: float = 1.0
    """Requests a second between bursts."""
    phase_s: float = 90.0
    cycles: int = 4
    warm_up: int = 1
    """Cycles at the beginning that are not counted."""
    prompt: int = 512
    answer: int = 128

    @property
    def seconds(self) -> float:
        """How long all cycles take."""
        return 2 * self.phase_s * self.cycles

    @property
    def counted_from_s(self) -> float:
        """When the warm-up is over."""
        return 2 * self.phase_s * self.warm_up

    def is_burst(self, at_s: float) -> bool:
        """Whether this moment lies in a burst; a cycle begins with its idle phase."""
        return int(at_s / self.phase_s) % 2 == 1

    def arrivals(self, seed: int) -> Iterator[float]:
        """Yield the seconds at which requests come."""
        chance = random.Random(f"arrivals {seed}")  # noqa: S311 - no secret
        for phase in range(2 * self.cycles):
            at_s, end_s = phase * self.phase_s, (phase + 1) * self.phase_s
            rate = self.burst_s if phase % 2 else self.idle_s
            while (at_s := at_s + chance.expovariate(rate)) < end_s:
                yield at_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Batches of one kind: groups of items with a common beginning, submitted in random order."""

    items: int = 1000
    """Of a batch."""
    open: int = 3
    """How many batches have runs to give at any time."""
    group: int = 10
    """Items that share a beginning; 1 shares nothing."""
    prefix: int = 384
    suffix: int = 128
    mean: float = 500.0
    """Tokens of an answer; lengths are lognormal."""
    deviation: float = 400.0
    most: int = 2048

    def lengths(self, chance: random.Random) -> Iterator[int]:
        """Yield lengths of answers for ever."""
        variance = math.log(1 + (self.deviation / self.mean) ** 2)
        middle = math.log(self.mean) - variance / 2
        while True:
            yield max(1, min(self.most, round(chance.lognormvariate(middle, math.sqrt(variance)))))

    def batch(self, number: int, seed: int) -> list[dict[str, Any]]:
        """Make the items of a batch; names are `<batch>-<group>-<item>-<length of the answer>`."""
        chance = random.Random(f"batch {number} {seed}")  # noqa: S311 - no secret
        lengths = self.lengths(chance)
        made = []
        for place in range(self.items):
            if place % self.group == 0:
                group, beginning = place // self.group, words(chance, self.prefix)
            name = f"{number}-{group}-{place}-{next(lengths)}"
            text = f"{place} {words(chance, self.suffix - 1)}"
            made.append({"custom_id": name, "params": params(text, system=beginning, most=self.most)})
        chance.shuffle(made)
        return made


def live_request(live: Live, number: int, seed: int) -> bytes:
    """Make a live request's body; every prompt is another."""
    chance = random.Random(f"live {number} {seed}")  # noqa: S311 - no secret
    head = f"live {number} {live.answer} "
    return json.dumps(params(head + words(chance, live.prompt - 3), system="", most=live.answer)).encode()


def params(text: str, *, system: str, most: int) -> dict[str, Any]:
    """Make a request's params."""
    made: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": most,
        "messages": [{"role": "user", "content": text}],
    }
    return {**made, "system": system} if system else made


def words(chance: random.Random, count: int) -> str:
    """Make a text of so many tokens, as the simulator counts."""
    return " ".join(chance.choices(WORDS, k=count))


class Lengths:
    """The script of the simulated engine: the length of an answer stands in the request, where no scheduler looks."""

    def cue(self, *, custom_id: str, model: str, text: Callable[[], str], header: str) -> Cue:  # noqa: ARG002 - the protocol's
        """Say so many words."""
        found = ITEM_TOKENS.search(custom_id) if custom_id else LIVE_TOKENS.match(text())
        assert found is not None, "a request that this script does not know"
        return _cue(int(found[1]))


@lru_cache(maxsize=4096)
def _cue(tokens: int) -> Cue:
    return Cue(text=" ".join(WORDS[number % len(WORDS)] for number in range(tokens)))
