"""How many batch items may be in flight? Pure: the load of an endpoint in, a number out.

The first admission is a fixed safe window: the slots of the endpoint less those kept free for live traffic. The
adaptive controller of the scheduler's own issue takes this place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from standby.engines.base import Engine
from standby.records import Load


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


@runtime_checkable
class Rooms(Protocol):
    """Where batch items can go; a pool of endpoints is one."""

    def loads(self) -> list[Load]:
        """Return the load of each endpoint that is up; no I/O."""
        ...

    def has_room(self, model: str) -> bool:
        """Whether an item for this model would be worked on at once; no I/O."""
        ...


@dataclass(frozen=True, slots=True)
class OneRoom:
    """An engine that is not told apart any further."""

    engine: Engine

    def loads(self) -> list[Load]:
        """Return its load."""
        return [self.engine.load()]

    def has_room(self, model: str) -> bool:  # noqa: ARG002 - see `Rooms`
        """It takes what admission allows."""
        return True


def rooms_of(engine: Engine) -> Rooms:
    """Return what tells the endpoints of an engine apart: itself if it is a pool."""
    return engine if isinstance(engine, Rooms) else OneRoom(engine)
