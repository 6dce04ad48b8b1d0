"""What a running job was charged so far, part by part: a walk over all its rows only once a round."""

from __future__ import annotations

from standby.workload.costs import Cost, PriceOf, cost_of
from standby.workload.jobfile import JobFile, Part
from standby.workload.outcomes import read
from standby.workload.states import PartState


class Spent:
    """Keeps the sum of the parts that are done."""

    def __init__(self, job: JobFile, price_of: PriceOf) -> None:
        """Take an open job; nothing is read yet."""
        self._job, self._price_of = job, price_of
        self._cost = Cost()
        self._known: set[int] = set()
        self._round = -1

    def pico(self, parts: list[Part]) -> int | None:
        """Return what was charged for the parts that are done, in pico-dollars; None if a price is not known."""
        done = {part.number for part in parts if part.state is PartState.DONE}
        round_ = max((part.round for part in parts), default=0)
        if round_ != self._round:  # rows have moved to other parts
            self._cost, self._round = cost_of(self._job, self._price_of), round_
        else:
            for number in sorted(done - self._known):
                self._add(number)
        self._known = done
        return None if self._cost.unpriced else self._cost.charged

    def _add(self, part: int) -> None:
        """Add what came back with a part: the last usage of each of its answers."""
        for text, times in self._job.settled_usages(part):
            model, used = read(text)[-1]
            self._cost.add(used, self._price_of(model), times)
