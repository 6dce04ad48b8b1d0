"""What an engine profile says of itself: as signals, as text in the engine's own names, and in the ways that lie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from standby.engines.base import Signals
from standby.engines.simulated.jobs import Gauges

_VLLM: dict[str, tuple[str, Callable[[Gauges], float]]] = {
    "vllm:num_requests_running": ("gauge", lambda g: g.running),
    "vllm:num_requests_waiting": ("gauge", lambda g: g.waiting),
    "vllm:kv_cache_usage_perc": ("gauge", lambda g: g.kv_used),
    "vllm:num_preemptions_total": ("counter", lambda g: g.preempted),
    "vllm:prompt_tokens_total": ("counter", lambda g: g.prompt_tokens),
    "vllm:generation_tokens_total": ("counter", lambda g: g.output_tokens),
    "vllm:prefix_cache_queries_total": ("counter", lambda g: g.prompt_tokens),
    "vllm:prefix_cache_hits_total": ("counter", lambda g: g.cached_tokens),
}
_SGLANG: dict[str, tuple[str, Callable[[Gauges], float]]] = {
    "sglang:num_running_reqs": ("gauge", lambda g: g.running),
    "sglang:num_queue_reqs": ("gauge", lambda g: g.waiting),
    "sglang:token_usage": ("gauge", lambda g: g.kv_used),
    "sglang:num_retracted_reqs": ("gauge", lambda g: g.preempted),
    "sglang:prompt_tokens_total": ("counter", lambda g: g.prompt_tokens),
    "sglang:generation_tokens_total": ("counter", lambda g: g.output_tokens),
    "sglang:cached_tokens_total": ("counter", lambda g: g.cached_tokens),
}
_LLAMACPP: dict[str, tuple[str, Callable[[Gauges], float]]] = {
    "llamacpp:requests_processing": ("gauge", lambda g: g.running),
    "llamacpp:requests_deferred": ("gauge", lambda g: g.waiting),
    # llama-server counts the tokens that it computed, not those that a slot still had
    "llamacpp:prompt_tokens_total": ("counter", lambda g: g.prompt_tokens - g.cached_tokens),
    "llamacpp:tokens_predicted_total": ("counter", lambda g: g.output_tokens),
}
_NAMES = {"vllm": _VLLM, "sglang": _SGLANG, "llamacpp": _LLAMACPP}
_LABELS = {"vllm": '{engine="0",model_name="simulated"}', "sglang": '{model_name="simulated"}', "llamacpp": ""}


class Metrics:
    """The metrics of one engine of a profile; a hosted API has none."""

    def __init__(self, profile: str, *, manner: str, seats: int, seed: int = 0) -> None:
        """`manner` is the setting `simulator.metrics`."""
        self._profile = profile
        self._manner = manner
        self._seats = seats
        self._noise = _noise(seed)
        self._first: Gauges | None = None

    def signals(self, gauges: Gauges) -> Signals | None:
        """Return what a reader of the metrics learns; None if there is nothing to read."""
        shown = self._shown(gauges)
        if shown is None:
            return None
        is_llamacpp = self._profile == "llamacpp"
        return Signals(
            running=shown.running,
            waiting=shown.waiting,
            kv_used=None if is_llamacpp else shown.kv_used,
            prompt_tokens=shown.prompt_tokens - (shown.cached_tokens if is_llamacpp else 0),
            cached_tokens=None if is_llamacpp else shown.cached_tokens,
            output_tokens=shown.output_tokens,
        )

    def text(self, gauges: Gauges) -> str:
        """Return the same in Prometheus' text format; empty if there is nothing to read."""
        shown = self._shown(gauges)
        if shown is None:
            return ""
        label = _LABELS[self._profile]
        lines = [
            f"# TYPE {name} {kind}\n{name}{label} {float(value(shown))}\n"
            for name, (kind, value) in _NAMES[self._profile].items()
        ]
        return "".join(lines)

    def _shown(self, gauges: Gauges) -> Gauges | None:
        if self._profile not in _NAMES or self._manner == "missing":
            return None
        if self._first is None:
            self._first = gauges
        match self._manner:
            case "zero":
                return Gauges()
            case "full":
                return replace(gauges, running=self._seats, kv_used=1.0)
            case "stale":
                return self._first
            case "noisy":
                return self._noisy(gauges)
            case _:
                return gauges

    def _noisy(self, gauges: Gauges) -> Gauges:
        """Let the gauges be off by up to a half; counters go on counting."""
        return replace(
            gauges,
            running=round(gauges.running * next(self._noise)),
            waiting=round(gauges.waiting * next(self._noise)),
            kv_used=min(1.0, gauges.kv_used * next(self._noise)),
        )


def _noise(seed: int) -> Iterator[float]:
    """Endless factors from 0.5 to 1.5."""
    state = seed.to_bytes(8, "big", signed=True)
    while True:
        state = hashlib.blake2b(state, digest_size=8).digest()
        yield 0.5 + state[0] / 255
