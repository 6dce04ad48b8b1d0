"""The time between tokens: what counts, what is forgotten, what silence means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.engines.gaps import ENOUGH, LATELY_US, LONGEST_US, Answering, Gaps
from standby.records import SECOND

START_US = 1_000 * SECOND
MS = 1_000


def write(answering: Answering, *, every_us: int, count: int, from_us: int = START_US, chunk: int = 1) -> int:
    """Let tokens come in chunks; return the time of the last."""
    now_us = from_us
    for _ in range(count):
        now_us += every_us
        answering.tokens(chunk, now_us)
    return now_us


@given(st.integers(1, 400), st.integers(1, 8), st.integers(1, 5))
def test_the_gap_is_the_time_of_a_token_whatever_the_chunks(every_ms: int, chunk: int, answers: int) -> None:
    """Each of several answers with `chunk` tokens every so many milliseconds."""
    gaps = Gaps()
    for _ in range(answers):
        now_us = write(Answering(gaps), every_us=every_ms * MS, count=ENOUGH + 2, chunk=chunk)
    assert gaps.gap_s(now_us) == pytest.approx(every_ms / 1000 / chunk, rel=0.01)


def test_chunks_that_arrive_together_count_for_what_they_are() -> None:
    """Two by two from the network, the second of each pair at once: the mean is what the engine takes."""
    gaps = Gaps()
    answering = Answering(gaps)
    answering.tokens(1, START_US)
    for pair in range(1, 20):
        answering.tokens(1, START_US + pair * 40 * MS)
        answering.tokens(1, START_US + pair * 40 * MS)
    assert gaps.gap_s(START_US + 19 * 40 * MS) == pytest.approx(0.020)


def test_the_first_token_tells_nothing() -> None:
    """However long its prompt took."""
    gaps = Gaps()
    for number in range(50):
        Answering(gaps).tokens(1, START_US + number * MS)
    assert gaps.gap_s(START_US + 50 * MS) is None


def test_one_long_prompt_is_no_trend() -> None:
    """A stall of one slice among many does not move the gap."""
    gaps = Gaps()
    answering = Answering(gaps)
    now_us = write(answering, every_us=10 * MS, count=80)
    answering.tokens(1, now_us + 300 * MS)
    now_us = write(answering, every_us=10 * MS, count=80, from_us=now_us + 300 * MS)
    assert gaps.gap_s(now_us) == pytest.approx(0.010)


def test_what_is_long_past_is_forgotten() -> None:
    """After two seconds of another speed only that one counts; after long silence nobody knows."""
    gaps = Gaps()
    answering = Answering(gaps)
    now_us = write(answering, every_us=50 * MS, count=100)
    now_us = write(answering, every_us=10 * MS, count=(LATELY_US + SECOND) // (10 * MS), from_us=now_us)
    assert gaps.gap_s(now_us) == pytest.approx(0.010)
    answering.ended()
    assert gaps.gap_s(now_us + LONGEST_US + SECOND) is None


def test_an_engine_that_stands_still_has_the_longest_gap() -> None:
    """Answers in the middle of which nothing comes any more say so while they wait, and no longer once they ended."""
    gaps = Gaps()
    answering = Answering(gaps)
    now_us = write(answering, every_us=10 * MS, count=100)
    assert gaps.gap_s(now_us + 3 * SECOND) == pytest.approx(3.0)
    assert gaps.gap_s(now_us + 60 * SECOND) == pytest.approx(60.0)
    answering.ended()
    assert gaps.gap_s(now_us + 3 * SECOND) == pytest.approx(0.010)


def several(*, together: bool) -> tuple[Gaps, int]:
    """Twenty answers of an API that sends eight tokens every 100 ms, each at moments of its own."""
    gaps = Gaps()
    answers = [Answering(gaps) for _ in range(20)]
    for ms in range(0, 1_000, 5):
        now_us = START_US + ms * MS
        for tokens in (8,) if together else (1,) * 8:
            answers[ms // 5 % 20].tokens(tokens, now_us)
    return gaps, now_us


@pytest.mark.parametrize("together", [True, False])
def test_the_time_between_two_chunks_is_no_silence(*, together: bool) -> None:
    """On average half of it has passed in each answer; only what is longer tells of an engine that stands still."""
    gaps, now_us = several(together=together)
    assert gaps.gap_s(now_us) == pytest.approx(0.0125)
    assert gaps.gap_s(now_us + 40 * MS) == pytest.approx(0.0125)
    assert gaps.gap_s(now_us + SECOND) == pytest.approx(0.0125 * 10, rel=0.1)


def test_a_slow_reader_is_not_a_slow_engine() -> None:
    """Time in which nobody asked for the next piece is left out."""
    gaps = Gaps()
    answering = Answering(gaps)
    now_us = START_US
    for _ in range(40):
        answering.tokens(1, now_us)
        answering.held_up(500 * MS)
        now_us += 510 * MS
    assert gaps.gap_s(now_us - 510 * MS) == pytest.approx(0.010)


def test_what_was_told_is_of_this_moment_while_somebody_answers_and_shortly_after() -> None:
    """An answer that is under way keeps it fresh however slow it is; the last slice does for two seconds."""
    gaps = Gaps()
    answering = Answering(gaps)
    assert not gaps.is_fresh(START_US)
    now_us = write(answering, every_us=50 * MS, count=ENOUGH + 2)
    assert gaps.is_fresh(now_us + 2 * LATELY_US)
    answering.ended()
    assert gaps.is_fresh(now_us + LATELY_US // 2)
    assert not gaps.is_fresh(now_us + 2 * LATELY_US)
    assert gaps.gap_s(now_us + 2 * LATELY_US) is not None
