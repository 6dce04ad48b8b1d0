"""Which slot a live request gets, beside batches whose slots keep what they had."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from standby.engines.seats import Seats

SLOTS = 4


def test_a_conversation_goes_back_to_its_slot() -> None:
    """Its next turn finds what the last one left, even if another slot was free for longer."""
    seats = Seats()
    for name in (b"one", b"two"):
        number = seats.choose(name, SLOTS)
        assert number is not None
        seats.sit(number, live=True, conversation=name)
    for number in seats.busy_live():
        seats.leave(number)

    assert seats.choose(b"two", SLOTS) == 1
    assert seats.choose(b"one", SLOTS) == 0


def test_live_requests_stay_away_from_what_batches_left() -> None:
    """A slot in which a batch rests is taken last, and then the batch is told."""
    seats = Seats()
    for resting in (0, 1, 2):
        seats.sit(resting, live=False)
        seats.leave(resting)
    taken = []
    for name in (b"a", b"b"):
        number = seats.choose(name, SLOTS)
        assert number is not None
        seats.sit(number, live=True, conversation=name)
        taken.append(number)

    assert taken == [3, 0]  # the free one, then the one that a batch used longest ago
    assert seats.take_taken_over() == {0}
    assert seats.take_taken_over() == frozenset()


def test_with_every_slot_busy_the_engine_chooses() -> None:
    """It knows who ends first."""
    seats = Seats()
    for number in range(SLOTS):
        seats.sit(number, live=False)

    assert seats.choose(b"a", SLOTS) is None


def test_an_engine_that_was_away_has_nothing_to_go_back_to() -> None:
    """Its slots are as good as new."""
    seats = Seats()
    seats.sit(0, live=True, conversation=b"a")
    seats.leave(0)
    seats.lost()

    assert seats.choose(b"a", SLOTS) == 0


def test_the_last_slot_whose_live_prompt_is_being_read() -> None:
    """Batch items in earlier slots would be read before it."""
    seats = Seats()
    assert seats.reading_live() == -1
    for number, live in enumerate((True, True, False)):
        seats.sit(number, live=live)
    assert seats.reading_live() == 1
    seats.read(1)
    assert seats.reading_live() == 0
    seats.leave(0)
    assert seats.reading_live() == -1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SLOTS - 1), st.binary(max_size=2)), max_size=60))
def test_nobody_is_sent_to_a_busy_slot(steps: list[tuple[bool, int, bytes]]) -> None:
    """Whatever came and went before."""
    seats, busy = Seats(), dict.fromkeys(range(SLOTS), 0)
    for is_live, number, conversation in steps:
        if is_live:
            chosen = seats.choose(conversation, SLOTS)
            assert (chosen is None) == all(busy.values())
            if chosen is not None:
                assert not busy[chosen]
                seats.sit(chosen, live=True, conversation=conversation)
                busy[chosen] += 1
        elif busy[number]:
            seats.leave(number)
            busy[number] -= 1
        else:
            seats.sit(number, live=False)
            busy[number] += 1
