from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload.faults import BadInput
from tests.workload.conftest import MODEL, Answer, quick

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def body(text: str, **more: Any) -> dict[str, Any]:
    """Write the body of a chat completion."""
    return {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def lines(answer: Answer, tmp_path: Path) -> Any:
    """Run requests of OpenAI's dialect; return the lines that come back, by key."""

    def run(bodies: dict[str, dict[str, Any]], **more: Any) -> dict[str, dict[str, Any]]:
        source = tmp_path / "requests.jsonl"
        line = {"method": "POST", "url": "/v1/chat/completions"}
        source.write_text("".join(json.dumps({"custom_id": k, **line, "body": b}) + "\n" for k, b in bodies.items()))
        given = workload.Source(kind="native", where=str(source))
        answer(given, output="results.jsonl", prompt="", model="", pace=quick(retries=0, **more))
        found = [json.loads(one) for one in (tmp_path / "results.jsonl").read_text().splitlines()]
        return {one["custom_id"]: one for one in found}

    return run


def test_lines_of_openai_have_what_its_clients_read(lines: Any, standby_emulator: Emulator) -> None:
    """Answers, cut answers, refusals and calls of tools, each as a whole chat completion with its usage."""
    standby_emulator.script("*~/^cut/=stop:max_tokens", "*~/^no/=stop:refusal")
    asked = {
        "a": body("plain"),
        "b": body("cut"),
        "c": body("no"),
        "d": body("call", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look"}}),
    }
    found = lines(asked)
    assert list(found) == ["a", "b", "c", "d"]
    for line in found.values():
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        completion = line["response"]["body"]
        assert line["id"].startswith("batch_req_")
        assert line["response"]["request_id"]
        assert (completion["object"], completion["model"][: len(MODEL)]) == ("chat.completion", MODEL)
        assert completion["created"] > 1_700_000_000
        usage = completion["usage"]
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] > 0
        assert (completion["choices"][0]["index"], completion["choices"][0]["message"]["role"]) == (0, "assistant")
    ends = {key: line["response"]["body"]["choices"][0]["finish_reason"] for key, line in found.items()}
    assert ends == {"a": "stop", "b": "length", "c": "content_filter", "d": "tool_calls"}
    (call,) = found["d"]["response"]["body"]["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"], json.loads(call["function"]["arguments"])) == (
        "function",
        "look",
        {},
    )


def test_requests_without_an_answer_say_why(lines: Any, standby_emulator: Emulator) -> None:
    """An error of the service is a response with its status; what was never answered is an error with its code."""
    standby_emulator.script("*~/^bad/=errored:invalid_request_error", "*~/^busy/=errored:overloaded_error")
    found = lines({"a": body("bad"), "b": body("busy"), "c": body("good")})
    assert found["a"]["response"]["status_code"] == 400
    assert found["a"]["response"]["body"]["error"]["type"] == "invalid_request_error"
    assert found["a"]["response"]["body"]["error"]["message"]
    assert (found["b"]["response"]["status_code"], found["b"]["error"]) == (529, None)
    assert found["c"]["response"]["status_code"] == 200


def test_expired_requests_say_so_as_openai_does(answer: Answer, standby_emulator: Emulator, tmp_path: Path) -> None:
    """`batch_expired` is what its clients look for."""
    standby_emulator.script("*=never")
    source = tmp_path / "requests.jsonl"
    source.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "", "body": body("x")}))
    spec = workload.Spec(source=workload.Source(kind="native", where=str(source)), output=str(tmp_path / "out.jsonl"))
    service = workload.Service(standby_emulator.client())
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        workload.submit_job(job, service, pace=quick())
        standby_emulator.advance(hours=24)
        workload.run_job(job, service, pace=quick(retries=0))
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert (found["response"], found["error"]["code"]) == (None, "batch_expired")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"custom_id": "b"}', "line 2: has neither params nor a body"),
        ('{"params": {}}', "line 2: custom_id: is missing"),
        ('{"custom_id": "b", "params": []}', "line 2: params: must be an object"),
        ('{"custom_id": "b", "body": {}, "url": "/v1/embeddings"}', "line 2: url: only /v1/chat/completions"),
        ('{"custom_id": "b", "body": {"messages": [], "n": 2}}', "line 2: body: n: cannot be expressed"),
        ('{"custom_id": "b", "params"', "line 2: "),
        ('{"custom_id": "a", "params": {}}', "row 2: the key 'a' stands twice"),
    ],
)
def test_a_line_that_is_wrong_is_named(
    answer: Answer, standby_emulator: Emulator, tmp_path: Path, line: str, words: str
) -> None:
    """Before anything is sent."""
    source = tmp_path / "requests.jsonl"
    source.write_text(json.dumps({"custom_id": "a", "params": body("x")}) + "\n" + line + "\n")
    with pytest.raises(BadInput, match=words):
        answer(workload.Source(kind="native", where=str(source)), output="out.jsonl", prompt="", model="")
    assert standby_emulator.requests == []
