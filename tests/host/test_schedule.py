from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from standby.host.schedule import (
    CALM,
    QUICK_S,
    RESTART_BELOW,
    Candidate,
    Decision,
    Reading,
    Room,
    can_stop,
    decide,
    reading_of,
    slice_end,
)

ROOM = Room(slots=4, block=32, blocks=100, used=0)


def seat(number: int, *, live: bool = False, **more: Any) -> Candidate:
    """Make a sequence of 64 tokens that wants 64 more."""
    return Candidate(**{"number": number, "live": live, "tokens": 64, "ahead": 64, **more})


def used(running: list[Candidate]) -> int:
    """Count the blocks of sequences that share nothing."""
    return sum(-(-c.tokens // 32) for c in running)


def test_live_work_stops_every_batch_sequence() -> None:
    """One live request is enough."""
    running = [seat(1, started=True), seat(2, started=True)]
    decision = decide([seat(3, live=True)], running, replace(ROOM, used=4))
    assert decision == Decision(pause=(1, 2), admit=(3,))


def test_batch_work_waits_while_live_work_runs() -> None:
    """Free slots beside a live sequence stay free."""
    assert decide([seat(2)], [seat(1, live=True)], ROOM) == Decision()


def test_batch_work_goes_on_when_live_work_is_done() -> None:
    """Waiting batch sequences are admitted in the order of their arrival."""
    assert decide([seat(3), seat(1), seat(2)], [], ROOM).admit == (1, 2, 3)


def test_a_structured_sequence_with_many_tokens_runs_on_beside_live_work() -> None:
    """Only one with few tokens starts again."""
    running = [
        seat(1, structured=True, generated=RESTART_BELOW, started=True),
        seat(2, structured=True, generated=RESTART_BELOW - 1, started=True),
    ]
    assert decide([seat(3, live=True)], running, ROOM) == Decision(pause=(2,), admit=(3,))


def test_no_more_run_than_there_are_slots() -> None:
    """The fifth of five waits."""
    assert decide([seat(n) for n in range(5)], [], ROOM).admit == (0, 1, 2, 3)


def test_followers_of_a_new_prefix_wait_for_its_leader() -> None:
    """One computes the shared blocks, another prefix starts beside it, and the followers come after its first token."""
    shared, other = (b"a", b"b"), (b"c", b"d")
    waiting = [seat(1, todo=shared), seat(2, todo=shared), seat(3, todo=other)]
    assert decide(waiting, [], ROOM).admit == (1, 3)
    leading = seat(1, todo=shared)
    assert decide([seat(2, todo=shared)], [leading], ROOM).admit == ()
    assert decide([seat(2, todo=shared)], [replace(leading, started=True, todo=())], ROOM).admit == (2,)


def test_nobody_waits_for_a_leader_with_a_far_longer_prompt() -> None:
    """One shared block of six is not worth the wait."""
    long = (b"a", *(b"%d" % n for n in range(5)))
    assert decide([seat(2, todo=(b"a", b"b"))], [seat(1, todo=long)], ROOM).admit == (2,)


def test_live_work_never_waits_for_a_leader() -> None:
    """Two live requests with one prefix start together."""
    waiting = [seat(1, live=True, todo=(b"a",)), seat(2, live=True, todo=(b"a",))]
    assert decide(waiting, [], ROOM).admit == (1, 2)


def test_work_that_does_not_fit_into_memory_waits() -> None:
    """A sequence is admitted with room for what it is about to write."""
    room = replace(ROOM, blocks=12, used=4)
    assert decide([seat(2), seat(3), seat(4)], [seat(1, tokens=128, started=True)], room).admit == (2,)


def test_a_sequence_alone_is_always_admitted() -> None:
    """Whatever it needs: the door let it in."""
    assert decide([seat(1, tokens=4000)], [], ROOM).admit == (1,)


def test_when_memory_runs_out_the_newest_makes_way() -> None:
    """And the oldest never does."""
    running = [seat(n, tokens=320, started=True) for n in (1, 2, 3)]
    assert decide([], running, replace(ROOM, blocks=31, used=30)).pause == (3,)
    assert decide([], [seat(1, tokens=3300)], replace(ROOM, used=104)).pause == ()


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Candidate], list[Candidate], Room]:
    """Make any mix of waiting and running sequences."""
    room = Room(slots=draw(st.integers(1, 6)), block=32, blocks=draw(st.integers(8, 80)), used=0)
    keys = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=3, unique=True).map(tuple)
    made = [
        Candidate(
            number=number,
            live=draw(st.booleans()),
            tokens=draw(st.integers(1, 32 * 8)),
            ahead=draw(st.integers(1, 500)),
            generated=draw(st.integers(0, 64)),
            structured=draw(st.booleans()),
            started=draw(st.booleans()),
            todo=draw(keys),
        )
        for number in range(draw(st.integers(0, 9)))
    ]
    split = draw(st.integers(0, len(made)))
    return made[split:], made[:split], replace(room, used=used(made[:split]))


