from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from standby.config import EngineSettings
from standby.engines.base import Context, Engine
from standby.engines.chat import Chat
from standby.engines.local import Local
from standby.errors import EngineError, Failure, StartError
from standby.records import Rules
from standby.wire.chat.dialect import HOST
from standby.wire.messages import Event, MessageParams, decode_params
from tests.engines.asking import Told
from tests.engines.conftest import RunningHost
from tests.engines.features import Feature, Lack
from tests.engines.hostclient import LONG_TEXT, HostClient, ending, text_of
from tests.engines.suite import EngineSuite
from tests.wire.grammar.test_compile import GOOD

pytestmark = pytest.mark.real
USAGE = {"include_usage": True, "continuous_usage_stats": True}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class TestOpenVino(EngineSuite):
    """The embedded engine behind the adapter that drives it."""

    model = "claude-anything"
    key = "host"
    title = "embedded host"
    lacks: ClassVar[Mapping[Feature, Lack]] = {
        Feature.IMAGES: Lack(field="messages.0.content.0.type", why="models of text"),
        Feature.THINKING: Lack(field="thinking.type", why="no model that thinks"),
    }

    @staticmethod
    def version() -> str:
        """Say which release was asked."""
        return f"openvino-genai {version_of('openvino-genai')}, SmolLM2-135M-Instruct Q4_1"

    @pytest.fixture
    async def engine(self, openvino_host: RunningHost) -> AsyncIterator[Engine]:
        """Connect to the session's host."""
        engine = Chat(EngineSettings(), uds=openvino_host.uds, dialect=HOST, slots=openvino_host.slots)
        await engine.start()
        yield engine
        await engine.close()


@pytest.fixture
async def host(openvino_host: RunningHost) -> AsyncIterator[HostClient]:
    """Talk to the session's host, and leave it idle."""
    async with HostClient(openvino_host.uds) as client:
        await client.wait_idle()
        yield client
        await client.wait_idle()


async def test_alone_and_greedy_an_answer_repeats_itself(host: HostClient) -> None:
    """The same request alone at temperature 0 gives the same text."""
    first = await host.settled(max_tokens=24)
    assert (await host.ask(max_tokens=24))["choices"] == first["choices"]


async def test_a_seed_repeats_a_sampled_answer(host: HostClient) -> None:
    """With a seed, sampling gives the same text alone; with another one it may not."""
    asked = {"text": LONG_TEXT, "temperature": 1.0, "top_p": 0.95, "top_k": 50, "max_tokens": 24}
    first = await host.settled(**asked, seed=7)
    assert (await host.ask(**asked, seed=7))["choices"] == first["choices"]
    others = [await host.ask(**asked, seed=seed) for seed in (1, 2, 3)]
    assert any(other["choices"] != first["choices"] for other in others)


async def test_deltas_add_up_to_the_whole_answer(host: HostClient) -> None:
    """A stream's text is the same as the answer given whole, characters beyond ASCII included."""
    text = "Repeat exactly: naïve café 你好 🙂🙂"
    whole = await host.settled(text=text, max_tokens=40)
    chunks = [chunk async for chunk in host.stream(text=text, max_tokens=40)]
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert "\ufffd" not in text_of(chunks)[:-1]


