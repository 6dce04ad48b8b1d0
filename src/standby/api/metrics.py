"""Numbers for machines: counted as calls pass, or read from the store when somebody asks.

Labels are routes, methods, statuses, states and outcomes: small closed sets, and nothing about who.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from standby.records import Load
from standby.states import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What the API counts by itself, in a registry that other rooms may share."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register the counters; a registry takes one `Metrics`."""
        self.registry = registry or CollectorRegistry()
        self._requests = Counter(
            "standby_http_requests",
            "HTTP requests answered; status 499: the client left.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "standby_http_request_seconds",
            "Time from the request's headers to the answer's last byte.",
            ("route", "method"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "standby_limit_refusals",
            "Requests that a limit of their workspace refused, by limit.",
            ("limit",),
            registry=self.registry,
        )

    def count_refusal(self, limit: str) -> None:
        """Count one request that a limit of its workspace refused."""
        self._refusals.labels(limit).inc()

    def count_request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def expose(
        self, *, batches: Mapping[str, int], results: Mapping[Outcome, int], load: Load, is_ready: bool
    ) -> bytes:
        """Write everything in the text format, together with what was just read from store and engine."""
        now = CollectorRegistry()
        now.register(_Reading(batches=batches, results=results, load=load, is_ready=is_ready))
        return generate_latest(self.registry) + generate_latest(now)


class _Reading:
    """One reading of store and engine, as metric families."""

    def __init__(
        self, *, batches: Mapping[str, int], results: Mapping[Outcome, int], load: Load, is_ready: bool
    ) -> None:
        self._batches = batches
        self._results = results
        self._load = load
        self._is_ready = is_ready

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        batches = GaugeMetricFamily("standby_batches", "Batches by state.", labels=("state",))
        for state, count in self._batches.items():
            batches.add_metric((state,), count)
        yield batches
        results = CounterMetricFamily("standby_results", "Results committed, by outcome.", labels=("outcome",))
        for outcome in Outcome:
            results.add_metric((outcome,), self._results.get(outcome, 0))
        yield results
        requests = GaugeMetricFamily("standby_engine_requests", "Requests in the engine, by kind.", labels=("kind",))
        for kind in ("live", "batch", "waiting"):
            requests.add_metric((kind,), getattr(self._load, kind))
        yield requests
        yield GaugeMetricFamily("standby_engine_slots", "Requests the engine works on at once.", value=self._load.slots)
        yield GaugeMetricFamily("standby_engine_ready", "1 if the engine is ready.", value=int(self._is_ready))
