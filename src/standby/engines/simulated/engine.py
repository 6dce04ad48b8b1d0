"""The simulator: a Claude that costs nothing, says the same again, and takes as long as it is told."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from standby.config import SimulatorSettings
from standby.emulation.clock import MovableClock
from standby.emulation.cue import Cue
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.engines.simulated.answers import Answer, Manner, answer_to, events
from standby.engines.simulated.cache import Asked, PromptCache
from standby.engines.simulated.chains import chain_of
from standby.engines.simulated.cues import Cues, NoScript, error_of
from standby.engines.simulated.jobs import Job, Pace, late
from standby.engines.simulated.lanes import Lanes
from standby.engines.simulated.metrics import Metrics
from standby.engines.simulated.models import ALIASES, CLAUDES, NAME, context_of, listed, resolved
from standby.engines.simulated.prefixes import PerSlot, Prefixes, Shared
from standby.engines.simulated.profiles import Profile, profile_of
from standby.engines.simulated.prompts import Prompt, last_text, read_prompt
from standby.engines.simulated.refusals import check_taken
from standby.engines.simulated.steps import Stepper
from standby.engines.simulated.tokens import count_prompt
from standby.errors import EngineError, Failure, ScriptError, invalid
from standby.ids import random_id
from standby.records import SECOND, Load
from standby.wire.caching import usage_parts
from standby.wire.messages import CountParams, Event, Message, MessageParams

__all__ = ["ALIASES", "CLAUDES", "NAME", "Fault", "Simulated"]

Fault = Callable[[MessageParams, int], EngineError | None]


class Simulated:
    """An engine whose answers depend on the request, the seed and the script alone.

    `fault` may be set by tests: it is asked before every attempt, with the number of the attempt at this prompt
    (from 1), and what it returns is raised.
    """

    def __init__(
        self, settings: SimulatorSettings, *, clock: MovableClock | None = None, script: Cues | None = None
    ) -> None:
        """Take the speed and the slots; all waits are on `clock`; `script` says what goes otherwise than usual."""
        self._settings = settings
        self._manner = Manner(
            answer=settings.answer, tokens=settings.answer_tokens, seed=settings.seed.to_bytes(8, "big", signed=True)
        )
        self._clock = clock or MovableClock()
        self._script = script or NoScript()
        self._plays = profile_of(settings)
        self._pace = _pace(self._plays, seats=settings.slots, clock=self._clock)
        self._cache = PromptCache(self._clock) if self._plays.name == "claude" else None
        self._metrics = Metrics(self._plays.name, manner=settings.metrics, seats=settings.slots, seed=settings.seed)
        self._is_running = False
        self._held_back = 0
        self._attempts: Counter[bytes] = Counter()
        self._tries: Counter[bytes] = Counter()
        self._models = listed()
        self._profile = EngineProfile(
            name=NAME if self._plays.name == "claude" else self._plays.name,
            slots=settings.slots,
            cache=self._plays.cache,
            yields_to_live=self._plays.steps is not None and self._plays.steps.preempts,
            kv_tokens=self._plays.kv_tokens,
            pins_live=self._plays.cache is CacheProfile.PER_SLOT,
        )
        self.fault: Fault | None = None

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        return self._profile

    async def start(self) -> None:
        """Get ready."""
        self._is_running = True

    async def close(self) -> None:
        """Take no more work."""
        self._is_running = False

    def ready(self) -> bool:
        """Whether it was started and not closed."""
        return self._is_running

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,
    ) -> Message:
        """Answer one request after the time that its tokens take."""
        asked = _Asked(params=params, deadline_us=deadline_us, live=live, context=context)
        work = await self._enter(asked)
        try:
            await self._begin(work)
            if work.job.answer_tokens > 1:
                await self._pace.reach(work.job, work.job.answer_tokens)
            work.job.tell_prompt()
            return work.message
        finally:
            self._pace.leave(work.job)

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,
    ) -> AsyncGenerator[Event]:
        """The same as events: the first when the prompt is read, then each piece after the time of a token."""
        asked = _Asked(params=params, deadline_us=deadline_us, live=live, context=context)
        work = await self._enter(asked)
        try:
            out = await self._begin(work)
            for tokens, event in events(work.message, work.answer):
                if tokens > out:
                    out = tokens
                    await self._pace.reach(work.job, out)
                yield event
            work.job.tell_prompt()
        finally:
            self._pace.leave(work.job)

    async def count_tokens(self, params: CountParams) -> int:
        """Count as `usage` does."""
        resolved(params.model)
        return count_prompt(params)

    async def models(self) -> list[Model]:
        """List Claude's models and `simulated`."""
        return self._models

    async def resolve(self, model: str) -> str:
        """Any name of Claude is served; one that is not listed keeps its name."""
        return resolved(model)

    def load(self) -> Load:
        """What it does right now. Requests that a cue holds back take no slot: each adds one."""
        load = self._pace.load()
        return replace(load, slots=load.slots + self._held_back) if self._held_back else load

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics, as true as the settings want them; Claude and hosted APIs have none."""
        return self._metrics.signals(self._pace.gauges())

    def forget(self) -> None:
        """Forget what it saw of requests: which tries were made, and what the prompt cache holds."""
        self._attempts.clear()
        self._tries.clear()
        if self._cache is not None:
            self._cache = PromptCache(self._clock)

    def metrics_text(self) -> str:
        """Return the same in Prometheus' text format and the engine's own names; empty if there are none."""
        return self._metrics.text(self._pace.gauges())

    async def _enter(self, asked: _Asked) -> _Work:
        """Admit a request and give it a seat, which whoever asked must take back."""
        prompt, answer = await self._admit(asked)
        job = Job(
            live=asked.live,
            deadline_us=asked.deadline_us,
            prompt_tokens=prompt.tokens,
            answer_tokens=answer.tokens,
            chain=chain_of(asked.params, self._plays.block) if self._plays.cache is not CacheProfile.NONE else (),
            slot=asked.context.slot if self._plays.cache is CacheProfile.PER_SLOT else None,
            watch=asked.context.watch,
        )
        await self._pace.enter(job)
        try:
            cached = self._looked_up(asked, prompt)
        except BaseException:
            self._pace.leave(job)
            raise
        if cached is not None:
            job.cached = cached.split.read
        if cached is None:
            usage = usage_parts(asked.params, prompt=prompt.tokens, cached=job.cached, output=0)
        else:
            usage = cached.split.usage(0)
        message = answer.message(random_id("msg"), resolved(asked.params.model), usage)
        return _Work(job=job, answer=answer, message=message, cached=cached)

    async def _begin(self, work: _Work) -> int:
        """Wait for the first token, if there is any; what the request wrote can be read from now on."""
        tokens = min(1, work.job.answer_tokens)
        await self._pace.reach(work.job, tokens)
        if work.cached is not None:
            work.cached.began()
        return tokens

    def _looked_up(self, asked: _Asked, prompt: Prompt) -> Asked | None:
        """Ask Claude's prompt cache, if the request has a breakpoint."""
        if self._cache is None or not prompt.is_marked:
            return None
        return self._cache.look_up(
            asked.params,
            workspace=asked.context.workspace_id,
            model=resolved(asked.params.model),
            total=prompt.tokens,
        )

    async def _admit(self, asked: _Asked) -> tuple[Prompt, Answer]:
        """Refuse what cannot be answered, then what a test or the script wants to fail; hold back what is slow."""
        self._check_running()
        params, context = asked.params, asked.context
        resolved(params.model)
        check_taken(params)
        prompt = read_prompt(params)
        self._ask_fault(params, prompt)
        cue = self._cue_for(params, context)
        if cue.after_s:
            await self._hold_back(cue.after_s, asked.deadline_us)
        if cue.error:
            error = error_of(cue, attempt=self._try_number(prompt, context, cue.times), is_live=asked.live)
            if error is not None:
                raise error
        most = context_of(params.model)
        if prompt.tokens >= most:
            raise invalid(f"prompt is too long: {prompt.tokens} tokens > {most} maximum")
        return prompt, answer_to(
            params, prompt, cue=cue, manner=self._manner, custom_id=context.custom_id, room=most - prompt.tokens
        )

    def _cue_for(self, params: MessageParams, context: Context) -> Cue:
        try:
            return self._script.cue(
                custom_id=context.custom_id, model=params.model, text=lambda: last_text(params), header=context.simulate
            )
        except ScriptError as error:
            raise invalid(f"standby-simulate: {error}") from None

    def _check_running(self) -> None:
        if not self._is_running:
            raise EngineError(Failure.UNREACHABLE, "The simulator is not running.")

    def _ask_fault(self, params: MessageParams, prompt: Prompt) -> None:
        if self.fault is not None:
            self._attempts[prompt.text] += 1
            error = self.fault(params, self._attempts[prompt.text])
            if error is not None:
                raise error

    def _try_number(self, prompt: Prompt, context: Context, times: int | None) -> int:
        """Return the number of this try: an item knows it, a live request is known by its prompt."""
        if context.batch_id or times is None:
            return context.attempt
        known_as = hashlib.blake2b(prompt.text, digest_size=16).digest()
        self._tries[known_as] += 1
        return self._tries[known_as]

    async def _hold_back(self, seconds: float, deadline_us: int | None) -> None:
        """Let time pass without a seat; `NEVER` ends with the deadline."""
        due_us = None if seconds == float("inf") else self._clock() + int(seconds * SECOND)
        is_late = deadline_us is not None and (due_us is None or due_us >= deadline_us)
        self._held_back += 1
        try:
            await self._clock.sleep_until(deadline_us if is_late else due_us)
        finally:
            self._held_back -= 1
        if is_late:
            raise late()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    params: MessageParams
    deadline_us: int | None
    live: bool
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    job: Job
    answer: Answer
    message: Message
    cached: Asked | None


def _pace(plays: Profile, *, seats: int, clock: MovableClock) -> Pace:
    prefixes: Prefixes | None = None
    if plays.kv_is_shared:
        at_once = plays.cache is CacheProfile.SHARED_AT_ONCE
        prefixes = Shared(capacity=plays.kv_tokens, at_once=at_once, least=plays.least)
    elif plays.cache is CacheProfile.PER_SLOT:
        prefixes = PerSlot(slots=seats, capacity=plays.kv_tokens)
    if plays.steps is not None and prefixes is not None:
        return Stepper(clock=clock, seats=seats, steps=plays.steps, prefixes=prefixes)
    return Lanes(
        clock=clock,
        seats=seats,
        prefill=plays.prefill,
        decode=plays.decode,
        prefixes=prefixes,
        refuses=plays.refuses,
    )
