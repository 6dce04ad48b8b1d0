"""The shell around admission: looks at every endpoint a few times a second and asks its controller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog
from prometheus_client import CollectorRegistry, Gauge

from standby.config import WorkerSettings
from standby.engines.base import Engine, EngineProfile, Room, Rooms, Signals
from standby.records import SECOND, Clock, Load
from standby.scheduler.admission import Adaptive, Aims, Controller, FixedWindow, Seen, kept_of

TICK_S = 0.25
SIGNALS_US = SECOND // 2
"""How often an engine's own metrics are read."""
OLD_US = 2 * SECOND
"""How long what they said counts."""
ALONE = "engine"
"""Name of the endpoint that an engine without endpoints is."""

log = structlog.get_logger("standby.admission")


class AdmissionMeters:
    """What is told of admission (docs/reference/metrics.md)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register."""
        self.allowed = Gauge(
            "standby_admission_allowed",
            "Batch items that may be in flight at an endpoint.",
            ["endpoint"],
            registry=registry,
        )
        self.target = Gauge(
            "standby_admission_target_seconds",
            "Time between two tokens of an answer that admission aims at; NaN if it is not known yet.",
            ["endpoint"],
            registry=registry,
        )
        self.yielded = Gauge(
            "standby_admission_surplus",
            "Batch items that should give way to live traffic now.",
            ["endpoint"],
            registry=registry,
        )


class Control:
    """One for all endpoints of an engine. `run_once` is one look at them."""

    def __init__(
        self, engine: Engine, settings: WorkerSettings, *, clock: Clock, meters: AdmissionMeters | None = None
    ) -> None:
        """Take a controller for each endpoint; those that pause batches for live work by themselves have the fixed one.

        So has an engine without endpoints.
        """
        self.push = 0.0
        """How much deadlines press, 0 to 1; the worker's policy says it."""
        self._rooms: Sequence[Room] = engine.rooms() if isinstance(engine, Rooms) else (_Whole(engine),)
        self._clock = clock
        self._meters = meters
        self._live_slots = settings.live_slots
        is_adaptive = settings.admission == "adaptive" and isinstance(engine, Rooms)
        self._controllers = {
            room.name: _adaptive(settings) if is_adaptive and not room.profile.pauses_for_live else _fixed(settings)
            for room in self._rooms
        }
        self._by_name = {room.name: room for room in self._rooms}
        self._signals = {
            room.name: _Reader(room, clock)
            for room in self._rooms
            if isinstance(self._controllers[room.name], Adaptive)  # the fixed one does not look at them
        }

    async def run_once(self) -> float | None:
        """Look at every endpoint; returns when to look again."""
        for room in self._rooms:
            self._look(room)
        return TICK_S

    async def close(self) -> None:
        """Stop reading metrics."""
        await asyncio.gather(*(reader.close() for reader in self._signals.values()))

    def rooms(self) -> Sequence[Room]:
        """Return the endpoints."""
        return self._rooms

    def kept(self, name: str) -> int:
        """Return how many slots batches leave to live requests there, of an engine that is told the slots of both."""
        profile = self._by_name[name].profile
        return kept_of(self._live_slots, profile.slots) if profile.pins_live else 0

    def controller(self, name: str) -> Controller:
        """Return the controller of an endpoint."""
        return self._controllers[name]

    def allowed(self, name: str, load: Load) -> int:
        """Return how many batch items may be in flight there: one where an endpoint is tried out after failures."""
        allowed = self._controllers[name].allowed(load)
        return min(1, allowed) if self._by_name[name].is_on_trial() else allowed

    def surplus(self, name: str) -> int:
        """Return how many of the newest batch items there should give way now."""
        return self._controllers[name].surplus(self._by_name[name].load())

    def takes_prompt(self, name: str, unread: int, prompt_tokens: int) -> bool:
        """Whether a prompt may be sent there beside `unread` tokens of batch prompts without a first token."""
        return self._controllers[name].takes_prompt(self._by_name[name].load(), unread, prompt_tokens)

    def sent(self, name: str, prompt_tokens: int) -> None:
        """Count a prompt that was sent there; tokens that should be in its cache left out."""
        self._controllers[name].sent(prompt_tokens)

    def was_read(self, name: str, prompt_tokens: int, seconds: float) -> None:
        """Tell how long such a prompt took there to its first token."""
        self._controllers[name].was_read(prompt_tokens, seconds)

    def produced(self, name: str, tokens: int) -> None:
        """Count tokens of batch answers there."""
        self._controllers[name].produced(tokens)

    def wasted(self, name: str, tokens: int) -> None:
        """Count tokens of an answer there that had to give way."""
        self._controllers[name].wasted(tokens)

    def state(self) -> Mapping[str, Mapping[str, float | None]]:
        """Return what each controller knows, by endpoint, for people."""
        return {name: controller.state() for name, controller in self._controllers.items()}

    def _look(self, room: Room) -> None:
        controller, load, now_us = self._controllers[room.name], room.load(), self._clock()
        reader = self._signals.get(room.name)
        controller.see(
            Seen(
                now_us=now_us,
                load=load,
                gap_s=room.gap_s(now_us=now_us),
                signals=None if reader is None else reader.latest(),
                rejected=room.take_rejected(),
                push=self.push,
            )
        )
        if self._meters is not None:
            target_s = controller.state().get("target_s")
            self._meters.allowed.labels(room.name).set(self.allowed(room.name, load))
            self._meters.target.labels(room.name).set(float("nan") if target_s is None else target_s)
            self._meters.yielded.labels(room.name).set(controller.surplus(load))


