"""`standby.testing`: a server in this process that leaves nothing behind, and everything that a test does with it."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from standby.emulation.cue import ERROR_TYPES
from standby.errors import SettingError
from standby.testing import Emulator, async_emulator, emulator
from tests.harness import clean_environment

ROOT = Path(__file__).resolve().parents[2]
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    """One emulator for the tests of this file."""
    with emulator() as emu:
        yield emu


@pytest.fixture
def emu(running: Emulator) -> Emulator:
    """As if it had just been started."""
    running.reset()
    return running


def items(*custom_ids: str, text: str = "Say something.") -> Any:
    """Write items of a create."""
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    return [{"custom_id": custom_id, "params": params} for custom_id in custom_ids]


def rows(client: anthropic.Anthropic, batch_id: str) -> dict[str, Any]:
    """Download results by `custom_id`."""
    return {row.custom_id: row.result for row in client.messages.batches.results(batch_id)}


def test_a_batch_ends(emu: Emulator) -> None:
    """The plain way: create, settle, results; what arrived is known."""
    client = emu.client()
    batch = client.messages.batches.create(requests=items("a", "b", "c"))

    emu.settle()

    assert client.messages.batches.retrieve(batch.id).request_counts.succeeded == 3
    assert {result.type for result in rows(client, batch.id).values()} == {"succeeded"}
    assert [(one.operation, one.status, one.items) for one in emu.requests] == [
        ("create", 200, 3),
        ("retrieve", 200, 0),
        ("retrieve", 200, 0),
        ("results", 200, 0),
    ]
    assert emu.requests[0].batch_id == batch.id


def test_counts_stay_until_the_end(emu: Emulator) -> None:
    """As the service does: all items are in processing until the batch ends."""
    client = emu.client()
    emu.script("slow=slow:60")
    batch = client.messages.batches.create(requests=items("quick", "slow"))
    emu.settle()
    assert client.messages.batches.retrieve(batch.id).request_counts.processing == 2
    emu.advance(minutes=1)
    assert client.messages.batches.retrieve(batch.id).request_counts.succeeded == 2


def test_strict_headers(emu: Emulator) -> None:
    """A beta that does not exist is refused, so that a typo is found in a test."""
    with pytest.raises(anthropic.BadRequestError, match="Unexpected value"):
        emu.client().messages.batches.list(extra_headers={"anthropic-beta": "message-batches-2042-01-01"})


def test_every_type_of_error(emu: Emulator) -> None:
    """All nine types of an errored row."""
    client = emu.client()
    emu.script(*(f"{type_}=errored:{type_}" for type_ in ERROR_TYPES))
    batch = client.messages.batches.create(requests=items(*ERROR_TYPES))
    emu.settle()
    found = {custom_id: result.error.error.type for custom_id, result in rows(client, batch.id).items()}
    assert found == {type_: type_ for type_ in ERROR_TYPES}


def test_the_script_of_a_create_is_frozen(emu: Emulator) -> None:
    """The header holds for its batch, whatever is set later; another batch does not see it."""
    client = emu.client()
    header = {"standby-simulate": "*=slow:60+stop:refusal"}
    asked = client.messages.batches.create(requests=items("a"), extra_headers=header)
    plain = client.messages.batches.create(requests=items("a"))
    emu.script("*=stop:max_tokens")
    emu.advance(minutes=2)
    assert rows(client, asked.id)["a"].message.stop_reason == "refusal"
    assert rows(client, plain.id)["a"].message.stop_reason != "refusal"


def test_a_live_request_heeds_the_header(emu: Emulator) -> None:
    """Scripts are for live requests as well; a wrong one is a 400 that shows what is wrong."""
    client = emu.client(max_retries=0)
    ask = items("x")[0]["params"]
    answer = client.messages.create(**ask, extra_headers={"standby-simulate": "say:Hello."})
    assert [block.text for block in answer.content if block.type == "text"] == ["Hello."]
    with pytest.raises(anthropic.InternalServerError):
        client.messages.create(**ask, extra_headers={"standby-simulate": "overloaded_error"})
    with pytest.raises(anthropic.BadRequestError, match=r"standby-simulate: .*is no action"):
        client.messages.create(**ask, extra_headers={"standby-simulate": "explode"})


def test_expiry_takes_a_second(emu: Emulator) -> None:
    """After 24 hours what never ran is expired, what ran has its result, and the sum is right."""
    client = emu.client()
    emu.script("late-*=never", "retried=fail:overloaded_error:2")
    batch = client.messages.batches.create(requests=items("late-1", "late-2", "retried", "fine"))
    emu.advance(hours=23)
    assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    emu.advance(hours=1)
    ended = client.messages.batches.retrieve(batch.id)
    assert (ended.processing_status, ended.ended_at) == ("ended", ended.ended_at)
    assert (ended.request_counts.expired, ended.request_counts.succeeded) == (2, 2)
    assert {name for name, result in rows(client, batch.id).items() if result.type == "expired"} == {"late-1", "late-2"}
    assert ended.ended_at is not None
    assert ended.ended_at - ended.created_at >= DAY


def test_an_engine_that_is_overloaded_all_day(emu: Emulator) -> None:
    """What is tried again until the batch expires is expired, not errored."""
    client = emu.client()
    emu.script("*=fail:overloaded_error:1000000")
    batch = client.messages.batches.create(requests=items("a", "b"))
    emu.advance(hours=24)
    assert client.messages.batches.retrieve(batch.id).request_counts.expired == 2


def test_archive_after_29_days(emu: Emulator) -> None:
    """The batch stays, its results go."""
    client = emu.client()
    batch = client.messages.batches.create(requests=items("a"))
    emu.advance(days=28, hours=23)
    assert rows(client, batch.id)["a"].type == "succeeded"
    emu.advance(hours=1)
    archived = client.messages.batches.retrieve(batch.id)
    assert archived.archived_at is not None
    assert archived.results_url is None
    with pytest.raises(anthropic.AnthropicError):
        client.messages.batches.results(batch.id)


def test_cancel_in_the_middle(emu: Emulator) -> None:
    """What is at the model goes on, the rest is canceled."""
    with emulator(simulator__slots=3) as small:
        client = small.client()
        small.script("*=slow:10")
        batch = client.messages.batches.create(requests=items(*(f"i{number}" for number in range(8))))
        small.settle()
        assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
        small.advance(seconds=20)
        counts = client.messages.batches.retrieve(batch.id).request_counts
        assert counts.processing == 0
        assert counts.succeeded + counts.canceled == 8


def test_time_passes_in_its_order(emu: Emulator) -> None:
    """What waits for a place gets it as soon as it is free, not after the whole jump."""
    with emulator(simulator__slots=2, simulator__decode_tokens_s=1.0, simulator__answer_tokens=10) as small:
        client = small.client()
        batch = client.messages.batches.create(requests=items(*(f"i{number}" for number in range(6))))
        small.advance(seconds=15)
        assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        small.advance(minutes=10)
        ended = client.messages.batches.retrieve(batch.id)
        assert ended.request_counts.succeeded == 6
        assert ended.ended_at is not None
        assert dt.timedelta(seconds=55) < ended.ended_at - ended.created_at < dt.timedelta(seconds=90)


def test_a_lost_create_makes_one_batch(emu: Emulator) -> None:
    """The SDK's own retry after a reset gets the batch that the first try made."""
    emu.fault("create=lost+times:1")
    client = emu.client(max_retries=2)
    batch = client.messages.batches.create(requests=items("a"))
    tries = [one for one in emu.requests if one.operation == "create"]
    assert [one.retry for one in tries] == [0, 1]
    assert {one.batch_id for one in tries} == {batch.id}
    assert [one.id for one in client.messages.batches.list()] == [batch.id]


