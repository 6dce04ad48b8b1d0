"""All settings, in one frozen record, built once: defaults, then the file, then the environment, then flags."""

from __future__ import annotations

import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from standby.errors import SettingError

PREFIX = "STANDBY_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where and how the server listens."""

    host: str = field(default="127.0.0.1", metadata={"doc": "Address to listen on. Other than loopback needs a key."})
    port: int = field(default=8378, metadata={"doc": "Port to listen on; 0 takes a free one.", "min": 0, "max": 65535})
    path_prefix: str = field(default="", metadata={"doc": "Path in front of `/v1`, such as `/llm`."})
    public_url: str = field(
        default="", metadata={"doc": "Base of `results_url`; empty takes the scheme and host of the request."}
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(), metadata={"doc": "Addresses whose `X-Forwarded-Proto`, `-Host` and `-Prefix` are believed."}
    )
    strict_version: bool = field(
        default=False, metadata={"doc": "Answer 400 if `anthropic-version` is missing, instead of taking 2023-06-01."}
    )
    strict_betas: bool = field(
        default=False, metadata={"doc": "Answer 400 for a value in `anthropic-beta` that is not known."}
    )
    shutdown_grace_s: float = field(
        default=20.0, metadata={"doc": "After SIGTERM, how long work in flight may take to finish.", "min": 0}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where data rests."""

    data: str = field(
        default_factory=lambda: platformdirs.user_data_dir("standby"),
        metadata={"doc": "Folder of the database and the blobs.", "default": "the user's data folder"},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Who generates."""

    kind: str = field(
        default="local",
        metadata={"doc": "`local` (embedded, OpenVINO), `llamacpp` (embedded), `simulated`, or the URL of an engine."},
    )
    model: str = field(
        default="", metadata={"doc": "Path of a GGUF file; empty takes the one that comes with Standby."}
    )
    model_name: str = field(default="", metadata={"doc": "Name that clients see; empty derives it from the file."})
    api: str = field(
        default="auto",
        metadata={
            "doc": "What a URL speaks: `chat` (chat-completions), `messages` (the Claude API), or `auto`: ask it.",
            "one_of": ("auto", "chat", "messages"),
        },
    )
    dialect: str = field(
        default="auto",
        metadata={
            "doc": "Which engine speaks chat-completions there; `auto` asks it.",
            "one_of": ("auto", "vllm", "sglang", "llamacpp", "ollama", "openai", "standby", "generic"),
        },
    )
    cache: str = field(
        default="auto",
        metadata={
            "doc": "When a prefix that one request computed helps the next; `auto` takes what is known of the engine.",
            "one_of": ("auto", "shared_at_once", "shared_after_first_token", "per_slot", "none"),
        },
    )
    priority: str = field(
        default="auto",
        metadata={
            "doc": "Whether the engine's own priority puts batches behind live requests; `auto` tries it at the start.",
            "one_of": ("auto", "on", "off"),
        },
    )
    tools: str = field(
        default="auto",
        metadata={
            "doc": "Who makes tool calls valid: the engine (`native`), Standby by a JSON Schema (`schema`), or nobody.",
            "one_of": ("auto", "native", "schema", "off"),
        },
    )
    images: str = field(
        default="auto",
        metadata={"doc": "Whether the model takes images.", "one_of": ("auto", "on", "off")},
    )
    aliases: tuple[str, ...] = field(
        default=("claude-*",),
        metadata={
            "doc": "Other names (with `*`) that are answered for, each by the first model or, as `name=model`, by that "
            "one; replies name the real one."
        },
    )
    api_key: str = field(default="", metadata={"doc": "Key for a remote engine.", "secret": True})
    slots: int = field(
        default=0, metadata={"doc": "Requests the engine works on at once; 0 asks the engine.", "min": 0}
    )
    threads: int = field(
        default=0, metadata={"doc": "Threads of an embedded engine; 0 takes the free cores.", "min": 0}
    )
    kv_cache_mb: int = field(
        default=512,
        metadata={
            "doc": "Memory of the embedded engine's KV cache. llama.cpp gets a cache for each slot if `slots` times "
            "`context` fits, else one for all, with which many slots wrote no more than two on two cores.",
            "min": 16,
        },
    )
    context: int = field(default=0, metadata={"doc": "Context length in tokens; 0 takes the model's.", "min": 0})
    temperature: float = field(
        default=-1.0,
        metadata={
            "doc": "Temperature of requests that name none (the newest SDKs cannot); -1 leaves it to the engine.",
            "min": -1,
            "max": 2,
        },
    )
    first_token_timeout_s: float = field(
        default=120.0, metadata={"doc": "How long an engine may be silent before its first token.", "min": 0.1}
    )
    stall_timeout_s: float = field(
        default=60.0, metadata={"doc": "How long an engine may be silent between tokens.", "min": 0.1}
    )
    connect_timeout_s: float = field(
        default=10.0, metadata={"doc": "How long a connection to an engine may take.", "min": 0.1}
    )
    breaker_failures: int = field(
        default=5,
        metadata={"doc": "Failures in a row after which an endpoint gets no work for a while; 0 never.", "min": 0},
    )
    breaker_pause_s: float = field(
        default=5.0,
        metadata={
            "doc": "First pause of such an endpoint; it doubles up to a minute.",
            "min": 0.01,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """How the simulator behaves."""

    prefill_tokens_s: float = field(
        default=0.0, metadata={"doc": "Prompt tokens a second; 0 takes no time, or the profile's.", "min": 0}
    )
    decode_tokens_s: float = field(
        default=0.0,
        metadata={"doc": "Answer tokens a second of a request alone; 0 takes no time, or the profile's.", "min": 0},
    )
    slots: int = field(default=64, metadata={"doc": "Requests it works on at once.", "min": 1})
    answer_tokens: int = field(
        default=24, metadata={"doc": "Tokens of an answer, unless `max_tokens` is less.", "min": 0}
    )
    answer: str = field(
        default="lorem",
        metadata={
            "doc": "What it says: `lorem` (words that the prompt chooses), `echo` (the last turn), or a template with "
            "`{model}`, `{prompt}`, `{system}`, `{custom_id}`, `{input_tokens}`."
        },
    )
    seed: int = field(default=0, metadata={"doc": "Another seed gives other words."})
    script: str = field(
        default="",
        metadata={"doc": "Scripted answers, outcomes and faults: a file that ends in `.toml`, or a line of rules."},
    )
    profile: str = field(
        default="claude",
        metadata={
            "doc": "What it behaves like: `claude` (the API, its prompt cache included), or an engine with "
            "seats, steps and a prefix cache of its own.",
            "one_of": ("claude", "vllm", "sglang", "llamacpp", "remote"),
        },
    )
    kv_tokens: int = field(
        default=0,
        metadata={"doc": "Tokens that the prefix cache holds; 0 takes the profile's.", "min": 0},
    )
    metrics: str = field(
        default="true",
        metadata={
            "doc": "Whether an engine profile's metrics tell the truth.",
            "one_of": ("true", "missing", "zero", "full", "stale", "noisy"),
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """The life of a batch."""

    window_s: float = field(default=86400.0, metadata={"doc": "Time until a batch expires.", "min": 0.001})
    retention_s: float = field(
        default=29 * 86400.0, metadata={"doc": "Time from `created_at` until results are archived.", "min": 0.001}
    )
    grace_s: float = field(
        default=30.0, metadata={"doc": "How long items in flight may go on after a cancel or the expiry.", "min": 0}
    )
    counts: str = field(
        default="live",
        metadata={
            "doc": "`live`: counts move while a batch runs; `at_end`: all stay in processing.",
            "one_of": ("live", "at_end"),
        },
    )
    order: str = field(
        default="shared",
        metadata={
            "doc": "Which items run first: `shared` brings prompts that begin alike together; `submit` leaves them.",
            "one_of": ("shared", "submit"),
        },
    )
    max_items: int = field(default=100_000, metadata={"doc": "Items of one batch.", "min": 1})
    max_body_mb: int = field(
        default=256, metadata={"doc": "Size of a create's body, in 2^20 bytes, after decoding.", "min": 1}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How batch work is dispatched."""

    admission: str = field(
        default="adaptive",
        metadata={
            "doc": "How many batch items are in flight: `adaptive` (what live traffic leaves, by the gap of tokens) "
            "or `fixed` (always `window`).",
            "one_of": ("adaptive", "fixed"),
        },
    )
    inter_token_ms: float = field(
        default=0.0,
        metadata={"doc": "Time between tokens up to which batches may slow an engine; 0 learns it.", "min": 0},
    )
    inter_token_factor: float = field(
        default=1.5,
        metadata={
            "doc": "Without it: how much batches may slow tokens beside busy live traffic, times a request alone.",
            "min": 1,
            "max": 10,
        },
    )
    idle_share: float = field(
        default=0.86,
        metadata={
            "doc": "Without it: share of an engine's tokens a second that batches get while live traffic is low.",
            "min": 0,
            "max": 1,
        },
    )
    floor: int = field(
        default=1, metadata={"doc": "Batch items in flight an endpoint at least, if there is a slot.", "min": 0}
    )
    waste_share: float = field(
        default=0.05,
        metadata={"doc": "Share of batch tokens that may be lost by items that give way.", "min": 0, "max": 1},
    )
    deadline_floor: float = field(
        default=0.25,
        metadata={"doc": "Share of an endpoint that batches keep when they would miss their end.", "min": 0, "max": 1},
    )
    window: int = field(
        default=0,
        metadata={"doc": "Most batch items in flight an endpoint; 0 takes its slots less `live_slots`.", "min": 0},
    )
    live_slots: int = field(default=1, metadata={"doc": "Slots that batches never use.", "min": 0})
    lease_s: float = field(default=30.0, metadata={"doc": "How long a lease lasts without a heartbeat.", "min": 0.05})
    commit_ms: float = field(default=20.0, metadata={"doc": "Longest wait of a result for its commit.", "min": 0})
    commit_items: int = field(default=64, metadata={"doc": "Most results of one commit.", "min": 1})
    attempts: int = field(
        default=5, metadata={"doc": "Attempts that may break or time out before an item is errored.", "min": 1}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Limits of a workspace; 0 means none."""

    batch_requests_per_minute: int = field(default=0, metadata={"doc": "HTTP requests to batch routes.", "min": 0})
    live_requests_per_minute: int = field(default=0, metadata={"doc": "HTTP requests to messages routes.", "min": 0})
    enqueued_items: int = field(default=0, metadata={"doc": "Batch items waiting for a result.", "min": 0})
    enqueued_tokens: int = field(
        default=0, metadata={"doc": "Prompt tokens of batch items waiting for a result, as estimated.", "min": 0}
    )
    spend_per_day: float = field(
        default=0.0, metadata={"doc": "Dollars that may be charged a day, UTC.", "min": 0, "max": 9e6}
    )
    spend_per_month: float = field(
        default=0.0, metadata={"doc": "Dollars that may be charged a month, UTC.", "min": 0, "max": 9e6}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged. Prompts and answers never are."""

    level: str = field(
        default="info",
        metadata={"doc": "Least level that is written.", "one_of": ("debug", "info", "warning", "error")},
    )
    format: str = field(
        default="auto",
        metadata={"doc": "`json`, `text`, or `auto`: text on a terminal.", "one_of": ("auto", "json", "text")},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """What a model costs, in dollars a million tokens: `[prices."NAME"]`. -1 leaves a column to the usual multiple."""

    same_as: str = field(default="", metadata={"doc": "A model of Claude whose price it has; replaces all columns."})
    input: float = field(default=-1.0, metadata={"doc": "Plain prompt tokens.", "min": -1})
    output: float = field(default=-1.0, metadata={"doc": "Answer tokens.", "min": -1})
    write_5m: float = field(default=-1.0, metadata={"doc": "5-minute cache writes; -1 is 1.25 x input.", "min": -1})
    write_1h: float = field(default=-1.0, metadata={"doc": "1-hour cache writes; -1 is 2 x input.", "min": -1})
    read: float = field(default=-1.0, metadata={"doc": "Cache reads; -1 is 0.1 x input.", "min": -1})
    batch_factor: float = field(default=0.5, metadata={"doc": "What a batch pays of it.", "min": 0, "max": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. `[table] key` in the file, `STANDBY_TABLE_KEY` in the environment."""

    server: ServerSettings = field(default_factory=ServerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    simulator: SimulatorSettings = field(default_factory=SimulatorSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    log: LogSettings = field(default_factory=LogSettings)
    endpoints: tuple[tuple[str, EngineSettings], ...] = ()
    """By name: `[endpoints.NAME]`, with the keys of `[engine]`, which gives what they leave out. Empty: one endpoint,
    `[engine]` itself."""
    prices: tuple[tuple[str, PriceSettings], ...] = ()
    """By model: `[prices."NAME"]`."""


EMULATOR: Mapping[str, Any] = {"batch.counts": "at_end", "server.strict_version": True, "server.strict_betas": True}
"""Other defaults of the simulator: what the service itself does, as tests against it should see."""


def load_settings(
    file: Path | None = None, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Build the settings; `flags` are `{"server.port": 8000}`; raises `SettingError` that names the key."""
    file_values, named = _from_file(file)
    given = [(f"{file}: {key}", key, value) for key, value in file_values.items()]
    for key, (name, text) in _from_environ(os.environ if environ is None else environ).items():
        given.append((name, key, _parse(Settings(), key, text, source=name)))
    given += [(key, key, value) for key, value in (flags or {}).items()]
    settings = Settings()
    for key, value in _defaults(given).items():
        settings = _set(settings, key, value, source=key)
    for source, key, value in given:
        settings = _set(settings, key, value, source=source)
    return replace(
        settings,
        endpoints=_endpoints(settings.engine, named["endpoints"], file),
        prices=tuple((name, _price(values, f"{file}: prices.{name}")) for name, values in named["prices"].items()),
    )


def _defaults(given: list[tuple[str, str, Any]]) -> Mapping[str, Any]:
    """Other defaults, if the last word about the engine is the simulator."""
    kinds = [value for _, key, value in given if key == "engine.kind"]
    return EMULATOR if kinds and kinds[-1] == "simulated" else {}


def _endpoints(
    defaults: EngineSettings, found: Mapping[str, Mapping[str, Any]], file: Path | None
) -> tuple[tuple[str, EngineSettings], ...]:
    endpoints = []
    for name, values in found.items():
        one = replace(Settings(), engine=defaults)
        source = f"{file}: endpoints.{name}"
        if "kind" not in values:
            raise SettingError(f"{source}.kind: is missing; name the engine, or its URL")
        for key, value in values.items():
            one = _set(one, f"engine.{key}", value, source=f"{source}.{key}")
        endpoints.append((name, one.engine))
    return tuple(endpoints)


def _price(values: Mapping[str, Any], source: str) -> PriceSettings:
    price = PriceSettings()
    for key, value in values.items():
        if key not in {f.name for f in fields(PriceSettings)}:
            raise SettingError(f"{source}.{key}: no such setting; `standby config` lists them")
        checked = _check(PriceSettings, key, value, source=f"{source}.{key}")
        price = replace(price, **{key: checked})
    return price


def known_keys() -> dict[str, dict[str, Any]]:
    """Map every key to its documentation: `doc`, `default`, `secret`."""
    found: dict[str, dict[str, Any]] = {}
    defaults = Settings()
    for table in _tables():
        for entry in fields(getattr(defaults, table)):
            default = entry.metadata.get("default", getattr(getattr(defaults, table), entry.name))
            found[f"{table}.{entry.name}"] = {**entry.metadata, "default": default}
    return found


NAMED = ("endpoints", "prices")
"""Tables that hold tables by name."""


def _tables() -> list[str]:
    return [table.name for table in fields(Settings) if table.name not in NAMED]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One setting for people; a secret that is set is masked."""

    table: str
    """As it stands in the file: `server`, `endpoints."gpu1"`."""
    name: str
    value: Any
    doc: str
    is_masked: bool


def shown(settings: Settings) -> list[Shown]:
    """List all settings with their values, table by table."""
    tables = [(table, getattr(settings, table)) for table in _tables()]
    tables += [(f'endpoints."{name}"', endpoint) for name, endpoint in settings.endpoints]
    tables += [(f'prices."{model}"', price) for model, price in settings.prices]
    return [_shown(table, entry, getattr(values, entry.name)) for table, values in tables for entry in fields(values)]


def _shown(table: str, entry: Field[Any], value: Any) -> Shown:
    is_masked = bool(value and entry.metadata.get("secret"))
    doc = entry.metadata["doc"]
    return Shown(table=table, name=entry.name, value="***" if is_masked else value, doc=doc, is_masked=is_masked)


def _from_file(file: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, dict[str, Any]]]]:
    """Read the plain settings, and the tables that hold tables by name."""
    document = {} if file is None else _document(file)
    named = {table: document.pop(table, {}) for table in NAMED}
    for table, entries in named.items():
        if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
            raise SettingError(f"{file}: {table}: each entry is a table of its own, as in [{table}.NAME]")
    flat: dict[str, Any] = {}
    for table, values in document.items():
        if not isinstance(values, dict):
            raise SettingError(f"{file}: {table}: settings stand in tables, as in [server]")
        flat.update({f"{table}.{name}": value for name, value in values.items()})
    return flat, named


def _document(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(f"{file}: no such file; --config needs a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{file}: {error}") from None


def _from_environ(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = {f"{PREFIX}{key.upper().replace('.', '_')}": key for key in known_keys()}
    found = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if name not in names:
            raise SettingError(f"{name}: no such setting; `standby config` lists them")
        found[names[name]] = (name, value)
    return found


OTHER_VARIABLES = frozenset({"STANDBY_CRASH_AT", "STANDBY_CONFIG", "STANDBY_CACHE"})


def _set(settings: Settings, key: str, value: Any, *, source: str) -> Settings:
    table, _, name = key.partition(".")
    part = getattr(settings, table, None)
    if not is_dataclass(part) or name not in {f.name for f in fields(part)}:
        raise SettingError(f"{source}: no such setting; `standby config` lists them")
    checked = _check(type(part), name, value, source=source)
    changed = replace(part, **{name: checked})  # type: ignore[type-var]
    return replace(settings, **{table: changed})  # type: ignore[arg-type]


def _check(owner: type, name: str, value: Any, *, source: str) -> Any:
    kind = typing.get_type_hints(owner)[name]
    metadata: Mapping[str, Any] = next(f.metadata for f in fields(owner) if f.name == name)
    if kind is float and type(value) is int:
        value = float(value)
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise SettingError(f"{source}: must be a list of strings")
        return tuple(value)
    if type(value) is not kind:
        raise SettingError(f"{source}: must be {_words(kind)}, not {value!r}")
    if "min" in metadata and not value >= metadata["min"]:
        raise SettingError(f"{source}: must be at least {metadata['min']}, not {value!r}")
    if "max" in metadata and not value <= metadata["max"]:
        raise SettingError(f"{source}: must be at most {metadata['max']}, not {value!r}")
    if "one_of" in metadata and value not in metadata["one_of"]:
        raise SettingError(f"{source}: must be one of {', '.join(metadata['one_of'])}, not {value!r}")
    return value


def _parse(settings: Settings, key: str, text: str, *, source: str) -> Any:
    table, _, name = key.partition(".")
    kind = typing.get_type_hints(type(getattr(settings, table)))[name]
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if kind in {int, float}:
            return kind(text)
    except (KeyError, ValueError):
        raise SettingError(f"{source}: must be {_words(kind)}, not {text!r}") from None
    if kind is str:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _words(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
