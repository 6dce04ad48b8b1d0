"""What part of the prompts comes out of the prefix cache, by the order of a batch and the engine's cache.

A bare driver keeps a window of items in flight through the simulator, in virtual time: in the order of submission, in
groups of equal system prompts, in our order alone, and in our order through the gates. The bound is what a cache
without limits would reuse of the same prompts, one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.rows import Row
from bench.virtual import VirtualLoop, run_virtually
from standby.config import SimulatorSettings
from standby.emulation.clock import MovableClock
from standby.engines.base import Context
from standby.engines.simulated import Simulated
from standby.engines.simulated.chains import chain_of
from standby.engines.simulated.prefixes import Shared
from standby.engines.simulated.profiles import PROFILES
from standby.engines.simulated.tokens import count_prompt
from standby.errors import EngineError
from standby.records import BatchId, Slice
from standby.scheduler.dispatch import MOST_HELD
from standby.scheduler.gates import Gates, Place, RoomView, Want
from standby.scheduler.plan import Asked, Plan, arrange, runs_of
from standby.scheduler.prompts import read_prompt
from standby.scheduler.sharing import Chains, sorted_by_prefix
from standby.wire.messages import MessageParams

MODEL = "claude-haiku-4-5"
BATCH = BatchId("msgbatch_reuse")
ROOM = "engine"
SEED = 7
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TICK_S = 0.25
WORD_TOKENS = 16
"""Tokens of a word in the prompts: long words make a simulation short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One engine to drive: what it is, and what comes between."""

    profile: str
    window: int = 64
    slots: int = 64
    kv_tokens: int = 0
    live_s: float = 0.0
    """Live requests a second, each with a prompt of its own; 0 for none."""

    @property
    def name(self) -> str:
        """Say it in words."""
        kv = f", KV {self.kv_tokens // 1000}K" if self.kv_tokens else ""
        seats = f", {self.slots} slots" if self.profile == "llamacpp" else ""
        return f"{self.profile}{seats}{kv}{', live between' if self.live_s else ''}"


CELLS = (
    Cell(profile="vllm", kv_tokens=60_000),
    Cell(profile="vllm", kv_tokens=200_000),
    Cell(profile="sglang", kv_tokens=60_000),
    Cell(profile="sglang", kv_tokens=200_000),
    Cell(profile="remote"),
    Cell(profile="llamacpp", slots=2, window=2),
    Cell(profile="llamacpp", slots=4, window=4),
)
LIVE_CELLS = (
    Cell(profile="vllm", slots=72, kv_tokens=60_000, live_s=4.0),
    Cell(profile="vllm", slots=72, kv_tokens=200_000, live_s=4.0),
    Cell(profile="sglang", slots=72, kv_tokens=60_000, live_s=4.0),
    Cell(profile="sglang", slots=72, kv_tokens=200_000, live_s=4.0),
    Cell(profile="remote", slots=72, live_s=4.0),
    Cell(profile="llamacpp", slots=2, window=1, live_s=0.1),
    Cell(profile="llamacpp", slots=4, window=3, live_s=0.1),
)
ORDERS = ("submit", "system prompts", "ours, no gates", "ours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What came of one engine and one order; parts are of all prompt tokens."""

    cell: Cell
    order: str
    reused: float
    bound: float
    seconds: float
    """How long the batch took, in virtual time."""
    gates_us: float
    """What the gates took of each item, in real time."""

    @property
    def of_bound(self) -> float:
        """Return the part of the bound."""
        return self.reused / self.bound


