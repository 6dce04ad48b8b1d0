"""What the scheduler counts for operators (docs/reference/metrics.md)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Meters:
    """The scheduler's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register."""
        self.attempts = Counter(
            "standby_attempts", "Attempts at batch items, by how they ended.", ["result"], registry=registry
        )
        self.in_flight = Gauge("standby_batch_items_in_flight", "Batch items being worked on now.", registry=registry)
        self.held_runs = Gauge("standby_held_runs", "Runs leased by this process.", registry=registry)
        self.commits = Counter("standby_commits", "Group commits of results.", registry=registry)
        self.commit_items = Histogram(
            "standby_commit_items",
            "Results in one group commit.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.leases_lost = Counter("standby_leases_lost", "Runs that another worker took over.", registry=registry)
        self.sealed = Counter("standby_batches_sealed", "Batches that ended.", registry=registry)
