"""What an engine says of itself when it is asked, without making it generate: who it is and what it can do.

Each fact says how it is known: asked (the engine said so), tried, set (by the operator), or assumed (of its kind).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from standby.config import EngineSettings
from standby.engines.base import CacheProfile, Model
from standby.engines.chat.connection import Connection
from standby.engines.chat.told import Priority, Told, count, llamacpp_told, ollama_told, sglang_told, vllm_told
from standby.engines.findings import How
from standby.errors import EngineError, Failure
from standby.records import SECOND
from standby.wire.chat.dialect import BY_OWNER, DIALECTS, GENERIC, HOST, LLAMACPP, OLLAMA, OPENAI, SGLANG, VLLM, Dialect

DEFAULT_SLOTS = 8
"""Of an engine that does not tell, such as vLLM."""
MOST_SHOWN = 20
"""Models that Ollama is asked about one by one."""

CACHES: Mapping[str, CacheProfile] = {
    HOST.name: CacheProfile.SHARED_AFTER_FIRST_TOKEN,
    VLLM.name: CacheProfile.SHARED_AT_ONCE,
    SGLANG.name: CacheProfile.SHARED_AFTER_FIRST_TOKEN,
    LLAMACPP.name: CacheProfile.PER_SLOT,
    OLLAMA.name: CacheProfile.PER_SLOT,
    OPENAI.name: CacheProfile.SHARED_AFTER_FIRST_TOKEN,
    GENERIC.name: CacheProfile.SHARED_AFTER_FIRST_TOKEN,
}
"""When a computed prefix helps the next request, by the kind of engine (scheduling (a) 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an engine that was only asked."""

    dialect: Dialect
    models: tuple[Model, ...]
    cache: CacheProfile
    slots: int
    priority: Priority
    """Whether `priority` may be sent, must be tried first, or may not be sent."""
    kv_tokens: int = 0
    """Tokens that its KV cache holds, or that of a slot; 0 if it does not tell."""
    version: str = ""
    why_priority: str = ""
    how: Mapping[str, How] = field(default_factory=dict)
    """By the names of these fields, and `tools` and `images` of the dialect."""


async def look(connection: Connection, settings: EngineSettings, *, given: Dialect | None, slots: int) -> Known:
    """Ask an engine who it is; `given` is what the caller knows better. Raises `EngineError` if it is not there."""
    entries = read_entries(await connection.ask("/v1/models"))
    chosen = given or (None if settings.dialect == "auto" else DIALECTS[settings.dialect])
    dialect = chosen or await _recognise(connection, entries)
    connection.dialect = dialect
    told = await _details(connection, dialect, entries)
    known = conclude(dialect, told, entries, settings)
    how: dict[str, How] = {**known.how, "dialect": "set" if chosen else "asked"}
    if dialect is GENERIC and not chosen:
        how["dialect"] = "assumed"
    if slots:
        return replace(known, slots=slots, how={**how, "slots": "set"})
    return replace(known, how=how)


def read_entries(listed: Any) -> list[dict[str, Any]]:
    """Return the entries of `/v1/models`; raises `EngineError` if it is no such list."""
    try:
        return [entry for entry in listed["data"] or () if isinstance(entry["id"], str)]
    except (KeyError, TypeError):
        raise EngineError(Failure.BROKEN, "the engine's list of models cannot be read") from None


def conclude(dialect: Dialect, told: Told, entries: Sequence[dict[str, Any]], settings: EngineSettings) -> Known:
    """Put together what is assumed of the kind, what the engine said, and what was set; the later wins. Pure."""
    how: dict[str, How] = {}
    dialect = _abilities(dialect, told, settings, how)
    priority, why = _priority(dialect, told, settings, how)
    if priority == "send":
        dialect = dialect.with_priority()
    elif dialect.priorities is not None:
        dialect = replace(dialect, priorities=None)
    return Known(
        dialect=dialect,
        models=tuple(read_model(entry, told, dialect) for entry in entries),
        cache=_cache(dialect, told, settings, how),
        slots=_slots(told, entries, settings, how),
        priority=priority,
        kv_tokens=told.kv_tokens or next((count(entry.get("kv_tokens")) for entry in entries), 0),
        version=told.version,
        why_priority=why,
        how=how,
    )


def _abilities(dialect: Dialect, told: Told, settings: EngineSettings, how: dict[str, How]) -> Dialect:
    how["tools"] = how["images"] = "assumed"
    if told.ranks is not None:
        dialect = replace(dialect, ranks=told.ranks)
    if told.images is not None:
        how["images"] = "asked"
        dialect = replace(
            dialect, images=(dialect.images if dialect.images != "off" else "data") if told.images else "off"
        )
    if told.tools is False and dialect.tools == "native":
        how["tools"] = "asked"
        dialect = replace(dialect, tools="schema")
    if settings.tools != "auto":
        how["tools"] = "set"
        chosen: Mapping[str, Literal["native", "schema", "off"]] = {
            "native": "native",
            "schema": "schema",
            "off": "off",
        }
        dialect = replace(dialect, tools=chosen[settings.tools])
    if settings.images != "auto":
        how["images"] = "set"
        on: Literal["data", "any"] = "data" if dialect.images == "off" else dialect.images
        dialect = replace(dialect, images=on if settings.images == "on" else "off")
    return dialect


def _priority(dialect: Dialect, told: Told, settings: EngineSettings, how: dict[str, How]) -> tuple[Priority, str]:
    how["priority"] = "set" if settings.priority != "auto" else "assumed" if told.priority is None else "asked"
    if settings.priority == "off":
        return "never", "the settings forbid it"
    if dialect.ranks is None:
        return "never", f"{dialect.name} has none"
    if settings.priority == "on":
        return "send", "the settings ask for it"
    if told.priority is not None:
        return told.priority, told.why_priority
    if dialect.priorities is not None:
        return "send", "it is our own"
    return ("try", "not tried yet") if dialect.name == VLLM.name else ("never", "it does not say that it heeds one")


def _cache(dialect: Dialect, told: Told, settings: EngineSettings, how: dict[str, How]) -> CacheProfile:
    how["cache"] = "assumed"
    if settings.cache != "auto":
        how["cache"] = "set"
        return CacheProfile(settings.cache)
    if told.caches is not None:
        how["cache"] = "asked"
    return CacheProfile.NONE if told.caches is False else CACHES[dialect.name]


def _slots(told: Told, entries: Sequence[dict[str, Any]], settings: EngineSettings, how: dict[str, How]) -> int:
    own = told.slots or next((count(entry.get("slots")) for entry in entries), 0)
    how["slots"] = "set" if settings.slots else "asked" if own else "assumed"
    return settings.slots or own or DEFAULT_SLOTS


def read_model(entry: Mapping[str, Any], told: Told, dialect: Dialect) -> Model:
    """Read one entry of `/v1/models`."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    context = (
        told.contexts.get(entry["id"], 0)
        or told.context
        or count(entry.get("max_model_len"))
        or count(entry.get("context_length"))
        or count(meta.get("n_ctx"))
        or count(meta.get("n_ctx_train"))
    )
    return Model(
        id=entry["id"],
        display_name=entry["id"],
        created_us=count(entry.get("created")) * SECOND,
        max_input_tokens=context,
        max_output_tokens=context,
        features=features_of(dialect),
    )