def reuse_rows(*, items: int) -> list[Row]:
    """Measure every engine and order; the target is 95 % of the bound, 90 % with live requests between."""
    rows = []
    for cell in (*CELLS, *LIVE_CELLS):
        row = _row(measure(cell, items=items))
        print(f"{row.name}: {row.ratio}; {row.against}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def measure(cell: Cell, *, items: int, orders: Sequence[str] = ORDERS) -> list[Reuse]:
    """Drive one engine in each order; for a plot, too."""
    work = Work(items)
    bound = _bound(work.params, cell.profile)
    found = []
    for order in orders:
        driver = Driver(work, cell, order)
        run_virtually(driver.run)
        found.append(
            Reuse(
                cell=cell,
                order=order,
                reused=driver.cached / driver.prompts,
                bound=bound,
                seconds=driver.seconds,
                gates_us=1e6 * driver.gates_s / items,
            )
        )
    return found


def _row(found: list[Reuse]) -> Row:
    ours, others = found[-1], found[:-1]
    least = 0.90 if ours.cell.live_s else 0.95
    return Row(
        name=f"prefix reuse, {ours.cell.name}",
        ours=f"{100 * ours.reused:.1f} % of prompt tokens, {ours.seconds:.0f} s",
        against=", ".join(f"{one.order} {100 * one.of_bound:.0f} % ({one.seconds:.0f} s)" for one in others),
        ratio=f"{100 * ours.of_bound:.1f} % of the bound",
        target=f"≥ {100 * least:.0f} %",
        is_met=ours.of_bound >= least,
    )


class Work:
    """A shuffled batch whose prompts are a tree of three levels: system prompt, document, question."""

    def __init__(self, items: int) -> None:
        """Make it and its plan; the same each time."""
        seed = random.Random(SEED)  # noqa: S311 - no secret
        made: list[tuple[str, str, str]] = []
        while len(made) < items:
            system = _text(seed, seed.randint(300, 1500))
            for _ in range(seed.randint(2, 12)):
                document = _text(seed, seed.randint(200, 3000))
                made += [(system, document, _text(seed, seed.randint(50, 600))) for _ in range(seed.randint(2, 30))]
        made = made[:items]
        seed.shuffle(made)
        self.params = [_params(*one, max_tokens=seed.choice((16, 32, 64))) for one in made]
        self.systems = [system for system, _, _ in made]
        self.plan = _plan(self.params)
        self.runs = list(runs_of(self.plan, [len(msgspec.json.encode(params)) for params in self.params]))

    def order(self, name: str) -> list[int]:
        """Return the items in one of the orders."""
        if name == "submit":
            return list(range(len(self.params)))
        if name == "system prompts":
            return sorted(range(len(self.params)), key=lambda item: zlib.crc32(self.systems[item].encode()))
        return list(self.plan.items)


class Driver:
    """Keeps the window full and counts what the engine found in its cache."""

    def __init__(self, work: Work, cell: Cell, order: str) -> None:
        """Begin with nothing in flight."""
        self.cached = self.prompts = 0
        self.seconds = self.gates_s = 0.0
        self._work = work
        self._cell = cell
        self._gates = Gates() if order == "ours" else None
        self._plain = iter(work.order(order))
        self._runs = iter(work.runs)
        self._held: list[_Held] = []
        self._left = Counter(work.plan.groups)
        self._in_flight = 0
        self._done = 0
        self._wake = asyncio.Event()

    async def run(self, loop: VirtualLoop) -> None:
        """Drive the batch to its end."""
        settings = SimulatorSettings(
            profile=self._cell.profile, slots=self._cell.slots, kv_tokens=self._cell.kv_tokens, answer_tokens=64
        )
        engine = Simulated(settings, clock=MovableClock(loop.now_us))
        await engine.start()
        live = asyncio.create_task(self._live(engine))
        tasks: set[asyncio.Task[None]] = set()
        try:
            await self._dispatch(engine, loop, tasks)
        finally:
            live.cancel()
            await asyncio.gather(live, *tasks, return_exceptions=True)
        self.seconds = loop.time()
        await engine.close()

    async def _dispatch(self, engine: Simulated, loop: VirtualLoop, tasks: set[asyncio.Task[None]]) -> None:
        while self._done < len(self._work.params):
            while self._in_flight < self._cell.window and (found := self._next(engine, loop.now_us())) is not None:
                self._in_flight += 1
                task = asyncio.create_task(self._attempt(engine, *found))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_S)

    def _next(self, engine: Simulated, now_us: int) -> tuple[int, Want | None, Place | None] | None:
        if self._gates is None:
            item = next(self._plain, None)
            return None if item is None else (item, None, None)
        began = time.perf_counter()
        try:
            return self._next_by_gates(engine, self._gates, now_us)
        finally:
            self.gates_s += time.perf_counter() - began

    def _next_by_gates(self, engine: Simulated, gates: Gates, now_us: int) -> tuple[int, Want, Place] | None:
        """Try what is in hand as a worker would: in the order of the plan, a branch that must wait once."""
        rooms = [_view(engine, self._cell, self._in_flight)]
        tried = 0
        while tried < len(self._held) or self._lease(gates):
            held = self._held[tried]
            behind = 0
            for want in held.wants:
                if want.index < behind:
                    continue
                place = gates.place(want, rooms, now_us, self._left[want.group])
                if place is None:
                    behind = gates.resume_at(want)
                    continue
                held.wants.remove(want)
                if not held.wants:
                    self._held.remove(held)
                self._left[want.group] -= 1
                gates.started(want, place)
                return self._work.plan.items[want.index], want, place
            tried += 1
        return None

    def _lease(self, gates: Gates) -> bool:
        run = next(self._runs, None) if len(self._held) < MOST_HELD else None
        if run is None:
            return False
        plan, stop = self._work.plan, run.first + run.count
        gates.learn(BATCH, run.first, plan.shared[run.first : stop], plan.groups[run.first : stop])
        self._held.append(_Held(_wants(plan, run, self._work.params)))
        return True

    async def _attempt(self, engine: Simulated, item: int, want: Want | None, place: Place | None) -> None:
        watch = _Watch(lambda: self._tell("first_token", want, place))
        context = Context(batch_id=BATCH, slot=place.slot if place is not None else None, watch=watch)
        await engine.generate(self._work.params[item], live=False, context=context)
        self.cached += watch.reused
        self.prompts += watch.prompt_tokens
        self._tell("ended", want, place)
        self._in_flight -= 1
        self._done += 1

    def _tell(self, what: str, want: Want | None, place: Place | None) -> None:
        if self._gates is not None and want is not None and place is not None:
            getattr(self._gates, what)(want, place)
        self._wake.set()

    async def _live(self, engine: Simulated) -> None:
        """Send live requests at random moments, each with a prompt that nobody else has."""
        seed = random.Random(SEED)  # noqa: S311 - no secret
        async with asyncio.TaskGroup() as clients:
            while self._cell.live_s:
                await asyncio.sleep(seed.expovariate(self._cell.live_s))
                params = _params(_text(seed, 200), _text(seed, seed.randint(100, 3000)), "?", max_tokens=64)
                clients.create_task(_answered(engine, params))


