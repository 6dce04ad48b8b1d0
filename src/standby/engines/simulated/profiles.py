"""Which engine the simulator behaves like: how it passes time, whom it serves first, what its prefix cache keeps.

Figures are of one large model on one accelerator; sources of the rules: the engines' own, see the notes at each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from standby.config import SimulatorSettings
from standby.engines.base import CacheProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """An engine that works in steps, all its requests together.

    A step takes `base_s`, and `each_s` for every request that it works on, and `read_s` for every token of a prompt.
    """

    base_s: float = 0.010
    each_s: float = 0.0002
    read_s: float = 0.000_025
    most_tokens: int = 2048
    """Of one step: a token for every answer that goes on, and the rest for prompts, which are cut to fit."""
    mixes: bool = True
    """Whether prompts are read in the steps in which answers go on; otherwise they go first, and answers wait."""
    live_first: bool = False
    """Whether a live request that waits is served before batch requests that wait."""
    preempts: bool = False
    """Whether it also takes the seat of a batch request that runs."""
    spare: int = 0
    """Tokens that each running answer must find room for before another request is admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of engine; `steps` is None for an API with room for all, where every request takes its own time."""

    name: str
    steps: Steps | None = None
    prefill: float = 0.0
    """Prompt tokens a second of a request, without steps; 0 takes no time."""
    decode: float = 0.0
    """Answer tokens a second of a request, without steps; 0 takes no time."""
    cache: CacheProfile = CacheProfile.NONE
    block: int = 1
    """Tokens of the smallest part of a prefix that is reused."""
    least: int = 0
    """Least tokens that are reused."""
    kv_tokens: int = 0
    """What the cache holds, answers included; for `per_slot` of one slot."""
    refuses: bool = False
    """Whether it answers 429 instead of letting requests wait for a seat."""

    @property
    def kv_is_shared(self) -> bool:
        """Whether all requests share one cache."""
        return self.cache in {CacheProfile.SHARED_AT_ONCE, CacheProfile.SHARED_AFTER_FIRST_TOKEN}


PROFILES = {
    profile.name: profile
    for profile in (
        # The prompt cache that Claude's users see is kept apart (cache.py).
        Profile(name="claude"),
        # V1 with --scheduling-policy priority: only the waiting queue is ordered; who runs is preempted only when the
        # cache is full. Blocks can be matched as soon as their request is scheduled.
        Profile(
            name="vllm",
            steps=Steps(live_first=True),
            cache=CacheProfile.SHARED_AT_ONCE,
            block=16,
            kv_tokens=200_000,
        ),
        # With --enable-priority-scheduling: waiting requests preempt running ones of a priority lower by more than the
        # threshold, as batches are. Prompts are read before answers go on, and admitted only where what runs has room
        # to go on for some steps (20 are its `retract_decode_steps`). A prefix enters the radix cache when it was
        # computed.
        Profile(
            name="sglang",
            steps=Steps(most_tokens=8192, mixes=False, live_first=True, preempts=True, spare=20),
            cache=CacheProfile.SHARED_AFTER_FIRST_TOKEN,
            block=1,
            kv_tokens=200_000,
        ),
        # llama-server: a first-in-first-out queue; each slot keeps the prompt that it had last; prompts are read slot
        # after slot.
        Profile(
            name="llamacpp",
            steps=Steps(base_s=0.008, each_s=0.002, read_s=0.000_5),
            cache=CacheProfile.PER_SLOT,
            block=1,
            kv_tokens=8192,
        ),
        # A hosted API: room for all within its rate limit, automatic caching from 1,024 tokens on, in steps of 128.
        Profile(
            name="remote",
            prefill=10_000,
            decode=80,
            cache=CacheProfile.SHARED_AFTER_FIRST_TOKEN,
            block=128,
            least=1024,
            kv_tokens=10_000_000,
            refuses=True,
        ),
    )
}
"""By the setting `simulator.profile`."""


def profile_of(settings: SimulatorSettings) -> Profile:
    """Return the profile with the speeds and the cache that the settings ask for."""
    profile = PROFILES[settings.profile]
    profile = replace(
        profile,
        kv_tokens=settings.kv_tokens or profile.kv_tokens,
        prefill=settings.prefill_tokens_s or profile.prefill,
        decode=settings.decode_tokens_s or profile.decode,
    )
    return profile if profile.steps is None else replace(profile, steps=_paced(profile.steps, settings))


def _paced(steps: Steps, settings: SimulatorSettings) -> Steps:
    """Scale a step so that a request alone goes at the speeds that were set."""
    if settings.prefill_tokens_s:
        steps = replace(steps, read_s=1 / settings.prefill_tokens_s)
    if settings.decode_tokens_s:
        factor = 1 / settings.decode_tokens_s / (steps.base_s + steps.each_s)
        steps = replace(steps, base_s=steps.base_s * factor, each_s=steps.each_s * factor)
    return steps
