"""What each kind of engine says in pages of its own: llama.cpp, SGLang, vLLM, Ollama. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Priority = Literal["send", "try", "never"]
BEHIND = 100
"""How far behind live work batches are put on SGLang: more than the 10 from which it preempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the engine's own pages say, whatever its kind; None and empty where they are silent."""

    version: str = ""
    slots: int = 0
    context: int = 0
    kv_tokens: int = 0
    """Tokens that its KV cache holds, or that of a slot."""
    images: bool | None = None
    tools: bool | None = None
    caches: bool | None = None
    """Whether its prefix cache is on."""
    ranks: tuple[int, int] | None = None
    priority: Priority | None = None
    why_priority: str = ""
    contexts: Mapping[str, int] = field(default_factory=dict)
    """Context lengths by model, where they differ."""


def llamacpp_told(props: Mapping[str, Any]) -> Told:
    """Read llama.cpp's `/props`: slots, the context of one, whether it sees, its build."""
    defaults, modalities = props.get("default_generation_settings"), props.get("modalities")
    vision = modalities.get("vision") if isinstance(modalities, dict) else None
    context = count(defaults.get("n_ctx")) if isinstance(defaults, dict) else 0
    return Told(
        version=str(props.get("build_info") or ""),
        slots=count(props.get("total_slots")),
        context=context,
        kv_tokens=context,
        images=vision if isinstance(vision, bool) else None,
    )


def sglang_told(info: Mapping[str, Any]) -> Told:
    """Read SGLang's `/server_info`.

    Its trap: a request without a priority ranks below every number unless `--default-priority-value` is set. Then a
    batch sent far behind would still go before plain live requests of others; so without it nothing is sent.
    """
    if not info:
        return Told()
    default, low_first = info.get("default_priority_value"), info.get("schedule_low_priority_values_first") is True
    parser = info.get("tool_call_parser", "")
    told = Told(
        version=str(info.get("version") or ""),
        slots=count(info.get("effective_max_running_requests_per_dp")) or count(info.get("max_running_requests")),
        context=count(info.get("context_length")),
        kv_tokens=count(info.get("max_total_num_tokens")),
        tools=None if parser == "" else parser is not None,
        caches=not info["disable_radix_cache"] if isinstance(info.get("disable_radix_cache"), bool) else None,
        priority="never",
    )
    if info.get("enable_priority_scheduling") is not True:
        return replace(told, why_priority="it runs without --enable-priority-scheduling")
    if not isinstance(default, int) or isinstance(default, bool):
        return replace(told, why_priority="without --default-priority-value, plain requests would rank below batches")
    ranks = (default, default + BEHIND) if low_first else (default, default - BEHIND)
    return replace(told, ranks=ranks, priority="send", why_priority="it runs with --enable-priority-scheduling")


def vllm_told(version: Mapping[str, Any], info: Mapping[str, Any], metrics: bytes) -> Told:
    """Read vLLM's version, its policy (told in its development mode only), and its cache: its size, and if it is on.

    Older versions refuse a priority without `--scheduling-policy priority`; newer ones take it and do not heed it.
    """
    line = re.search(rb"^vllm:cache_config_info\{([^}\n]*)\}", metrics, re.MULTILINE)
    cache = dict(re.findall(rb'(\w+)="([^"]*)"', line[1])) if line is not None else {}
    caches = cache.get(b"enable_prefix_caching")
    told = Told(
        version=str(version.get("version") or ""),
        caches=None if caches is None else caches.lower() == b"true",
        kv_tokens=_number(cache.get(b"num_gpu_blocks")) * _number(cache.get(b"block_size")),
    )
    config = info.get("vllm_config")
    scheduler = config.get("scheduler_config") if isinstance(config, dict) else None
    policy = scheduler.get("policy") if isinstance(scheduler, dict) else None
    if policy is None:
        return told
    heeds: Priority = "send" if policy == "priority" else "never"
    return replace(told, priority=heeds, why_priority=f"it runs with --scheduling-policy {policy}")


def ollama_told(version: Mapping[str, Any], running: Mapping[str, Any], pages: Sequence[Mapping[str, Any]]) -> Told:
    """Read Ollama's pages; a thing is said to work if any of its models can do it."""
    lists = [page["capabilities"] for page in pages if isinstance(page.get("capabilities"), list)]
    loaded = [one for one in running.get("models") or () if isinstance(one, dict)]
    return Told(
        version=str(version.get("version") or ""),
        images=any("vision" in one for one in lists) if lists else None,
        tools=any("tools" in one for one in lists) if lists else None,
        contexts={str(one.get("model")): count(one.get("context_length")) for one in loaded},
    )


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0


def count(value: Any) -> int:
    """Return a positive whole number, or 0 for whatever else stands there."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