def test_a_create_that_never_came(emu: Emulator) -> None:
    """A connection that breaks before the request is looked at makes nothing."""
    emu.fault("create=reset")
    client = emu.client(max_retries=0)
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=items("a"))
    assert list(client.messages.batches.list()) == []


@pytest.mark.parametrize(("cut", "whole"), [("cut:3", 3), ("cut_inside:3", 3), ("cut:0", 0)])
def test_truncated_results(emu: Emulator, cut: str, whole: int) -> None:
    """The client gets whole rows (the SDK holds the last one back), then an error; the next try gets all."""
    client = emu.client(max_retries=0)
    batch = client.messages.batches.create(requests=items(*(f"i{number}" for number in range(9))))
    emu.settle()
    emu.fault(f"results={cut}+times:1")
    seen: list[Any] = []
    with pytest.raises(Exception, match=r"incomplete|peer closed|EOF|Expecting|Unterminated|control character"):
        seen.extend(client.messages.batches.results(batch.id))
    assert max(0, whole - 1) <= len(seen) <= whole
    assert len(rows(client, batch.id)) == 9


def test_slow_results_are_whole(emu: Emulator) -> None:
    """A slow line changes nothing but the time."""
    client = emu.client()
    batch = client.messages.batches.create(requests=items("a", "b"))
    emu.settle()
    emu.fault("results=slow:20000+times:1")
    assert set(rows(client, batch.id)) == {"a", "b"}


