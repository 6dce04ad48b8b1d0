from __future__ import annotations

from standby.host.guard import Guard
from standby.wire.grammar.language import Language, Literal, chars, repeat, seq

LETTERS = Language(seq(Literal('"'), repeat(chars((0x61, 0x7A), (0x1F600, 0x1F64F)), 1, 3), Literal('"')), {})


def feed(guard: Guard, *tokens: bytes) -> list[tuple[str, bool]]:
    """Feed tokens one after another."""
    return [guard.take(data, tokens=number + 1) for number, data in enumerate(tokens)]


def test_a_character_over_several_tokens_counts_once_it_is_whole() -> None:
    """Until then the tokens before it are the last that are whole."""
    guard = Guard(LETTERS)
    smile = "😀".encode()
    assert feed(guard, b'"', smile[:2]) == [('"', True), ("", True)]
    assert guard.whole == 1
    assert guard.take(smile[2:], tokens=3) == ("😀", True)
    assert guard.whole == 3


def test_what_fits_of_a_token_is_kept_and_the_rest_is_not() -> None:
    """The next grammar begins where the last character that fits ended."""
    guard = Guard(LETTERS)
    assert feed(guard, b'"ab', b"cde") == [('"ab', True), ("c", False)]
    assert (guard.whole, guard.since) == (1, "c")
    assert guard.grammar() == 'root ::= "\\""\n'
    assert guard.ending() == '"'
    could_end = guard.can_end
    assert guard.take(b'"', tokens=3) == ('"', True)
    assert (could_end, guard.can_end) == (False, True)
    assert guard.is_over


def test_bytes_that_are_no_text_do_not_fit() -> None:
    """They are taken back like a wrong character."""
    guard = Guard(LETTERS)
    assert feed(guard, b'"a', b"\xff") == [('"a', True), ("", False)]
    assert guard.grammar().startswith("root ::= ")


def test_an_engine_that_writes_the_same_again_gets_nowhere() -> None:
    """Asked twice without a new character in between; one new character is progress."""
    guard = Guard(LETTERS)
    feed(guard, b'"a1')
    assert not guard.gets_nowhere()
    assert guard.gets_nowhere()
    guard.take(b"b", tokens=2)
    assert not guard.gets_nowhere()
