"""`standby engines probe`: what is found out about an endpoint, and how each thing is known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from standby.cli import main
from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.engines.chat.probe import probe
from standby.engines.chat.trials import Trials
from standby.engines.findings import Finding, Findings, as_json
from standby.wire.chat.dialect import LLAMACPP, VLLM
from tests.engines.chat.scripted import Script, chunk, status, stream, usage

PROPS = {"total_slots": 3, "default_generation_settings": {"n_ctx": 2048}, "build_info": "b11549"}
METRICS = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
MARKERS = 5
"""Tokens that close a turn and open the next."""


class Able:
    """An engine that really counts, caches, calls, sees, goes on and names stops: each can be switched off."""

    def __init__(self) -> None:
        """Be able to do everything."""
        self.cannot: set[str] = set()
        self.seen: set[str] = set()

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Answer by what is asked for."""
        if "image" in self.refused(body):
            return await status(400, {"error": {"message": "image input is not supported"}})(request, body)
        if "priority" in body and "priority" in self.cannot:
            words = "Got priority 10 but Priority scheduling is not enabled."
            return await status(400, {"error": {"message": words}})(request, body)
        prompt, cached = self.prompt_of(body["messages"])
        pieces = self.pieces_of(body)
        return await stream(*pieces, usage(prompt, len(pieces), cached))(request, body)

    def refused(self, body: dict[str, Any]) -> set[str]:
        """Name what this engine cannot do and the request asks for."""
        parts = [turn["content"] for turn in body["messages"] if isinstance(turn["content"], list)]
        return {"image"} & self.cannot if parts else set()

    def prompt_of(self, turns: list[dict[str, Any]]) -> tuple[int, int]:
        """Count a word as a token, and markers around each turn; an answer that goes on has none behind it."""
        tokens = 0
        for turn in turns:
            content = turn["content"] if isinstance(turn["content"], str) else "a picture and some words"
            tokens += len(content.split()) + MARKERS
        if turns[-1]["role"] == "assistant" and "prefill" not in self.cannot:
            tokens -= MARKERS
        text = json.dumps(turns)
        cached = tokens if text in self.seen and "cached" not in self.cannot else 0
        self.seen.add(text)
        return tokens, cached

    def pieces_of(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Write the chunks of an answer."""
        if {"response_format", "grammar"} & set(body) and "schema" not in self.cannot:
            return [chunk('{"colour": "red", '), chunk('"size": 3}', finish="stop")]
        if "tools" in body and "tools" not in self.cannot:
            call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            return [{"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}]
        if "stop" in body:
            named = {} if "stops" in self.cannot else {"stop_reason": "e"}
            return [chunk("Th"), chunk("", finish="stop", **named)]
        return [*[chunk("word ")] * (body.get("max_tokens", 1) - 1), chunk("end", finish="length")]


@pytest.fixture
def able(script: Script) -> Able:
    """Put an able engine behind the script: llama.cpp's pages."""
    able = Able()
    script.answer = able.answer
    listed = {"data": [{"id": "m", "owned_by": "llamacpp"}]}
    tokens = {"/apply-template": {"prompt": "x"}, "/tokenize": {"tokens": [1, 2]}}
    script.pages = {"/v1/models": listed, "/props": PROPS, "/metrics": METRICS, **tokens}
    return able


async def found(script: Script, *, deep: bool = True, **settings: Any) -> Findings:
    """Probe."""
    return await probe(EngineSettings(kind=script.url, **settings), deep=deep)


TRIALS = {
    "cached_tokens": "cached",
    "json_schema": "schema",
    "tools": "tools",
    "images": "image",
    "prefill": "prefill",
    "names_stops": "stops",
}


async def test_an_able_engine_is_found_able(script: Script, able: Able) -> None:
    """Each thing was tried, and speeds were measured."""
    findings = await found(script)
    assert {name: getattr(findings, name).value for name in TRIALS} == dict.fromkeys(TRIALS, True)
    assert {getattr(findings, name).how for name in TRIALS} == {"tried"}
    assert findings.counts_tokens == Finding(value=True, how="tried", note="a sentence has 2")
    for speed in (findings.prefill_tokens_s, findings.decode_tokens_s):
        assert speed is not None
        assert isinstance(speed.value, float)
        assert speed.value > 0


@pytest.mark.parametrize(("name", "cannot"), TRIALS.items())
async def test_each_inability_is_found(script: Script, able: Able, name: str, cannot: str) -> None:
    """And nothing else is taken for one."""
    able.cannot = {cannot}
    findings = await found(script)
    assert [trial for trial in TRIALS if not getattr(findings, trial).value] == [name]
    assert getattr(findings, name).how == "tried"


async def test_what_an_engine_says_of_itself_is_asked(script: Script, able: Able) -> None:
    """Engine, version, slots, context, metrics; the cache of its kind is assumed."""
    findings = await found(script, deep=False)
    assert findings.engine == Finding(value="llamacpp", how="asked")
    assert findings.version == Finding(value="b11549", how="asked")
    assert findings.slots == Finding(value=3, how="asked")
    assert findings.cache == Finding(value="per_slot", how="assumed")
    assert findings.metrics == Finding(value=True, how="tried", note="running, waiting")
    assert [(model.id, model.max_input_tokens) for model in findings.models] == [("m", 2048)]


async def test_asking_alone_generates_nothing(script: Script, able: Able) -> None:
    """A hosted engine would charge for it."""
    findings = await found(script, deep=False)
    assert script.sent == []
    assert (findings.json_schema, findings.prefill_tokens_s) == (None, None)


async def test_settings_are_shown_as_set(script: Script, able: Able) -> None:
    """They override what would be found."""
    findings = await found(script, deep=False, slots=7, cache="none", images="off", dialect="vllm")
    shown = {name: one.value for name, one in findings.found() if one.how == "set"}
    assert shown == {"slots": 7, "cache": "none", "images": False, "engine": "vllm"}


@pytest.mark.parametrize(("cannot", "expected"), [(set(), True), ({"priority"}, False)])
async def test_a_priority_is_tried(script: Script, able: Able, cannot: set[str], *, expected: bool) -> None:
    """On vLLM, whose policy cannot be asked for."""
    script.pages["/v1/models"] = {"data": [{"id": "m", "owned_by": "vllm"}]}
    able.cannot = cannot
    findings = await found(script)
    assert findings.priority is not None
    assert (findings.priority.value, findings.priority.how) == (expected, "tried")


async def test_an_engine_that_fails_is_not_called_unable(script: Script, able: Able) -> None:
    """A trial that broke leaves the question open and says why."""
    script.answer = status(500)
    findings = await found(script)
    assert findings.reachable.value is True
    assert findings.json_schema == Finding(value=None, how="tried", note="the engine failed (500)")
    assert findings.decode_tokens_s == Finding(value=None, how="tried", note="the engine failed (500)")


async def test_nobody_there_is_said(script: Script) -> None:
    """With the reason."""
    findings = await probe(EngineSettings(kind="http://127.0.0.1:1"))
    assert findings.reachable.value is False
    assert "cannot be reached" in findings.reachable.note
    assert [name for name, _ in findings.found()] == ["reachable"]


async def test_findings_are_plain_values_for_scripts(script: Script, able: Able) -> None:
    """Every finding with how it is known."""
    shown = json.loads(json.dumps(as_json(await found(script))))
    assert shown["models"] == [{"id": "m", "max_input_tokens": 2048, "features": shown["models"][0]["features"]}]
    assert shown["slots"] == {"value": 3, "how": "asked", "note": ""}
    assert shown["model"] == "m"


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Run an able engine in a thread, for a command that has its own event loop."""
    import asyncio  # noqa: PLC0415

    loop, urls = asyncio.new_event_loop(), []
    ready = threading.Event()

    async def serve() -> web.AppRunner:
        script, able = Script(), Able()
        script.answer = able.answer
        script.pages = {"/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}, "/props": PROPS}
        runner = await script.start()
        urls.append(script.url)
        ready.set()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(serve())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    yield urls[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_the_command_prints_a_table(elsewhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a finding: what, what was found, how it is known."""
    assert main(["engines", "probe", elsewhere]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["engine", "llamacpp", "asked"] in lines
    assert ["slots", "3", "asked"] in lines
    assert ["json", "schema", "yes", "tried"] in lines
    assert ["model", "m", "2048", "tokens", "asked"] in lines


def test_the_command_prints_json(elsewhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts."""
    assert main(["engines", "probe", elsewhere, "--json", "--ask-only"]) == 0
    assert json.loads(capsys.readouterr().out)["slots"]["value"] == 3


def test_the_command_fails_if_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and the reason in the table."""
    assert main(["engines", "probe", "http://127.0.0.1:1"]) == 1
    assert "cannot be reached" in capsys.readouterr().out


async def test_a_schema_is_tried_as_it_will_be_asked_for(script: Script) -> None:
    """By our grammar where schemas go as one; by `response_format` elsewhere."""
    for dialect, field in ((LLAMACPP, "grammar"), (VLLM, "response_format")):
        engine = Chat(EngineSettings(), base_url=script.url, dialect=dialect)
        assert not await Trials(engine.connection, dialect, "little-model").obeys_schema()
        assert field in script.sent[-1]
        assert len({"grammar", "response_format"} & set(script.sent[-1])) == 1
        await engine.close()