@given(situations())
def test_decisions_keep_the_rules(situation: tuple[list[Candidate], list[Candidate], Room]) -> None:
    """Nobody stops or starts who may not, live work is never stopped, and idle room is never left to waiting work."""
    waiting, running, room = situation
    decision = decide(waiting, running, room)
    by_number = {c.number: c for c in waiting + running}
    paused = [by_number[number] for number in decision.pause]
    admitted = [by_number[number] for number in decision.admit]
    assert {c.number for c in paused} <= {c.number for c in running}
    assert {c.number for c in admitted} <= {c.number for c in waiting}
    assert all(can_stop(c) for c in paused)
    has_live = any(c.live for c in waiting + running)
    if has_live:
        assert not any(c.live for c in paused)
        assert all(c.live for c in admitted)
        staying = [c for c in running if c not in paused and not c.live]
        assert not any(can_stop(c) for c in staying)
    if waiting and not running:
        assert admitted
    if decision.pause and not has_live:
        assert not decision.admit
    seats = [c for c in running if c not in paused and (c.live or not has_live)]
    assert not admitted or len(seats) + len(admitted) <= room.slots


def test_nothing_stops_before_its_first_token() -> None:
    """Live work joins at once; a batch sequence that still reads its prompt goes on beside it."""
    running = [seat(1, started=False, todo=(b"a",)), seat(2, started=True)]
    assert decide([seat(3, live=True)], running, replace(ROOM, used=4)) == Decision(pause=(2,), admit=(3,))


def test_few_batch_prompts_are_read_at_a_time() -> None:
    """So that live work never waits for many of them; live prompts are not held back."""
    most = CALM.under_way
    prompt = tuple(b"%d" % n for n in range(most // ROOM.block))
    batch = [seat(n, tokens=most, todo=tuple(b"%d%s" % (n, key) for key in prompt)) for n in range(3)]
    live = [replace(c, live=True) for c in batch]
    room = replace(ROOM, blocks=1000)
    assert decide(batch, [], room).admit == (0,)
    assert decide(live, [], room).admit == (0, 1, 2)


def test_one_prompt_is_read_at_a_time_while_live_work_is_expected() -> None:
    """A block of one fills the step."""
    batch = [seat(n, todo=(b"%d" % n,)) for n in range(3)]
    assert decide(batch, [], replace(ROOM, reading=reading_of(1_000, 32))).admit == (0,)
    assert decide(batch, [], ROOM).admit == (0, 1, 2)


@given(st.none() | st.floats(0, 1e6), st.sampled_from([16, 32, 256]))
def test_what_is_read_while_live_work_is_expected_takes_little_time(tokens_s: float | None, block: int) -> None:
    """Whole blocks, at least one, never more than in calm times, and no longer than it may be beyond the first."""
    reading = reading_of(tokens_s, block)
    assert reading.slice == reading.under_way
    assert block <= reading.slice <= CALM.under_way
    assert reading.slice % block == 0
    assert reading.slice == block or reading.slice <= (tokens_s or 0) * QUICK_S


@given(st.integers(1, 20_000), st.sampled_from([CALM, Reading(under_way=32, slice=32)]), st.data())
def test_slices_end_with_a_block_and_reach_the_end(tokens: int, reading: Reading, data: st.DataObject) -> None:
    """Each slice goes on by at most what is read at once, whole blocks but for the last."""
    cached = data.draw(st.integers(0, tokens // 32)) * 32
    while cached < tokens:
        end = slice_end(tokens, cached, 32, reading)
        assert cached < end <= min(tokens, cached + reading.slice)
        assert end == tokens or end % 32 == 0
        cached = end