def test_a_storm_of_429(emu: Emulator) -> None:
    """An SDK survives as many as it retries; the limit has its headers."""
    emu.fault("create=429+retry_after:0+times:2")
    client = emu.client(max_retries=3)
    client.messages.batches.create(requests=items("a"))
    assert [one.status for one in emu.requests] == [429, 429, 200]
    emu.fault({"at": "POST /v1/messages/*", "do": "429+retry_after:7"})
    with pytest.raises(anthropic.RateLimitError) as caught:
        emu.client(max_retries=0).messages.batches.create(requests=items("a"))
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (503, anthropic.APIStatusError),
        (529, anthropic.APIStatusError),
    ],
)
def test_statuses(emu: Emulator, status: int, kind: type[anthropic.APIStatusError]) -> None:
    """Every status has its class in the SDK, with its type and an id."""
    emu.fault(f"*={status}")
    with pytest.raises(kind) as caught:
        emu.client(max_retries=0).models.list()
    assert caught.value.status_code == status
    assert caught.value.request_id is not None


def test_reset(emu: Emulator) -> None:
    """Batches, script, faults and requests are gone, what never ends included; the clock stays."""
    client = emu.client()
    emu.script("*=never")
    for _ in range(3):
        client.messages.batches.create(requests=items("a"))
    emu.fault("list=500")
    before = emu.now
    emu.reset()
    assert emu.requests == []
    assert list(client.messages.batches.list()) == []
    assert emu.now >= before
    batch = client.messages.batches.create(requests=items("a"))
    emu.settle()
    assert rows(client, batch.id)["a"].type == "succeeded"


def test_no_test_knows_the_last_one(emu: Emulator) -> None:
    """What the prompt cache held and which tries were made is forgotten as well."""
    client = emu.client(max_retries=0)
    text = [{"type": "text", "text": "word " * 9000, "cache_control": {"type": "ephemeral"}}]
    ask = {**items("x")[0]["params"], "system": text}
    for _ in range(2):
        emu.script("fail:overloaded_error")
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**ask)
        assert client.messages.create(**ask).usage.cache_read_input_tokens == 0
        assert (client.messages.create(**ask).usage.cache_read_input_tokens or 0) >= 9000
        emu.reset()


def test_the_metrics_of_the_engine() -> None:
    """An engine profile has metrics, and they are served."""
    with (
        emulator(simulator__profile="vllm") as emu,
        urllib.request.urlopen(f"{emu.url}/standby/v1/simulator/metrics") as answer,
    ):
        assert b"vllm:num_requests_running" in answer.read()


def test_what_it_was_started_with_is_set_again() -> None:
    """`reset` goes back to the start, not to nothing."""
    with emulator(script="a=refusal", faults=["list=500"]) as emu:
        client = emu.client(max_retries=0)
        for _ in range(2):
            batch = client.messages.batches.create(requests=items("a"))
            emu.settle()
            assert rows(client, batch.id)["a"].message.stop_reason == "refusal"
            with pytest.raises(anthropic.InternalServerError):
                client.messages.batches.list()
            emu.reset()


