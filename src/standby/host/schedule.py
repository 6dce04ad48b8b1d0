"""Who runs in the next step: live work in front, batch work in what is left. Pure: no clock, no I/O.

The rules:

1. While there is live work, running or waiting, no batch sequence runs, except one that cannot stop.
2. A plain sequence can stop as soon as it gave a token: its tokens are kept and it goes on later as prompt + kept
   tokens. A structured one cannot be resumed inside its grammar: it starts again if it has fewer than
   `RESTART_BELOW` tokens (nothing of it was sent yet), else it runs on beside live work.
   Nothing stops before its first token: the library keeps a block that was computed in part in its prefix cache,
   and whoever finds it there later answers with nonsense. So that live work need not wait for long, batch prompts
   are read few at a time, long ones in slices (`Reading`, `slice_end`).
3. Waiting work is admitted in the order of arrival, live first, while there are slots and memory.
4. A batch sequence whose next blocks another one is computing right now waits for that one's first
   token and finds them in the cache (one leader for each new prefix). Live work never waits for it.
5. When the running sequences would outgrow the memory, the newest batch ones stop, so that the
   library never has to preempt.
"""

from __future__ import annotations

from dataclasses import dataclass

RESTART_BELOW = 32
LATELY_S = 300.0
"""So long after the last live work the next is expected at any moment."""
QUICK_S = 0.025
"""How much longer prompts of batches make a step while live work is expected."""
HEADROOM = 64
LEADER_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How prompts of batches are read: all that live work can find in its way that cannot stop."""

    under_way: int = 256
    """Tokens of sequences that have not given their first one yet: what one step computes."""
    slice: int = 512
    """Tokens of one prompt that are read at once, at most."""


CALM = Reading()
"""While no live work is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One sequence, as far as the decision needs it."""

    number: int
    """Order of arrival."""
    live: bool
    tokens: int
    """Prompt and answer so far."""
    ahead: int
    """Tokens it may still generate."""
    generated: int = 0
    structured: bool = False
    started: bool = False
    """Whether it gave a token since it was admitted."""
    todo: tuple[bytes, ...] = ()
    """Keys of the whole blocks that it has to compute, in order."""
    shared: int = 0
    """Blocks it needs that running sequences hold already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What there is to give."""

    slots: int
    block: int
    """Tokens of a KV block."""
    blocks: int
    used: int
    """Blocks that running sequences hold, each counted once."""
    reading: Reading = CALM


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Numbers of the sequences to stop and to start before the next step."""

    pause: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()


def decide(waiting: list[Candidate], running: list[Candidate], room: Room) -> Decision:
    """Decide who stops and who starts before the next step."""
    live = any(c.live for c in waiting) or any(c.live for c in running)
    stopping = _yielding(running) if live else _outgrown(running, room)
    if stopping and not live:
        return Decision(pause=tuple(c.number for c in stopping))
    staying = [c for c in running if c not in stopping]
    free = room.used - sum(_own(c, room) for c in stopping)
    seats = [c for c in staying if c.live] if live else staying
    pool = sorted((c for c in waiting if c.live is live), key=lambda c: c.number)
    admitted = _admitted(pool, seats, max(0, free), room)
    return Decision(pause=tuple(c.number for c in stopping), admit=tuple(c.number for c in admitted))


def can_stop(candidate: Candidate) -> bool:
    """Whether it can be paused, or started again, without anybody noticing."""
    return candidate.started and (not candidate.structured or candidate.generated < RESTART_BELOW)


def reading_of(tokens_s: float | None, block: int) -> Reading:
    """Return how prompts are read while live work is expected, by an engine that reads so many tokens a second.

    What takes `QUICK_S`, in whole blocks, at least one. Reading by the block costs a tenth of a small model's tokens on
    two cores (measured, SmolLM2-135M): a step that decodes for 12 others reads 32 tokens as fast as 256, each.
    """
    quick = int((tokens_s or 0.0) * QUICK_S) // block * block
    most = min(CALM.under_way, max(block, quick))
    return Reading(under_way=most, slice=most)


def slice_end(tokens: int, cached: int, block: int, reading: Reading) -> int:
    """Return how many of its tokens a batch sequence reads next: all, or whole blocks that end a slice further on."""
    end = (cached + reading.slice) // block * block
    return tokens if tokens <= cached + reading.slice else end


def _yielding(running: list[Candidate]) -> list[Candidate]:
    return [c for c in running if not c.live and can_stop(c)]


def _outgrown(running: list[Candidate], room: Room) -> list[Candidate]:
    """Newest first, until every running sequence can take one more block; the oldest never stops."""
    stopping: list[Candidate] = []
    used, left = room.used, len(running)
    for candidate in sorted(running, key=lambda c: -c.number)[:-1]:
        if used + left <= room.blocks:
            break
        if can_stop(candidate):
            stopping.append(candidate)
            used -= _own(candidate, room)
            left -= 1
    return stopping


def _own(candidate: Candidate, room: Room) -> int:
    return max(0, -(-candidate.tokens // room.block) - candidate.shared)


def _needs(candidate: Candidate, room: Room) -> int:
    later = candidate.tokens + min(candidate.ahead, HEADROOM)
    return max(0, -(-later // room.block) - candidate.shared)


def _admitted(pool: list[Candidate], seats: list[Candidate], used: int, room: Room) -> list[Candidate]:
    admitted: list[Candidate] = []
    leaders = [c for c in seats if not c.started]
    reading = sum(_reading(c, room) for c in leaders)
    for candidate in pool:
        if len(seats) + len(admitted) >= room.slots or (not candidate.live and reading >= room.reading.under_way):
            break
        if not candidate.live and any(_follows(candidate, leader) for leader in leaders):
            continue
        alone = not seats and not admitted
        needs = _needs(candidate, room)
        if not alone and used + needs + len(seats) + len(admitted) + 1 > room.blocks:
            break
        admitted.append(candidate)
        leaders.append(candidate)
        used += needs
        reading += _reading(candidate, room)
    return admitted


def _reading(candidate: Candidate, room: Room) -> int:
    """Tokens that it reads now, at most; the rest of a block included."""
    return min((len(candidate.todo) + 1) * room.block, room.reading.slice)


def _follows(candidate: Candidate, leader: Candidate) -> bool:
    """Whether waiting for the leader's first token saves blocks, and not at the price of a far longer prompt."""
    common = 0
    for mine, theirs in zip(candidate.todo, leader.todo, strict=False):
        if mine != theirs:
            break
        common += 1
    return common * LEADER_SHARE >= len(leader.todo) and common > 0
