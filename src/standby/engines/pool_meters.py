"""What is counted of every endpoint (docs/reference/metrics.md)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from standby.engines.breaker import BreakerState

AWAY = "away"
STATES = (*BreakerState, AWAY)


class EndpointMeters:
    """The metrics of a pool on one registry; labels are the names in the settings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register."""
        self.attempts = Counter(
            "standby_endpoint_attempts",
            "Requests sent to an endpoint, by how they ended: `ok`, `refused`, `left`, or the kind of failure.",
            ["endpoint", "result"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "standby_endpoint_prompt_tokens",
            "Prompt tokens of answers of which an endpoint told how much it reused.",
            ["endpoint"],
            registry=registry,
        )
        self.reused_tokens = Counter(
            "standby_endpoint_reused_tokens",
            "Of them, those that came out of the engine's own cache, whether a client marked them or not.",
            ["endpoint"],
            registry=registry,
        )
        self._state = Gauge(
            "standby_endpoint_state",
            "1 for the state that an endpoint is in: `closed` (gets work), `open`, `half_open`, `away`.",
            ["endpoint", "state"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "standby_endpoint_in_flight", "Requests in flight at an endpoint.", ["endpoint", "kind"], registry=registry
        )
        self._slots = Gauge(
            "standby_endpoint_slots", "Requests an endpoint works on at once.", ["endpoint"], registry=registry
        )
        self._gap = Gauge(
            "standby_endpoint_gap_seconds",
            "Time between two tokens of an answer at an endpoint, lately, live answers first; NaN if none were seen.",
            ["endpoint"],
            registry=registry,
        )

    def watch(
        self,
        name: str,
        *,
        state: Callable[[], str],
        live: Callable[[], int],
        batch: Callable[[], int],
        slots: Callable[[], int],
        gap_s: Callable[[], float | None],
    ) -> None:
        """Read these numbers of an endpoint whenever the metrics are read."""
        for each in STATES:
            self._state.labels(name, each).set_function(functools.partial(_is_in, state, each))
        self._in_flight.labels(name, "live").set_function(lambda: float(live()))
        self._in_flight.labels(name, "batch").set_function(lambda: float(batch()))
        self._slots.labels(name).set_function(lambda: float(slots()))
        self._gap.labels(name).set_function(lambda: _number(gap_s()))


def _is_in(state: Callable[[], str], wanted: str) -> float:
    return float(state() == wanted)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
