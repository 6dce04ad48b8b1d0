from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from standby.host.text import Writer

TEXTS = st.text(alphabet="aAb\né你🙂", max_size=40)
STOPS = st.lists(st.text(alphabet="aAb\né你🙂", min_size=1, max_size=4), max_size=3).map(tuple)


def write(pieces: list[bytes], stops: tuple[str, ...]) -> tuple[str, str | None]:
    """Feed pieces one by one."""
    writer = Writer(stops)
    text = "".join([writer.feed(piece) for piece in pieces])
    return text + writer.finish(), writer.matched


@given(TEXTS, STOPS, st.data())
def test_where_the_bytes_are_cut_changes_nothing(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    """Cut anywhere, even inside a character or a stop string, the text and the stop are the same."""
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    assert write(pieces, stops) == write([bytes([byte]) for byte in raw], stops)


@given(TEXTS, STOPS)
def test_the_text_before_the_first_stop_is_given(text: str, stops: tuple[str, ...]) -> None:
    """Nothing of a stop string comes out, and nothing before it is lost."""
    written, matched = write([text.encode()], stops)
    ends = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    if not ends:
        assert (written, matched) == (text, None)
    else:
        end = min(ends)[0]
        assert matched in {stop for e, stop in ends if e == end}
        assert written == text[: end - len(matched or "")]


def test_no_delta_holds_half_a_character() -> None:
    """Bytes wait for the rest of their character."""
    writer = Writer(())
    assert [writer.feed(bytes([byte])) for byte in "🙂!".encode()] == ["", "", "", "🙂", "!"]


def test_text_that_may_begin_a_stop_is_held_back() -> None:
    """Until it cannot be one any more."""
    writer = Writer(("STOP",))
    assert [writer.feed(piece) for piece in (b"a S", b"T", b"ART")] == ["a ", "", "START"]


def test_bytes_that_never_become_a_character_are_marked_at_the_end() -> None:
    """A cut answer ends with a replacement character."""
    assert write([b"a\xf0\x9f"], ()) == ("a\ufffd", None)
