from __future__ import annotations

import msgspec
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from standby.errors import ApiError
from standby.wire.errors import error_event
from standby.wire.messages import (
    Accumulator,
    ContentBlockDelta,
    ContentBlockStart,
    Event,
    InputJsonDelta,
    Message,
    MessageStart,
    MessageStop,
    Ping,
    TextBlock,
    TextDelta,
    ToolUseBlock,
    Usage,
    accumulate,
    events_of,
    opening,
)
from standby.wire.received import read_event
from standby.wire.sse import MAX_EVENT, SseParser, encode_event
from tests.wire.strategies import divided, messages

sdk_event: TypeAdapter[object] = TypeAdapter(RawMessageStreamEvent)
ANSWER = Message(
    id="msg_1",
    model="m",
    content=[TextBlock(text="Hello"), ToolUseBlock(id="t", name="n", input={"a": [1]})],
    stop_reason="tool_use",
    usage=Usage(input_tokens=3, output_tokens=9),
)


@given(messages, st.integers(0, 3))
def test_a_message_taken_apart_and_put_together_is_the_same(message: Message, piece: int) -> None:
    """Whatever the size of the pieces, nothing is lost and nothing is added."""
    assert accumulate(events_of(message, piece=piece)) == message


@given(messages)
def test_events_are_what_the_sdk_reads(message: Message) -> None:
    """Every event passes the official SDK's own type."""
    for event in events_of(message, piece=2):
        sdk_event.validate_json(msgspec.json.encode(event))


def test_the_first_event_knows_the_input_and_no_output() -> None:
    """`message_start` has all input counts, no content, no ending."""
    first = next(events_of(ANSWER))
    assert first == MessageStart(message=opening(ANSWER))
    assert (opening(ANSWER).usage.input_tokens, opening(ANSWER).usage.output_tokens) == (3, 0)
    assert (opening(ANSWER).content, opening(ANSWER).stop_reason) == ([], None)


def test_pings_change_nothing() -> None:
    """A ping may come anywhere."""
    events = [event for one in events_of(ANSWER) for event in (Ping(), one)]
    assert accumulate(events) == ANSWER


def test_a_message_can_be_read_while_it_grows() -> None:
    """The accumulator shows what there is so far."""
    growing = Accumulator()
    for event in events_of(ANSWER, piece=2):
        growing.add(event)
        if isinstance(event, ContentBlockDelta) and isinstance(event.delta, TextDelta):
            break
    assert growing.message.content == [TextBlock(text="He")]
    assert not growing.is_finished


@pytest.mark.parametrize(
    "events",
    [
        [],
        [MessageStop()],
        list(events_of(ANSWER))[:-1],
        [MessageStart(message=opening(ANSWER)), ContentBlockDelta(index=0, delta=TextDelta(text="x")), MessageStop()],
        [MessageStart(message=opening(ANSWER)), ContentBlockStart(index=1, content_block=TextBlock(text=""))],
        [*list(events_of(ANSWER))[:3], error_event(ApiError(529, "overloaded_error", "busy"), None)],
        [
            MessageStart(message=opening(ANSWER)),
            ContentBlockStart(index=0, content_block=ToolUseBlock(id="t", name="n", input={})),
            ContentBlockDelta(index=0, delta=InputJsonDelta(partial_json='{"a":')),
            MessageStop(),
        ],
    ],
)
def test_a_stream_that_is_cut_or_out_of_order_is_no_message(events: list[Event]) -> None:
    """A stream without its end, with a gap, with an error or with half a tool input is refused."""
    with pytest.raises(ValueError, match=r"."):
        accumulate(events)


@given(messages, st.integers(1, 300), st.sampled_from([b"\n", b"\r\n"]))
def test_events_survive_the_wire_in_any_pieces(message: Message, size: int, end: bytes) -> None:
    """Written as server-sent events, cut anywhere, with either line ending: the same events come out."""
    events = list(events_of(divided(message), piece=3))
    raw = b"".join(map(encode_event, events)).replace(b"\n", end)
    parser = SseParser()
    found = [one for at in range(0, len(raw), size) for one in parser.feed(raw[at : at + size])]
    assert [read_event(one.data) for one in found] == events
    assert [one.name for one in found] == [type(event).__struct_config__.tag for event in events]


@given(messages)
def test_an_event_is_three_lines(message: Message) -> None:
    """One name line, one data line, one blank line, whatever the text contains."""
    for event in events_of(message):
        name, data, *rest = encode_event(event).split(b"\n")
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: {")
        assert rest == [b"", b""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_other_peoples_streams_are_read(end: bytes) -> None:
    """Comments and unknown fields are dropped, data lines joined, a missing name is `message`, a BOM is skipped."""
    lines = [
        b"\xef\xbb\xbf: hello",
        b"",
        b"id: 7",
        b"data:one",
        b"data: two",
        b"",
        b"event: x",
        b"",
        b"event:y",
        b"data",
        b"",
        b"",
    ]
    raw = end.join(lines)
    whole = [(one.name, one.data) for one in SseParser().feed(raw)]
    parser = SseParser()
    bytewise = [(one.name, one.data) for place in range(len(raw)) for one in parser.feed(raw[place : place + 1])]
    assert whole == bytewise == [("message", b"one\ntwo"), ("y", b"")]


def test_an_event_without_end_does_not_fill_the_memory() -> None:
    """A line that never ends is refused at the bound."""
    parser = SseParser()
    assert not list(parser.feed(b"x" * MAX_EVENT))
    with pytest.raises(ValueError, match="larger than"):
        list(parser.feed(b"x"))


@given(
    st.lists(st.sampled_from([b"data: a", b"data:b", b"event: x", b"event:", b": c", b"", b"data: d: e"])), st.data()
)
def test_a_stream_is_read_alike_in_any_pieces(lines: list[bytes], data: st.DataObject) -> None:
    """Whole events that come at once are those that come byte by byte."""
    raw = b"".join(line + b"\n" for line in lines)
    bytewise, by_pieces = SseParser(), SseParser()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=4)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    one = [event for place in range(len(raw)) for event in bytewise.feed(raw[place : place + 1])]
    other = [event for piece in pieces for event in by_pieces.feed(piece)]
    assert one == other
