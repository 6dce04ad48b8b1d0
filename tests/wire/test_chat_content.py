from __future__ import annotations

from typing import Any

import pytest

from standby.errors import InvalidParams
from standby.wire.chat.dialect import HOST, OPENAI, VLLM
from tests.wire.chats import CALLED, IMAGE, LINKED, WEATHER, ask, turns

DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
LINK = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def text(said: str) -> dict[str, Any]:
    """Make a text block, which is a text part too."""
    return {"type": "text", "text": said}


def test_images_stand_between_the_texts_where_they_stood() -> None:
    """In base 64 and by URL; neighbouring texts are one part."""
    content = [text("a"), text("b"), IMAGE, text("c"), LINKED]
    assert turns(ask(content))[0]["content"] == [text("a\n\nb"), DATA, text("c"), LINK]


def test_documents_are_framed_as_text() -> None:
    """Plain text and content, with title and context; images in them stay images."""
    plain = {"type": "text", "media_type": "text/plain", "data": "Body."}
    document = {"type": "document", "source": plain, "title": "T", "context": "C"}
    framed = '<document title="T">\n<context>C</context>\nBody.\n</document>'
    assert turns(ask([document, text("?")]))[0]["content"] == f"{framed}\n\n?"
    whole = {"type": "document", "source": {"type": "content", "content": "Body."}}
    assert turns(ask([whole]))[0]["content"] == "<document>\nBody.\n</document>"
    mixed = {"type": "document", "source": {"type": "content", "content": [text("Body."), IMAGE]}}
    assert turns(ask([mixed]))[0]["content"] == [text("<document>\n\nBody."), DATA, text("</document>")]


def test_a_pdf_is_a_file_where_the_engine_takes_files() -> None:
    """With its title as its name."""
    source = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    pdf = {"type": "document", "source": source, "title": "a.pdf", "context": "C"}
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}
    assert turns(ask([pdf]), OPENAI)[0]["content"] == [text("C"), {"type": "file", "file": file}]


def test_a_search_result_is_framed_as_text() -> None:
    """Title and source are what an answer may name."""
    found = {"type": "search_result", "title": "T", "source": "https://a.b", "content": [text("x"), text("y")]}
    framed = '<search_result title="T" source="https://a.b">\nx\n\ny\n</search_result>'
    assert turns(ask([found]))[0]["content"] == framed


def talk(*results: dict[str, Any], calls: int = 1) -> list[dict[str, Any]]:
    """Make a conversation in which tools were called."""
    said = [{**CALLED, "id": f"toolu_{number}"} for number in range(1, calls + 1)]
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [text("I look."), *said]},
        {"role": "user", "content": list(results)},
    ]


def result(number: int, content: Any = None, **more: Any) -> dict[str, Any]:
    """Make the result of a call."""
    given = {} if content is None else {"content": content}
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", **given, **more}


def test_calls_and_results_keep_their_ids() -> None:
    """Several results are several messages, behind the calls; what else was said follows them."""
    params = ask(messages=talk(result(1, "rain"), result(2, [text("sun")]), text("So?"), calls=2), tools=[WEATHER])
    _, called, first, second, more = turns(params)
    assert called["content"] == "I look."
    assert [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in called["tool_calls"]] == [
        ("toolu_1", "weather", '{"city":"Oslo"}'),
        ("toolu_2", "weather", '{"city":"Oslo"}'),
    ]
    assert first == {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"}
    assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": "sun"}
    assert more == {"role": "user", "content": "So?"}


def test_results_stand_behind_their_calls_whatever_was_said_between() -> None:
    """Engines want no other message between calls and results; a turn without text has no content."""
    messages = talk(text("Here:"), result(1, "rain"), calls=1)
    messages[1]["content"] = [CALLED]
    messages.insert(2, {"role": "system", "content": "Be kind."})
    found = turns(ask(messages=messages, tools=[WEATHER]), OPENAI)
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "system", "user"]
    assert found[1]["content"] is None


@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        (None, {}, ""),
        ("", {}, ""),
        ("no city", {"is_error": True}, "Error: no city"),
        ("ok", {"is_error": False}, "ok"),
        ([text("a"), text("b")], {}, "a\n\nb"),
    ],
)
def test_a_result_is_text(content: Any, more: dict[str, Any], expected: str) -> None:
    """Nothing at all, an error, several blocks."""
    assert turns(ask(messages=talk(result(1, content, **more)), tools=[WEATHER]))[2]["content"] == expected


def test_an_image_in_a_result_follows_in_the_users_message() -> None:
    """Messages of tools take text only; a line says where the image comes from."""
    found = turns(ask(messages=talk(result(1, [text("see"), IMAGE]), text("So?")), tools=[WEATHER]))
    assert found[2] == {"role": "tool", "tool_call_id": "toolu_1", "content": "see"}
    assert found[3] == {"role": "user", "content": [text("From the result of toolu_1:"), DATA, text("So?")]}


def test_a_call_without_a_result_is_refused_before_any_engine_sees_it() -> None:
    """With its id, as in the API."""
    with pytest.raises(InvalidParams, match="without `tool_result` blocks immediately after: toolu_2"):
        ask(messages=talk(result(1, "rain"), calls=2))


def test_without_native_tools_calls_and_results_are_text() -> None:
    """In the one convention, in the order in which they stood; results name their tool."""
    _, _, called, results = turns(ask(messages=talk(text("Here:"), result(1, "rain")), tools=[WEATHER]), HOST)
    call = '<tool_call>{"name":"weather","arguments":{"city":"Oslo"}}</tool_call>'
    assert called == {"role": "assistant", "content": f"I look.\n\n{call}"}
    answered = '<tool_response name="weather">\nrain\n</tool_response>'
    assert results == {"role": "user", "content": f"Here:\n\n{answered}"}


def test_calls_of_earlier_turns_need_no_tools_now() -> None:
    """A conversation goes on after its tools were taken away."""
    assert turns(ask(messages=talk(result(1, "rain"))), VLLM)[2]["role"] == "tool"
    assert turns(ask(messages=talk(result(1, "rain"))), HOST)[0]["role"] == "user"
