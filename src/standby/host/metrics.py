"""What the host counts, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, generate_latest

if TYPE_CHECKING:
    from standby.host.prefixes import Prefixes
    from standby.host.sequence import Sequence


class Metrics:
    """Counters of one host; `class` is `live` or `batch`."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("standby_host_requests", "Requests taken.", ["class"], registry=registry)
        self._cancelled = Counter("standby_host_cancelled", "Requests whose client left.", ["class"], registry=registry)
        self._prompt = Counter("standby_host_prompt_tokens", "Prompt tokens of requests.", ["class"], registry=registry)
        self._cached = Counter(
            "standby_host_cached_tokens", "Of them, found in the prefix cache (derived).", ["class"], registry=registry
        )
        self._generated = Counter("standby_host_generated_tokens", "Tokens generated.", ["class"], registry=registry)
        self._pauses = Counter("standby_host_pauses", "Times a batch sequence made way.", registry=registry)
        self._restarts = Counter("standby_host_restarts", "Times a structured one started again.", registry=registry)
        self._steers = Counter(
            "standby_host_steers", "Times characters of a structured answer were taken back.", registry=registry
        )
        self._closings = Counter(
            "standby_host_closings", "Structured answers that were closed at max_tokens.", registry=registry
        )
        self._discarded = Counter("standby_host_discarded_tokens", "Tokens given up by restarts.", registry=registry)
        self._recomputed = Counter(
            "standby_host_recomputed_tokens", "Tokens computed again after pauses (derived).", registry=registry
        )
        self._step = Summary("standby_host_step_seconds", "Time of a step.", registry=registry)
        self._sequences = Gauge("standby_host_sequences", "Sequences.", ["class", "state"], registry=registry)
        self._blocks = Gauge("standby_host_kv_blocks", "KV blocks.", ["state"], registry=registry)
        self._speed = Gauge(
            "standby_host_measured_tokens_per_second", "Speed of one alone at the start.", ["phase"], registry=registry
        )

    def measured(self, prefill: float | None, decode: float | None) -> None:
        """Tell the speeds that were measured at the start, if any."""
        for phase, speed in (("prefill", prefill), ("decode", decode)):
            if speed is not None:
                self._speed.labels(phase).set(speed)

    def watch(self, waiting: Mapping[int, Sequence], running: Mapping[int, Sequence], prefixes: Prefixes) -> None:
        """Read the gauges off the loop's own books when somebody asks."""
        for name, live in (("live", True), ("batch", False)):
            gauge = self._sequences.labels(name, "running")
            gauge.set_function(lambda live=live: _count(running.values(), live=live))  # type: ignore[misc]
            gauge = self._sequences.labels(name, "waiting")
            gauge.set_function(lambda live=live: _count(waiting.values(), live=live, ran=False))  # type: ignore[misc]
            gauge = self._sequences.labels(name, "paused")
            gauge.set_function(lambda live=live: _count(waiting.values(), live=live, ran=True))  # type: ignore[misc]
        self._blocks.labels("total").set(prefixes.total)
        self._blocks.labels("used").set_function(lambda: prefixes.used)

    def asked(self, live: bool, prompt: int) -> None:  # noqa: FBT001 - the class of the request
        """Count a request."""
        self._requests.labels(_name(live)).inc()
        self._prompt.labels(_name(live)).inc(prompt)

    def cancelled(self, live: bool) -> None:  # noqa: FBT001
        """Count a client that left."""
        self._cancelled.labels(_name(live)).inc()

    def cached(self, live: bool, tokens: int) -> None:  # noqa: FBT001
        """Count what the prefix cache saved."""
        self._cached.labels(_name(live)).inc(tokens)

    def generated(self, live: bool, tokens: int) -> None:  # noqa: FBT001
        """Count new tokens."""
        self._generated.labels(_name(live)).inc(tokens)

    def paused(self) -> None:
        """Count a sequence that made way."""
        self._pauses.inc()

    def restarted(self, discarded: int) -> None:
        """Count a structured sequence that starts again, and what it gave up."""
        self._restarts.inc()
        self._discarded.inc(discarded)

    def steered(self) -> None:
        """Count an answer that left its language and was taken back to it."""
        self._steers.inc()

    def closed(self) -> None:
        """Count an answer that was brought to its end."""
        self._closings.inc()

    def resumed(self, recomputed: int) -> None:
        """Count what a resumed sequence computes again."""
        self._recomputed.inc(recomputed)

    def stepped(self, seconds: float, sequences: int) -> None:
        """Count a step that had work."""
        if sequences:
            self._step.observe(seconds)

    def text(self) -> bytes:
        """Write everything in Prometheus' format."""
        return generate_latest(self.registry)


def _name(live: bool) -> str:  # noqa: FBT001
    return "live" if live else "batch"


def _count(sequences: Iterable[Sequence], *, live: bool, ran: bool | None = None) -> int:
    return sum(1 for s in sequences if s.ask.live is live and (ran is None or s.ran is ran))
