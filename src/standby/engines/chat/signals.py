"""What an engine's metrics say of its load, by the names that each kind of engine gives them."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from standby.engines.base import Signals
from standby.engines.chat.connection import Connection
from standby.errors import EngineError
from standby.wire.chat.dialect import HOST, LLAMACPP, SGLANG, VLLM

FRESH_S = 0.25
WITHIN_S = 2.0
MOST = 4 * 2**20
RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Labels of workers that all tell the same number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the numbers are called, newest name first; with `{label="value"}` only those samples count."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv_used: tuple[str, ...] = ()
    kv_total: tuple[str, ...] = ()
    """If there is one, `kv_used` is a part of it and not a share."""
    prompt: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    prompt_leaves_out_cached: bool = False
    output: tuple[str, ...] = ()


NAMES: Mapping[str, Names] = {
    HOST.name: Names(
        running=('standby_host_sequences{state="running"}',),
        waiting=('standby_host_sequences{state="waiting"}', 'standby_host_sequences{state="paused"}'),
        kv_used=('standby_host_kv_blocks{state="used"}',),
        kv_total=('standby_host_kv_blocks{state="total"}',),
        prompt=("standby_host_prompt_tokens_total",),
        cached=("standby_host_cached_tokens_total",),
        output=("standby_host_generated_tokens_total",),
    ),
    VLLM.name: Names(
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        kv_used=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        prompt=("vllm:prompt_tokens_total",),
        cached=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        output=("vllm:generation_tokens_total",),
    ),
    SGLANG.name: Names(
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        kv_used=("sglang:token_usage",),
        prompt=("sglang:prompt_tokens_total",),
        cached=("sglang:cached_tokens_total",),
        output=("sglang:generation_tokens_total",),
    ),
    LLAMACPP.name: Names(
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        kv_used=("llamacpp:kv_cache_usage_ratio",),
        prompt=("llamacpp:prompt_tokens_total",),
        cached=("llamacpp:prompt_tokens_cached_total",),
        prompt_leaves_out_cached=True,
        output=("llamacpp:tokens_predicted_total",),
    ),
}
"""By the names of dialects; the others publish nothing."""


class Scraper:
    """Reads one endpoint's metrics, at most four times a second, whoever asks."""

    def __init__(self, connection: Connection) -> None:
        """Read nothing yet."""
        self._connection = connection
        self._lock = asyncio.Lock()
        self._read_at = -math.inf
        self._last: Signals | None = None

    async def read(self, kind: str) -> Signals | None:
        """Return what the metrics of this kind of engine say now; None if they cannot be read."""
        names = NAMES.get(kind)
        if names is None:
            return None
        async with self._lock:
            if time.monotonic() - self._read_at > FRESH_S:
                self._last = await self._fetch(names)
                self._read_at = time.monotonic()
            return self._last

    async def _fetch(self, names: Names) -> Signals | None:
        try:
            text = await self._connection.read("/metrics", within_s=WITHIN_S, most=MOST)
        except EngineError:
            return None
        return read_signals(text, names)


def read_signals(text: bytes, names: Names) -> Signals | None:
    """Read metrics in Prometheus' format; a number that makes no sense is None, and so is all if none is left."""
    found = _sums(text, names)
    waiting = [found[name] for name in names.waiting if name in found]
    cached, prompt = _first(found, names.cached), _first(found, names.prompt)
    if names.prompt_leaves_out_cached and prompt is not None:
        prompt += cached or 0.0
    signals = Signals(
        running=_first(found, names.running),
        waiting=sum(waiting) if waiting else None,
        kv_used=_share(_first(found, names.kv_used), _first(found, names.kv_total), whole=bool(names.kv_total)),
        prompt_tokens=prompt,
        cached_tokens=cached,
        output_tokens=_first(found, names.output),
    )
    return signals if signals != Signals() else None


def _sums(text: bytes, names: Names) -> dict[str, float]:
    """Add up the samples of each wanted name; samples that differ only in a worker's rank count once."""
    wanted = [
        *names.running,
        *names.waiting,
        *names.kv_used,
        *names.kv_total,
        *names.prompt,
        *names.cached,
        *names.output,
    ]
    parts: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
    for sample in _samples(text, {name.partition("{")[0] for name in wanted}):
        if not (math.isfinite(sample.value) and sample.value >= 0):
            continue
        group = frozenset((label, value) for label, value in sample.labels.items() if label not in RANKS)
        for name in wanted:
            if _fits(sample, name):
                parts[name][group] = max(sample.value, parts[name].get(group, 0.0))
    shares = set() if names.kv_total else set(names.kv_used)
    return {name: max(ones.values()) if name in shares else sum(ones.values()) for name, ones in parts.items()}


def _samples(text: bytes, bases: set[str]) -> Iterator[Sample]:
    """Parse only the lines that are wanted: an engine may publish thousands of others."""
    lines = text.decode("utf-8", "replace").splitlines()
    for line in lines:
        if re.split(r"[{\s]", line, maxsplit=1)[0] not in bases:
            continue
        try:
            for family in text_string_to_metric_families(line + "\n"):
                yield from family.samples
        except (ValueError, KeyError, IndexError):
            continue


def _fits(sample: Sample, name: str) -> bool:
    base, _, rest = name.partition("{")
    if sample.name != base:
        return False
    label, _, value = rest.rstrip("}").partition("=")
    return not label or sample.labels.get(label) == value.strip('"')


def _first(found: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((found[name] for name in names if name in found), None)


def _share(used: float | None, total: float | None, *, whole: bool) -> float | None:
    if whole:
        used = used / total if used is not None and total else None
    return used if used is not None and used <= 1.0 else None
