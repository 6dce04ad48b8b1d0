"""The contract of an engine: Messages in, Messages out, whatever runs behind it.

One behavioural suite (`tests/engines/`) runs on every implementation, the simulator included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from standby.records import Load
from standby.wire.messages import CountParams, Event, Message, MessageParams, check_cap


class CacheProfile(StrEnum):
    """When a prompt prefix that one request computed can be used by the next (scheduling (a) 1)."""

    SHARED_AT_ONCE = "shared_at_once"
    SHARED_AFTER_FIRST_TOKEN = "shared_after_first_token"  # noqa: S105 - a token of text
    PER_SLOT = "per_slot"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an endpoint declares about itself."""

    name: str
    slots: int
    """How many requests it works on at once."""
    cache: CacheProfile
    yields_to_live: bool
    """Whether the engine itself puts batch work behind live work, token by token."""
    pauses_for_live: bool = False
    """Whether live work gets the whole of it within one step, so that batches may have every slot meanwhile."""
    kv_tokens: int = 0
    """Tokens that its KV cache holds, for `per_slot` those of one slot; 0 if nobody knows."""
    pins_live: bool = False
    """Whether live requests are told their slot, too: for all that it does comes from here, and its slots keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that an engine serves (contract 5)."""

    id: str
    display_name: str
    created_us: int
    max_input_tokens: int
    """0 if the engine does not tell, as many a chat-completions server."""
    max_output_tokens: int
    """0 if the engine does not tell."""
    features: frozenset[str] = frozenset()
    """What it can do, out of `wire.models.FEATURES`."""


class Watch(Protocol):
    """Who wants to see an answer grow: admission measures the time between tokens, gates wait for the first."""

    def tokens(self, count: int) -> None:
        """Say that so many more tokens of the answer are out, now; the first call is the first token."""
        ...

    def prompt(self, tokens: int, reused: int) -> None:
        """Say how long the prompt of a whole answer was, and how much of it came out of the engine's cache.

        Both as the engine counts, breakpoints or not (usage shows only what lies before these). Not called by an
        engine that does not tell.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an engine may want to know about a request beside its params."""

    workspace_id: str = ""
    """Whose prompt cache it may read and write (contract 9.1, rule 11)."""
    batch_id: str = ""
    """Empty for a live request."""
    custom_id: str = ""
    """Empty for a live request."""
    attempt: int = 1
    """Which try at this item this is, from 1."""
    simulate: str = ""
    """What the header `standby-simulate` asked for; only the simulator heeds it."""
    watch: Watch | None = None
    """Told of every arrival of tokens, by whoever talks to the engine; an attempt that fails may have told some."""
    at: str = ""
    """Name of the endpoint of a pool that should be asked first; empty leaves the choice to the pool."""
    sent: Callable[[], None] | None = None
    """Called by a pool when an endpoint gets the request: until then it may wait for room."""
    slot: int | None = None
    """Slot of the engine that keeps the beginning of this prompt; only engines with a cache `per_slot` heed it."""


NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What an engine says of itself in its metrics; None is a number that it does not tell."""

    running: float | None = None
    """Requests that it works on, ours and others'."""
    waiting: float | None = None
    """Requests in its own queue."""
    kv_used: float | None = None
    """Share of its KV cache in use, 0 to 1."""
    prompt_tokens: float | None = None
    """Prompt tokens since its start."""
    cached_tokens: float | None = None
    """Of these, taken from its prefix cache."""
    output_tokens: float | None = None
    """Tokens generated since its start."""


class Engine(Protocol):
    """One endpoint."""

    @property
    def profile(self) -> EngineProfile:
        """What it declares; may change after a restart."""
        ...

    async def start(self) -> None:
        """Get ready to work; returns as soon as work may be sent, even if it would wait (`ready` tells)."""
        ...

    async def close(self) -> None:
        """Stop; child processes included."""
        ...

    def ready(self) -> bool:
        """Whether an attempt started now can be expected to work."""
        ...

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request; raises `EngineError`, or `InvalidParams` for what this engine cannot express.

        `usage` is complete; `usage.service_tier` is left to the caller. Cancelling the task stops the work in
        the engine.
        """
        ...

    def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncIterator[Event]:
        """The same as events (contract 3.5), the first `message_start`, the last `message_stop`.

        Raises `EngineError` before or between events. Closing the iterator stops the work in the engine.
        """
        ...

    async def count_tokens(self, params: CountParams) -> int:
        """Count the tokens of the prompt with the model's own tokenizer and template."""
        ...

    async def models(self) -> list[Model]:
        """List what it serves, newest first."""
        ...

    async def resolve(self, model: str) -> str:
        """Return the id of the model that serves requests for `model`; raises `unknown_model`."""
        ...

    def load(self) -> Load:
        """What it does right now; no I/O."""
        ...

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics; None if it has none or they cannot be read now."""
        ...


class Room(Protocol):
    """One endpoint of a pool, as the scheduler sees it. No I/O but `signals`."""

    @property
    def name(self) -> str:
        """Its name in the settings."""
        ...

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        ...

    def is_ready(self) -> bool:
        """Whether work can be expected to be done there."""
        ...

    def is_on_trial(self) -> bool:
        """Whether it failed so often that one request has to show first that it works again."""
        ...

    def takes(self, model: str) -> bool:
        """Whether it serves this name, as far as is known; a name that was never asked for may be anywhere."""
        ...

    def load(self) -> Load:
        """What we have in flight there."""
        ...

    def gap_s(self, *, now_us: int) -> float | None:
        """Return the time between two tokens of an answer, as seen lately in all traffic; None if none was seen."""
        ...

    def take_rejected(self) -> int:
        """Return how many attempts it refused as overloaded since this was last asked."""
        ...

    def busy_live(self) -> frozenset[int]:
        """Return the slots in which live requests are, of an engine whose profile `pins_live`."""
        ...

    def reading_live(self) -> int:
        """Return the last slot in which the prompt of a live request is being read; -1 if there is none."""
        ...

    def take_taken_over(self) -> frozenset[int]:
        """Return the slots that live requests took from batches since this was last asked."""
        ...

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics; None if it has none or they cannot be read now."""
        ...


@runtime_checkable
class Rooms(Protocol):
    """An engine that is made of endpoints; a pool is one."""

    def rooms(self) -> Sequence[Room]:
        """Return its endpoints, in the order of the settings."""
        ...


async def check_model(engine: Engine, params: MessageParams) -> None:
    """Refuse a model that is not served, and more tokens than it can answer, before any work is done.

    Raises `InvalidParams` with the contract's wording (2.7.3). A name that resolves but is not listed has no known cap.
    """
    served = await engine.resolve(params.model)
    for model in await engine.models():
        if model.id == served:
            check_cap(params, served, model.max_output_tokens)