class _Reader:
    """Reads the metrics of one endpoint beside everything else: a slow one makes nobody wait."""

    def __init__(self, room: Room, clock: Clock) -> None:
        self._room = room
        self._clock = clock
        self._asked_us = 0
        self._read_us = 0
        self._told: Signals | None = None
        self._task: asyncio.Task[None] | None = None

    def latest(self) -> Signals | None:
        """Return what was last read if it is not old, and read again if it is time to."""
        now_us = self._clock()
        if now_us - self._asked_us >= SIGNALS_US and (self._task is None or self._task.done()):
            self._asked_us = now_us
            self._task = asyncio.get_running_loop().create_task(self._read())
        return self._told if now_us - self._read_us <= OLD_US else None

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            self._told = await self._room.signals() if self._room.is_ready() else None
        except Exception as error:  # noqa: BLE001 - whatever it is, there are no metrics
            log.warning("metrics cannot be read", endpoint=self._room.name, error=type(error).__name__)
            self._told = None
        self._read_us = self._clock()


def _fixed(settings: WorkerSettings) -> Controller:
    return FixedWindow(window=settings.window, live_slots=settings.live_slots)


def _adaptive(settings: WorkerSettings) -> Controller:
    return Adaptive(
        Aims(
            live_slots=settings.live_slots,
            most=settings.window,
            target_s=settings.inter_token_ms / 1000,
            factor=settings.inter_token_factor,
            share=settings.idle_share,
            floor=settings.floor,
            waste=settings.waste_share,
            deadline_floor=settings.deadline_floor,
        )
    )


class _Whole:
    """An engine that is one endpoint, as a room."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """The name that `build_engine` gives to one endpoint."""
        return ALONE

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        return self._engine.profile

    def is_ready(self) -> bool:
        """Whether it is up."""
        return self._engine.ready()

    def is_on_trial(self) -> bool:
        """Nobody counts its failures."""
        return False

    def takes(self, model: str) -> bool:  # noqa: ARG002 - there is no other
        """It is the only one."""
        return True

    def load(self) -> Load:
        """What it does."""
        return self._engine.load()

    def gap_s(self, *, now_us: int) -> float | None:  # noqa: ARG002 - nobody watches
        """Nobody measures."""
        return None

    def take_rejected(self) -> int:
        """Nobody counts."""
        return 0

    def busy_live(self) -> frozenset[int]:
        """Nobody is told a slot."""
        return frozenset()

    def reading_live(self) -> int:
        """Nobody is told a slot."""
        return -1

    def take_taken_over(self) -> frozenset[int]:
        """Nobody is told a slot."""
        return frozenset()

    async def signals(self) -> Signals | None:
        """Read its metrics."""
        return await self._engine.signals()
