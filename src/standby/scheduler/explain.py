"""What the scheduler does and why, for people: read off the worker's own books."""

from __future__ import annotations

from standby.records import BatchId, BatchView, Eta, SchedulerView
from standby.scheduler.outlook import Outlook
from standby.scheduler.worker import Worker

NOT_SEEN = "it has just come"


class Explain:
    """Looks at one worker."""

    def __init__(self, worker: Worker) -> None:
        """Remember whom to look at."""
        self._worker = worker

    def batch(self, batch_id: BatchId) -> BatchView | None:
        """Return what is to be said of a batch; None if nothing of it waits or runs here."""
        held = self._worker.held_of(batch_id)
        outlook = self._worker.outlooks.get(batch_id)
        if outlook is None and not held:
            return None
        in_flight = sum(len(run.in_flight) for run in held)
        return BatchView(
            in_flight=in_flight,
            held_runs=len(held),
            items_per_s=self._worker.rates.of(batch_id),
            eta=_eta(outlook),
            pressure=None if outlook is None else round(outlook.pressure, 3),
            is_urgent=outlook is not None and outlook.is_urgent,
            will_miss=outlook is not None and outlook.will_miss,
            waits=NOT_SEEN if outlook is None else str(outlook.waits),
        )

    def scheduler(self) -> SchedulerView:
        """Return what is to be said of all endpoints together."""
        dispatcher = self._worker.dispatcher
        outlooks = self._worker.outlooks.values()
        return SchedulerView(
            endpoints=dispatcher.endpoints(),
            batches=len(self._worker.outlooks),
            in_flight=self._worker.in_flight,
            held_runs=self._worker.held_runs,
            cost_tokens_per_s=dispatcher.policy.supply.rate,
            pressure=max((outlook.pressure for outlook in outlooks if not outlook.will_miss), default=0.0),
        )


def _eta(outlook: Outlook | None) -> Eta | None:
    if outlook is None or outlook.eta_us is None:
        return None
    early_us, likely_us, late_us = outlook.eta_us
    return Eta(early_us=early_us, likely_us=likely_us, late_us=late_us)
