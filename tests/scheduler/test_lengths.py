from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from standby.records import BatchId
from standby.scheduler.lengths import ENOUGH, GUESS, RECENT, Lengths

A, B = BatchId("a"), BatchId("b")


def test_what_is_not_known_is_guessed_within_max_tokens() -> None:
    """A guess, but never more than the item may say."""
    assert Lengths().expected(A, 1, 4096) == GUESS
    assert Lengths().expected(A, 1, 10) == 10


def test_the_narrowest_kind_with_enough_answers_is_believed() -> None:
    """The group, else the batch, else all with as many `max_tokens`."""
    lengths = Lengths()
    for _ in range(ENOUGH):
        lengths.saw(A, 1, 1000, 30)
        lengths.saw(A, 2, 1000, 400)

    assert lengths.expected(A, 1, 1000) == 30
    assert lengths.expected(A, 2, 1000) == 400
    assert lengths.expected(A, 3, 1000) == 400, "of its batch: half said 400"
    assert lengths.expected(B, 1, 1000) == 400, "of all"
    assert lengths.expected(B, 1, 100_000) == GUESS, "longer ones are another kind"


def test_lengths_follow_what_changes() -> None:
    """Only recent answers count."""
    lengths = Lengths()
    for length in [900] * 100 + [5] * RECENT:
        lengths.saw(A, 1, 1000, length)

    assert lengths.expected(A, 1, 1000) == 5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4096), st.integers(0, 5000)), max_size=60))
def test_what_is_expected_was_seen_and_fits(seen: list[tuple[int, int, int]]) -> None:
    """An expectation lies between one token and `max_tokens`, and not above all that was seen."""
    lengths = Lengths()
    for group, max_tokens, output in seen:
        lengths.saw(A, group, max_tokens, output)
        expected = lengths.expected(A, group, max_tokens)

        assert 1 <= expected <= max_tokens
        assert expected <= max(GUESS, *(length for _, _, length in seen))


def test_memory_is_bounded_whatever_clients_name() -> None:
    """A million kinds of answers leave as many as were allowed, and the newest among them."""
    lengths = Lengths(most_keys=100)
    for number in range(5000):
        for _ in range(ENOUGH):
            lengths.saw(BatchId(f"batch{number}"), number, 1 << (number % 40), 7)

    assert len(lengths) <= 100
    assert lengths.expected(BatchId("batch4999"), 4999, 1 << (4999 % 40)) == 7