@dataclass(slots=True)
class _Watch:
    """Tells of every arrival of tokens; gates heed the first. Keeps what was reused."""

    tell: Callable[[], None]
    prompt_tokens: int = 0
    reused: int = 0

    def tokens(self, count: int) -> None:  # noqa: ARG002 - not how many
        self.tell()

    def prompt(self, tokens: int, reused: int) -> None:
        self.prompt_tokens, self.reused = tokens, reused


@dataclass(slots=True)
class _Held:
    wants: list[Want] = field(default_factory=list)


async def _answered(engine: Simulated, params: MessageParams) -> None:
    try:
        await engine.generate(params, live=True)
    except EngineError:
        return  # the client of a hosted API that refuses it comes again later, or never


def _view(engine: Simulated, cell: Cell, in_flight: int) -> RoomView:
    profile = engine.profile
    return RoomView(
        name=ROOM,
        cache=profile.cache,
        slots=profile.slots,
        free=cell.window - in_flight,
        kv_tokens=cell.kv_tokens or PROFILES[cell.profile].kv_tokens,
        takes=True,
    )


def _wants(plan: Plan, run: Slice, params: Sequence[MessageParams]) -> list[Want]:
    return [
        Want(
            batch_id=BATCH,
            index=index,
            group=plan.groups[index],
            shared=plan.shared[index],
            prompt_tokens=count_prompt(params[plan.items[index]]),
            model=MODEL,
        )
        for index in range(run.first, run.first + run.count)
    ]


def _plan(params: Sequence[MessageParams]) -> Plan:
    chains, texts, most = Chains(), [], []
    for one in params:
        prompt = read_prompt(msgspec.json.encode(one))
        chains.add(prompt.text, prompt.kind)
        texts.append(prompt.text)
        most.append(prompt.max_tokens)
    order, shared = sorted_by_prefix(chains, lambda item: texts[item])
    return arrange(order, shared, Asked(prompts=[len(text) for text in texts], max_tokens=most))


def _bound(params: Sequence[MessageParams], profile: str) -> float:
    """Return the part of the prompts that this engine would reuse with a cache without limits, one by one."""
    plays = PROFILES[profile]
    cache = Shared(capacity=1 << 60, at_once=True, least=plays.least)
    cached = prompts = 0
    for one in params:
        tokens = count_prompt(one)
        admitted = cache.admit(chain_of(one, plays.block), tokens)
        assert admitted is not None, "a cache without limits is full"
        place, found = admitted
        cache.read(place)
        cache.release(place)
        cached, prompts = cached + found, prompts + tokens
    return cached / prompts


def _params(system: str, document: str, question: str, *, max_tokens: int) -> MessageParams:
    content: list[dict[str, Any]] = [{"type": "text", "text": document}, {"type": "text", "text": question}]
    given = {
        "model": MODEL,
        "max_tokens": max_tokens,
        "system": system,
        "messages": [{"role": "user", "content": content}],
    }
    return msgspec.convert(given, MessageParams)


def _text(seed: random.Random, tokens: int) -> str:
    return " ".join("".join(seed.choices(LETTERS, k=6 * WORD_TOKENS)) for _ in range(max(1, tokens // WORD_TOKENS)))