async def test_a_stop_string_that_crosses_tokens_is_found_and_named(host: HostClient) -> None:
    """Text before it is given, nothing after, and the reply says which one it was."""
    whole = (await host.settled(text=LONG_TEXT, max_tokens=30))["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 - 4 : len(whole) // 2 + 4]
    chunks = [c async for c in host.stream(text=LONG_TEXT, max_tokens=30, stop=["\u241enever", stop])]
    assert ending(chunks)["stop_reason"] == stop
    assert ending(chunks)["finish_reason"] == "stop"
    assert text_of(chunks) == whole[: whole.index(stop)]


@pytest.mark.parametrize("priority", [0, 10])
async def test_a_schema_is_kept(host: HostClient, priority: int) -> None:
    """The answer parses and has the schema's fields."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = await host.ask(text="Invent a person.", max_tokens=90, response_format=form, priority=priority)
    person = msgspec.json.decode(answer["choices"][0]["message"]["content"])
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


async def test_a_schema_that_cannot_be_enforced_is_refused_and_does_no_harm(host: HostClient) -> None:
    """The fault names its place, and the next request is answered."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}
    refused = await host.ask(response_format=form)
    assert refused["status"] == 400
    assert refused["error"]["code"] == "invalid_schema"
    assert "schema.type" in refused["error"]["message"]
    assert (await host.ask(max_tokens=2))["status"] == 200


async def test_every_schema_that_passes_the_door_compiles(host: HostClient) -> None:
    """What the check lets in, the library can enforce: a schema that it cannot would end the host."""
    for schema in GOOD:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert (await host.ask(response_format=form, max_tokens=2))["status"] == 200


async def test_live_work_runs_alone_and_batch_work_goes_on_after_it(host: HostClient) -> None:
    """While a live request is written, no batch request gets a token; each batch request ends with all of its own."""
    events: list[tuple[str, dict[str, Any]]] = []
    running = asyncio.Event()

    async def read(name: str, priority: int, tokens: int) -> list[dict[str, Any]]:
        chunks = []
        asked = {"max_tokens": tokens, "ignore_eos": True, "priority": priority, "stream_options": USAGE}
        async for chunk in host.stream(text=f"{LONG_TEXT}{name}", **asked):
            events.append((name, chunk))
            chunks.append(chunk)
            if len({n for n, _ in events}) == 5:
                running.set()
        return chunks

    batch = [asyncio.create_task(read(f"batch-{n}", 10, 60)) for n in range(5)]
    await running.wait()
    live = await read("live", 0, 12)
    answers = await asyncio.gather(*batch)

    of_live = [place for place, (name, _) in enumerate(events) if name == "live"]
    between = {name for name, _ in events[of_live[1] : of_live[-1]]}
    assert between == {"live"}
    assert live[-1]["usage"]["completion_tokens"] == 12
    assert all(chunks[-1]["usage"]["completion_tokens"] == 60 for chunks in answers)
    assert all(ending(chunks)["finish_reason"] == "length" for chunks in answers)
    assert any(name != "live" for name, _ in events[of_live[-1] :])
    assert await host.metric("standby_host_pauses_total") >= 5
    assert 0 < await host.metric("standby_host_recomputed_tokens_total") < 5 * 120


async def test_a_stop_string_is_found_across_a_pause(host: HostClient) -> None:
    """A batch answer that is paused again and again still ends at its stop string."""
    asked: dict[str, Any] = {"text": LONG_TEXT, "max_tokens": 24, "priority": 10}
    whole = (await host.ask(**asked))["choices"][0]["message"]["content"]
    reading = asyncio.create_task(host.ask(**asked, stop=[whole[-12:-6]]))
    while not reading.done():
        await host.ask(text="Hi.", max_tokens=1)
    answer = (await reading)["choices"][0]
    assert answer["stop_reason"] in {whole[-12:-6], None}
    assert whole[-12:-6] not in answer["message"]["content"]


async def test_a_structured_batch_answer_survives_live_work(host: HostClient) -> None:
    """It starts again or runs on beside live work; in both cases it is whole."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    asked = {"text": "Invent a person.", "max_tokens": 90, "response_format": form, "priority": 10}
    reading = asyncio.create_task(host.ask(**asked))
    for _ in range(3):
        await host.ask(text="Hi.", max_tokens=2)
    person = msgspec.json.decode((await reading)["choices"][0]["message"]["content"])
    assert set(person) == {"name", "age"}


@pytest.mark.parametrize("priority", [0, 10])
async def test_a_client_that_leaves_frees_its_sequence(host: HostClient, priority: int) -> None:
    """Closing the connection stops the work, long before its tokens are used up."""
    async with aclosing(host.stream(text=LONG_TEXT, max_tokens=5000, ignore_eos=True, priority=priority)) as chunks:
        await anext(chunks)
    await host.wait_idle(bound_s=20)


async def test_a_client_that_leaves_while_its_sequence_is_paused_frees_it(host: HostClient) -> None:
    """A paused sequence says nothing, and still its client is noticed to be gone."""
    batch = host.stream(text=LONG_TEXT, max_tokens=5000, ignore_eos=True, priority=10)
    await anext(batch)
    async with aclosing(host.stream(text=LONG_TEXT, max_tokens=5000, ignore_eos=True)) as live:
        await anext(live)
        await batch.aclose()
        async with asyncio.timeout(20):
            paused = 'standby_host_sequences{class="batch",state="paused"}'
            while await host.metric(paused):  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.01)


async def test_a_repeated_prefix_is_read_from_the_cache(host: HostClient) -> None:
    """Cached tokens grow for a prompt that was there before, by whole blocks and never to the full prompt."""
    text = " ".join(f"word{n}" for n in range(120)) + " " + os.urandom(4).hex()
    first = (await host.ask(text=f"{os.urandom(4).hex()} {text}", max_tokens=1))["usage"]
    asked = {"text": f"{text} and then?", "max_tokens": 1}
    before = (await host.ask(**asked))["usage"]
    after = (await host.ask(**asked))["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] < 64
    assert before["prompt_tokens_details"]["cached_tokens"] < 64
    assert after["prompt_tokens"] - 33 <= after["prompt_tokens_details"]["cached_tokens"] < after["prompt_tokens"]


async def test_what_the_engine_reused_is_told_although_nobody_marked_it(openvino_host: RunningHost) -> None:
    """The second time all but the last block comes out of the cache; usage shows the whole prompt as input."""
    engine = Chat(EngineSettings(), uds=openvino_host.uds, dialect=HOST, slots=openvino_host.slots)
    await engine.start()
    told = Told()
    body = {
        "model": "claude-anything",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": f"{os.urandom(4).hex()} {' '.join(f'word{n}' for n in range(120))}"}],
    }
    params = decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)
    usages = [(await engine.generate(params, context=Context(watch=told))).usage for _ in range(2)]
    await engine.close()
    (prompt, first), (_, second) = told.prompts
    assert first < 64
    assert prompt - 33 <= second < prompt
    assert [(usage.input_tokens, usage.cache_read_input_tokens) for usage in usages] == [(prompt, 0)] * 2


async def test_counted_tokens_are_the_prompt_tokens_of_usage(host: HostClient) -> None:
    """What /count_tokens says is what the request is charged."""
    assert await host.count(LONG_TEXT) == (await host.ask(text=LONG_TEXT, max_tokens=1))["usage"]["prompt_tokens"]


async def test_a_prompt_that_is_too_long_is_refused(host: HostClient) -> None:
    """The refusal has a code and both numbers."""
    refused = await host.ask(text="word " * 4000, max_tokens=1)
    assert refused["status"] == 400
    assert refused["error"]["code"] == "context_length_exceeded"
    assert "maximum" in refused["error"]["message"]


async def test_more_work_than_memory_is_all_done(host: HostClient) -> None:
    """With less KV memory than a batch would like, sequences wait or make way, and each ends with all its tokens."""
    texts = [f"{n} " + "river stone " * 130 for n in range(7)]
    asked = {"max_tokens": 24, "ignore_eos": True, "priority": 10}
    answers = await asyncio.gather(*(host.ask(text=text, **asked) for text in texts))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [24] * 7


async def test_a_prompt_that_was_interrupted_while_it_was_read_is_read_right(host: HostClient) -> None:
    """Clients leave and live work comes in mid-prompt; who finds those prompts in the cache gets no nonsense.

    The library keeps half computed blocks of a sequence that is stopped before its first token; whoever found them
    there answered with token 0 for ever.
    """
    prompts = [f"Customer {n}. " + f"On day {n} they opened {n * 7} tickets. " * (8 + n) for n in range(12)]

    async def ask(text: str, priority: int) -> dict[str, Any]:
        return await host.ask(text=text, max_tokens=6, priority=priority)

    for _ in range(2):
        leaving = [asyncio.create_task(ask(text, n % 2 * 10)) for n, text in enumerate(prompts)]
        for task in leaving:
            await host.ask(text="Say hello.", max_tokens=1, priority=0)
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    answers = await asyncio.gather(*(ask(text, 10) for text in prompts), host.ask(max_tokens=9, priority=0))

    assert [a for a in answers if not a["choices"][0]["message"]["content"].strip()] == []


def test_the_host_opens_no_connection_to_anywhere(openvino_host: RunningHost) -> None:
    """It holds unix sockets only, and the telemetry package never got into it."""
    held = set()
    for path in Path(f"/proc/{openvino_host.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a file may be closed while we look
            held.add(str(path.readlink()))
    inodes = {name[8:-1] for name in held if name.startswith("socket:[")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = Path(f"/proc/{openvino_host.pid}/net/{table}").read_text().splitlines()[1:]
        assert not inodes & {row.split()[9] for row in rows}
    assert "openvino_telemetry" not in Path(f"/proc/{openvino_host.pid}/maps").read_text()


def test_telemetry_is_silent_from_the_import_on() -> None:
    """Loading OpenVINO as the host does resolves no name, opens no socket and starts no process."""
    program = """
import sys
seen = []
watched = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen"}
sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)
from standby.host.pipeline import silence_telemetry
silence_telemetry()
import openvino_genai
import openvino.tools.ovc.telemetry_utils as utils
assert utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", utils.tm.__name__
assert sys.modules["openvino_telemetry"] is None
assert seen == [], seen
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def params(text: str = LONG_TEXT, **more: Any) -> MessageParams:
    """Make params of a request."""
    body = {"model": "claude-x", "max_tokens": 8, "messages": [{"role": "user", "content": text}], **more}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    """Read a stream to its end."""
    return [event async for event in events]