def features_of(dialect: Dialect) -> frozenset[str]:
    """Name what an engine can do in the words of `wire.models.FEATURES`."""
    found = {"structured_outputs"}
    if dialect.images != "off":
        found.add("image_input")
    if dialect.files:
        found.add("pdf_input")
    if dialect.thinking is not None:
        found.add("thinking")
    return frozenset(found)


async def _recognise(connection: Connection, entries: Sequence[dict[str, Any]]) -> Dialect:
    """Tell the kind of engine by the owner of its models, or by the pages that only one kind has."""
    owners = {str(entry.get("owned_by")) for entry in entries}
    known = {BY_OWNER[owner].name: BY_OWNER[owner] for owner in owners if owner in BY_OWNER}
    if len(known) == 1 and OPENAI.name not in known:
        return next(iter(known.values()))
    if urlsplit(connection.base).hostname == "api.openai.com":
        return OPENAI
    props, ollama, sglang, vllm = await asyncio.gather(
        page(connection, "/props"),
        page(connection, "/api/version"),
        _server_info(connection),
        page(connection, "/version"),
    )
    if "total_slots" in props or "default_generation_settings" in props:
        return LLAMACPP
    if "enable_priority_scheduling" in sglang or "disable_radix_cache" in sglang:
        return SGLANG
    if vllm.get("version") and b"vllm:" in await _metrics(connection):
        return VLLM
    return OLLAMA if isinstance(ollama.get("version"), str) else GENERIC


async def _details(connection: Connection, dialect: Dialect, entries: Sequence[dict[str, Any]]) -> Told:
    """Read the pages that this kind of engine has."""
    match dialect.name:
        case "llamacpp":
            return llamacpp_told(await page(connection, "/props"))
        case "sglang":
            return sglang_told(await _server_info(connection))
        case "vllm":
            version, info, metrics = await asyncio.gather(
                page(connection, "/version"), page(connection, "/server_info?config_format=json"), _metrics(connection)
            )
            return vllm_told(version, info, metrics)
        case "ollama":
            return await _ollama(connection, entries)
        case _:
            return Told()


async def _ollama(connection: Connection, entries: Sequence[dict[str, Any]]) -> Told:
    """Read Ollama's version, the contexts of the models that are loaded, and what they all can do."""
    shown = [page(connection, "/api/show", {"model": entry["id"]}) for entry in entries[:MOST_SHOWN]]
    version, running, *pages = await asyncio.gather(
        page(connection, "/api/version"), page(connection, "/api/ps"), *shown
    )
    return ollama_told(version, running, pages)


async def page(connection: Connection, path: str, body: Any = None) -> dict[str, Any]:
    """Ask for a page that may not be there; empty if it is not, or is no JSON object."""
    try:
        found = await connection.ask(path, body)
    except EngineError:
        return {}
    return found if isinstance(found, dict) else {}


async def _server_info(connection: Connection) -> dict[str, Any]:
    """Ask for SGLang's page by its newer and its older name."""
    return await page(connection, "/server_info") or await page(connection, "/get_server_info")


async def _metrics(connection: Connection) -> bytes:
    try:
        return await connection.read("/metrics")
    except EngineError:
        return b""
