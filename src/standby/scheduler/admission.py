"""How many batch items may be in flight? Pure: the load of an endpoint in, a number out.

The first admission is a fixed safe window: the slots of the endpoint less those kept free for live traffic. The
adaptive controller of the scheduler's own issue takes this place.
"""

from __future__ import annotations

from dataclasses import dataclass

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