def test_what_is_wrong_is_said(emu: Emulator) -> None:
    """A script or a fault that cannot be understood."""
    with pytest.raises(RuntimeError, match=r"rule 2: .*is no action"):
        emu.script("ok", "explode")
    with pytest.raises(RuntimeError, match=r"fault 1: .*is no place"):
        emu.fault("somewhere=500")
    with pytest.raises(RuntimeError, match="is no time"):
        emu.advance(hours=-1)
    with pytest.raises(SettingError, match=r"batch\.windows: no such setting"), emulator(batch__windows=1):
        pass


def test_a_script_file(tmp_path: Path) -> None:
    """`simulator.script` names a TOML file of rules and faults, which stay whatever is reset."""
    file = tmp_path / "script.toml"
    file.write_text(
        '[[rule]]\nmatches = "capital of (\\\\w+)"\nsay = "The capital of {1}."\n'
        '[[fault]]\nat = "models"\ndo = "500"\n',
        encoding="utf-8",
    )
    with emulator(simulator__script=str(file)) as emu:
        emu.reset()
        client = emu.client(max_retries=0)
        answer = client.messages.create(**items("x", text="What is the capital of France?")[0]["params"])
        assert [block.text for block in answer.content if block.type == "text"] == ["The capital of France."]
        with pytest.raises(anthropic.InternalServerError):
            client.models.list()
    file.write_text("[[rule]]\ndo = 'explode'\n", encoding="utf-8")
    with pytest.raises(SettingError, match=r"simulator\.script: .*script\.toml: rule 1: .*is no action"):
        emulator(simulator__script=str(file)).__enter__()


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No thread, no file and no signal handler, though a batch runs for ever; bodies of megabytes need a child."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, handlers = threading.active_count(), [signal.getsignal(number) for number in (2, 15, 17)]
    with emulator(script="*=never") as emu:
        client = emu.client()
        batch = client.messages.batches.create(requests=items("a", "b", text="x" * 2_000_000))
        emu.settle()
        assert client.messages.batches.retrieve(batch.id).request_counts.processing == 2
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    assert [signal.getsignal(number) for number in (2, 15, 17)] == handlers


def test_two_at_once() -> None:
    """Each has its own clock and its own batches."""
    with emulator() as one, emulator() as other:
        one.advance(days=3)
        one.client().messages.batches.create(requests=items("a"))
        assert one.now - other.now > 2 * DAY
        assert list(other.client().messages.batches.list()) == []


async def test_in_an_asynchronous_test() -> None:
    """The asynchronous variant serves while the test's own loop runs."""
    async with async_emulator(script="b=never") as emu:
        client = emu.client()
        batch = await client.messages.batches.create(requests=items("a", "b"))
        await emu.script("*=stop:refusal")
        await emu.advance(hours=24)
        counts = (await client.messages.batches.retrieve(batch.id)).request_counts
        assert counts.succeeded + counts.expired == 2
        await emu.fault("list=500")
        assert [one.operation for one in await emu.requests()] == ["create", "retrieve"]
        await emu.reset()
        await emu.settle()
        answers = await asyncio.gather(*(client.messages.batches.create(requests=items("x")) for _ in range(5)))
        assert len({one.id for one in answers}) == 5
        assert await emu.now() > dt.datetime.now(tz=dt.UTC) + DAY / 2


def test_the_pytest_plugin(tmp_path: Path) -> None:
    """Its fixture gives every test a fresh emulator; one server runs for all."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert declared["pytest11"] == {"standby": "standby.testing.plugin"}
    (tmp_path / "test_it.py").write_text(
        """
import asyncio
urls = []

def test_one(standby_emulator):
    urls.append(standby_emulator.url)
    standby_emulator.script("*=never")
    standby_emulator.client().messages.batches.create(requests=[{"custom_id": "a", "params": {}}])

def test_two(standby_emulator):
    assert urls == [standby_emulator.url]
    assert standby_emulator.requests == []
    assert list(standby_emulator.client().messages.batches.list()) == []

async def test_three(standby_emulator):
    client = standby_emulator.async_client()
    assert (await client.messages.batches.list()).data == []
    await client.close()
""",
        encoding="utf-8",
    )
    options = "-q -p standby.testing.plugin -p pytest_asyncio.plugin -o asyncio_mode=auto -p no:cacheprovider -W error"
    options += " -o asyncio_default_fixture_loop_scope=function"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split(), "test_it.py"],
        cwd=tmp_path,
        env=clean_environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