def is_gone(pid: int) -> bool:
    """Say whether a process has ended (or waits to be buried)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def until(condition: Callable[[], bool], *, bound_s: float = 60) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(bound_s):
        while not condition():  # noqa: ASYNC110 - processes have no event to wait for
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("backend", ["openvino", "llamacpp"])
async def test_a_killed_host_breaks_what_was_in_flight_and_comes_back(backend: Any) -> None:
    """SIGKILL in the middle of an answer: BROKEN, then UNREACHABLE, then a new host answers; close leaves nothing."""
    engine = Local(EngineSettings(kv_cache_mb=64, slots=2, context=1024), backend=backend)
    await engine.start()
    await engine.wait_ready()
    first = engine.pid
    assert first is not None
    events = engine.stream(params(max_tokens=900))
    await anext(events)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(EngineError) as broken:
        await collect(events)
    assert broken.value.failure in {Failure.BROKEN, Failure.UNREACHABLE}
    await until(lambda: engine.pid != first)
    if not engine.ready():
        with pytest.raises(EngineError) as unreachable:
            await engine.generate(params())
        assert unreachable.value.failure is Failure.UNREACHABLE
    await engine.wait_ready()
    second = engine.pid
    assert second not in {None, first}
    assert (await engine.generate(params())).usage.output_tokens > 0
    assert await engine.resolve("claude-sonnet-5") == (await engine.models())[0].id
    await engine.close()
    assert not engine.ready()
    await until(lambda: is_gone(second or 0))


async def test_a_killed_server_leaves_no_host_behind() -> None:
    """When the process that started the host is killed, the host ends by itself."""
    program = """
import asyncio
from standby.config import EngineSettings
from standby.engines.local import Local

async def main():
    engine = Local(EngineSettings(slots=1, context=512), backend="llamacpp")
    await engine.start()
    await engine.wait_ready()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert server.stdout is not None
    line = b""
    while not line.strip().isdigit():
        line = await server.stdout.readline()
        assert line
    server.kill()
    await server.wait()
    await until(lambda: is_gone(int(line)))


async def test_a_file_that_is_no_model_stops_the_start(tmp_path: Path) -> None:
    """The error names the setting and the file."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(StartError, match=r"engine\.model"):
        await Local(EngineSettings(model=str(path))).start()
