from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest
from anthropic import AccessToken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standby import workload
from standby.testing import Emulator, emulator
from standby.workload.parts import Limits
from tests.workload.conftest import MODEL, creates, quick

Client = anthropic.AsyncAnthropic
Message = anthropic.types.Message
PATIENCE_S = 60.0
pytestmark = pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")


def batches(emulator: Emulator, **options: Any) -> workload.AsyncBatches:
    """Make the client that is tested, impatient enough for a test; a batch is sent at once when it has `max_items`."""
    given = {
        "window": 1.0 if "max_items" in options else 0.1,
        "pace": quick(),
        "base_url": emulator.url,
        "api_key": emulator.api_key,
        **options,
    }
    return workload.AsyncBatches(**given)


@pytest.fixture
async def client(standby_emulator: Emulator) -> AsyncIterator[workload.AsyncBatches]:
    """A client that is closed at the end."""
    async with batches(standby_emulator) as client:
        yield client


async def ask(client: Client, text: str, **options: Any) -> Message:
    """Call as any program does."""
    message: Message = await client.messages.create(
        **{"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": text}], **options}
    )
    return message


async def ask_all(client: Client, *texts: str) -> list[Message]:
    """Call at once."""
    return await asyncio.gather(*(ask(client, text) for text in texts))


def said(message: Message) -> str:
    """Take the text of an answer."""
    return "".join(block.text for block in message.content if block.type == "text")


async def until(met: Callable[[], bool]) -> None:
    """Poll with a bound; what is asked may block for a moment."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(met):  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


def waiting(client: workload.AsyncBatches) -> int:
    """Count calls that were not sent yet."""
    return sum(len(lane.queue) for lane in client._gathering.gatherer._lanes.values())


def count(emulator: Emulator, operation: str) -> int:
    """Count requests of a kind."""
    return sum(one.operation == operation for one in emulator.requests)


# -- a program as it is


async def test_two_thousand_calls_are_one_batch(standby_emulator: Emulator) -> None:
    """Each call gets the answer to what it asked."""
    standby_emulator.script(*(f"*~/number {n}$/=say:answer {n}" for n in range(20)))
    async with batches(standby_emulator, max_items=2_000, window=60) as client:
        answers = await ask_all(client, *(f"number {n % 20}" for n in range(2_000)))
    assert [said(message) for message in answers] == [f"answer {n % 20}" for n in range(2_000)]
    assert len(creates(standby_emulator)) == 1
    assert {type(message) for message in answers} == {Message}
    assert count(standby_emulator, "messages") == 0


async def test_equal_calls_get_answers_of_their_own(client: Client) -> None:
    """Who asks the same ten times wants ten answers."""
    answers = await ask_all(client, *["the same"] * 10)
    assert len({message.id for message in answers}) == 10


async def test_a_batch_holds_no_more_than_it_may(standby_emulator: Emulator) -> None:
    """Neither in calls nor in bytes."""
    async with batches(standby_emulator, max_items=7) as client:
        await ask_all(client, *(f"number {n}" for n in range(20)))
    async with batches(standby_emulator, window=1.0, pace=quick(limits=Limits(bytes=1_000))) as client:
        await ask_all(client, *(f"number {n}" for n in range(20)))
    sizes = [one.items for one in standby_emulator.requests if one.operation == "create"]
    assert sizes[:3] == [7, 7, 6]
    assert sum(sizes[3:]) == 20
    assert max(sizes[3:]) <= 7


async def test_a_call_that_no_batch_holds_is_refused(standby_emulator: Emulator) -> None:
    """As the service would refuse it."""
    async with batches(standby_emulator, pace=quick(limits=Limits(bytes=500))) as client:
        with pytest.raises(anthropic.RequestTooLargeError, match="a batch holds at most"):
            await ask(client, "x" * 500)
    assert standby_emulator.requests == []


async def test_what_cannot_share_a_batch_does_not(standby_emulator: Emulator) -> None:
    """Betas hold for a whole batch, and so do credentials; a timeout does not matter."""
    async with batches(standby_emulator, window=3600, max_window=3600) as client:
        calls = [
            ask(client, "a"),
            ask(client, "b", extra_headers={"anthropic-beta": "message-batches-2024-09-24"}),
            ask(client.with_options(api_key="another"), "c"),
            ask(client.with_options(timeout=100), "d"),
            ask(client, "e", extra_headers={"x-trace": "17"}),
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        await until(lambda: waiting(client) == len(calls))
    assert all(task.result() for task in tasks)
    made = [one.items for one in standby_emulator.requests if one.operation == "create"]
    assert sorted(made) == [1, 1, 3]


async def test_raw_responses_and_structured_answers_behave(standby_emulator: Emulator) -> None:
    """The SDK itself makes them, of the same bytes."""

    class Label(pydantic.BaseModel):
        label: str

    standby_emulator.script('*~/label/=say:"{\\"label\\": \\"good\\"}"')
    hello: Any = [{"role": "user", "content": "hello"}]
    label: Any = [{"role": "user", "content": "label"}]
    async with batches(standby_emulator, max_items=2) as client:
        raw, parsed = await asyncio.gather(
            client.messages.with_raw_response.create(model=MODEL, max_tokens=20, messages=hello),
            client.messages.parse(model=MODEL, max_tokens=20, messages=label, output_format=Label),
        )
    assert raw.headers["standby-batch-id"] == creates(standby_emulator)[0]
    assert isinstance(await raw.parse(), Message)
    assert parsed.parsed_output == Label(label="good")
    assert len(creates(standby_emulator)) == 1


async def test_everything_else_is_passed_on(client: Client, standby_emulator: Emulator) -> None:
    """Models, counts and batches of one's own go to the service as they are."""
    hello: Any = [{"role": "user", "content": "hello"}]
    assert (await client.models.retrieve(MODEL)).id.startswith(MODEL)
    assert (await client.messages.count_tokens(model=MODEL, messages=hello)).input_tokens > 0
    params: Any = {"model": MODEL, "max_tokens": 9, "messages": hello}
    assert (await client.messages.batches.create(requests=[{"custom_id": "mine", "params": params}])).id
    assert [one.operation for one in standby_emulator.requests] == ["models", "count_tokens", "create"]


async def test_calls_with_betas_go_with_batches_too(client: Client, standby_emulator: Emulator) -> None:
    """They are the same request, and come back in the types of the betas."""
    hello: Any = [{"role": "user", "content": "hello"}]
    betas = ["message-batches-2024-09-24"]
    message = await client.beta.messages.create(model=MODEL, max_tokens=9, messages=hello, betas=betas)
    assert type(message) is anthropic.types.beta.BetaMessage
    assert count(standby_emulator, "messages") == 0


@pytest.fixture
def lenient() -> Iterator[Emulator]:
    """An emulator that takes the beta of tokens, as a server of one's own does."""
    with emulator(server__strict_betas=False) as running:
        yield running


async def test_credentials_whose_tokens_change_are_one(lenient: Emulator) -> None:
    """A provider may make a token for each request; copies of the client use it too."""
    asked = itertools.count()

    def provider(*, force_refresh: bool = False) -> AccessToken:
        return AccessToken(token=f"token-{next(asked)}", expires_at=0)

    given: dict[str, Any] = {"base_url": lenient.url, "window": 5.0, "max_items": 5, "pace": quick()}
    async with workload.AsyncBatches(credentials=provider, **given) as client:
        await asyncio.gather(*(ask(client.with_options(timeout=50 + n), str(n)) for n in range(5)))
    assert [one.items for one in lenient.requests if one.operation == "create"] == [5]
    assert next(asked) > 5


async def test_profiles_of_the_sdk_are_found(
    lenient: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their address, as the SDK's own client finds them, and by its copies."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    profile = {"version": "1.0", "authentication": {"type": "user_oauth"}, "base_url": lenient.url}
    token = {"version": "1.0", "type": "oauth_token", "access_token": "tok", "expires_at": int(time.time()) + 9_999}
    for folder, content in (("configs", profile), ("credentials", token)):
        (tmp_path / folder).mkdir(mode=0o700)
        (tmp_path / folder / "default.json").write_text(json.dumps(content))
        (tmp_path / folder / "default.json").chmod(0o600)
    async with workload.AsyncBatches(window=0.05, pace=quick()) as client:
        assert isinstance(await ask(client.with_options(timeout=99), "hello"), Message)
    assert len(creates(lenient)) == 1


async def test_the_programs_own_way_out_is_used(standby_emulator: Emulator) -> None:
    """Proxies, certificates and hooks of its HTTP client hold for what is sent to the service."""
    seen: list[str] = []

    async def hook(request: httpx2.Request) -> None:
        seen.append(request.url.path)

    inner = anthropic.DefaultAsyncHttpxClient(event_hooks={"request": [hook]})
    async with batches(standby_emulator, http_client=inner) as client:
        await ask(client, "hello")
    assert "/v1/messages/batches" in seen
    assert "/v1/messages" not in seen
    assert inner.is_closed


async def test_a_stream_is_refused(client: Client, standby_emulator: Emulator) -> None:
    """A batch has none, and paying twice as much behind the user's back is no answer."""
    hello: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(workload.NotBatched, match="cannot stream"):
        await client.messages.create(model=MODEL, max_tokens=9, messages=hello, stream=True)
    with pytest.raises(workload.NotBatched, match="cannot stream"):
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=hello):
            pass
    assert standby_emulator.requests == []


async def test_long_answers_are_asked_for_without_a_stream(client: Client) -> None:
    """The SDK refuses them for connections that would have to wait."""
    assert (await ask(client, "hello", max_tokens=60_000)).stop_reason


# -- errors


@pytest.mark.parametrize(
    ("type_", "kind", "status"),
    [
        ("invalid_request_error", anthropic.BadRequestError, 400),
        ("permission_error", anthropic.PermissionDeniedError, 403),
        ("not_found_error", anthropic.NotFoundError, 404),
        ("rate_limit_error", anthropic.RateLimitError, 429),
        ("api_error", anthropic.InternalServerError, 500),
        ("overloaded_error", anthropic.OverloadedError, 529),
    ],
)
async def test_errors_are_those_of_the_sdk(
    client: Client, standby_emulator: Emulator, type_: str, kind: type[anthropic.APIStatusError], status: int
) -> None:
    """With body, status and words; the calls beside them have their answers."""
    standby_emulator.script(f"*~/bad/=errored:{type_}:not today")
    once = client.with_options(max_retries=0)
    good, bad = await asyncio.gather(ask(once, "good"), ask(once, "bad"), return_exceptions=True)
    assert isinstance(good, Message)
    assert isinstance(bad, kind)
    assert (bad.status_code, bad.type, bad.api_message) == (status, type_, "not today")
    assert isinstance(bad.body, dict)
    assert bad.body["type"] == "error"


async def test_what_passes_by_itself_is_tried_again(standby_emulator: Emulator) -> None:
    """In the next batch, alone, as often as `max_retries` says."""
    standby_emulator.script("*~/bad/=errored:overloaded_error")
    async with batches(standby_emulator, max_items=2) as client:
        answers = await asyncio.gather(
            ask(client, "good"), ask(client.with_options(max_retries=1), "bad"), return_exceptions=True
        )
    assert isinstance(answers[1], anthropic.OverloadedError)
    made = [one.items for one in standby_emulator.requests if one.operation == "create"]
    assert made == [2, 1]


async def test_a_call_may_succeed_the_second_time(client: Client, standby_emulator: Emulator) -> None:
    """The program does not see that it was tried twice."""
    standby_emulator.script("*~/bad/=errored:api_error")
    task = asyncio.create_task(ask(client, "bad"))
    await until(lambda: count(standby_emulator, "results") == 1)
    await asyncio.to_thread(standby_emulator._call, "PUT", "simulator/script", {"script": []})
    assert isinstance(await task, Message)
    assert len(creates(standby_emulator)) == 2


async def test_refused_credentials_are_the_sdks_error(standby_emulator: Emulator) -> None:
    """A create that is refused is refused for each of its calls, in the service's words."""
    standby_emulator.fault("create=401")
    async with batches(standby_emulator) as client:
        answers = await asyncio.gather(*(ask(client, str(n)) for n in range(3)), return_exceptions=True)
    assert {type(error) for error in answers} == {anthropic.AuthenticationError}


async def test_an_expired_call_has_an_error_of_its_own(client: Client, standby_emulator: Emulator) -> None:
    """It names the batch, and is tried again as `max_retries` says."""
    standby_emulator.script("*~/late/=slow:48h")
    task = asyncio.create_task(ask(client.with_options(max_retries=0), "late"))
    await until(lambda: len(creates(standby_emulator)) == 1)
    await asyncio.to_thread(standby_emulator.advance, hours=73)
    with pytest.raises((workload.Expired, workload.NotAnswered)) as caught:
        await task
    assert caught.value.batch_id == creates(standby_emulator)[0]
    assert isinstance(caught.value, anthropic.APIError)


async def test_a_canceled_call_has_an_error_of_its_own(standby_emulator: Emulator) -> None:
    """Somebody canceled the batch: nothing is tried again."""
    standby_emulator.script("*=slow:1h")
    async with batches(standby_emulator, max_items=200, window=60) as client:
        task = asyncio.gather(*(ask(client, f"slow {n}") for n in range(200)), return_exceptions=True)
        await until(lambda: len(creates(standby_emulator)) == 1)
        await client.messages.batches.cancel(creates(standby_emulator)[0])
        await asyncio.to_thread(standby_emulator.advance, hours=2)
        kinds = {type(answer) for answer in await task}
    assert workload.Canceled in kinds
    assert kinds <= {workload.Canceled, Message}
    assert len(creates(standby_emulator)) == 1


@pytest.mark.parametrize("fault", ["lost", "reset", "500", "503", "529", "429+retry_after:0+times:5", "wait:1s"])
async def test_a_create_that_fails_makes_one_batch(standby_emulator: Emulator, fault: str) -> None:
    """Nothing is paid twice, whatever happened to it, and the program does not notice."""
    standby_emulator.fault(f"create={fault}" + ("" if "times" in fault else "+times:1"))
    async with batches(standby_emulator, max_items=5) as client:
        assert len(await ask_all(client, *(f"number {n}" for n in range(5)))) == 5
    assert len(creates(standby_emulator)) == 1


async def test_a_lost_create_is_never_sent_again(standby_emulator: Emulator) -> None:
    """It is found in the list: not even an idempotency key is needed."""
    standby_emulator.fault("create=lost+times:1")
    async with batches(standby_emulator, max_items=2) as client:
        await ask_all(client, "a", "b")
    assert count(standby_emulator, "create") == 1


async def test_another_programs_batch_of_the_same_size_is_not_taken(client: Client, standby_emulator: Emulator) -> None:
    """A batch that is only found by its size has to prove itself by the names in its results."""
    standby_emulator.fault("create=reset+times:1")
    task = asyncio.create_task(ask(client, "mine"))
    params: Any = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "theirs"}]}
    await until(lambda: count(standby_emulator, "create") == 1)
    await client.messages.batches.create(requests=[{"custom_id": "theirs", "params": params}])
    assert isinstance(await task, Message)
    assert len(creates(standby_emulator)) == 2


@pytest.mark.parametrize("cut", ["cut:2", "cut_inside:2", "cut:0", "reset"])
async def test_results_that_break_off_are_read_to_the_end(standby_emulator: Emulator, cut: str) -> None:
    """Also at the end of a line, where nothing looks broken."""
    standby_emulator.fault(f"results={cut}+times:1")
    async with batches(standby_emulator, max_items=6) as client:
        assert len(await ask_all(client, *(f"number {n}" for n in range(6)))) == 6
    assert len(creates(standby_emulator)) == 1


async def test_who_cannot_be_reached_is_the_sdks_error() -> None:
    """After the patience that was asked for."""
    async with workload.AsyncBatches(
        base_url="http://127.0.0.1:1", api_key="x", max_retries=0, window=0.0, pace=quick(patience_s=0.1)
    ) as client:
        with pytest.raises(anthropic.APIConnectionError):
            await ask(client, "hello")


# -- who does not wait


async def test_a_call_that_was_not_sent_is_taken_back(standby_emulator: Emulator) -> None:
    """Its item is in no batch."""
    async with batches(standby_emulator, window=3600, max_window=3600) as client:
        tasks = [asyncio.create_task(ask(client, f"number {n}")) for n in range(5)]
        await until(lambda: waiting(client) == len(tasks))
        tasks[2].cancel()
        await asyncio.wait(tasks[2:3])
    assert [task.cancelled() for task in tasks] == [False, False, True, False, False]
    made = [one.items for one in standby_emulator.requests if one.operation == "create"]
    assert made == [4]


async def test_a_batch_that_nobody_waits_for_is_canceled(standby_emulator: Emulator) -> None:
    """As soon as the last of its callers is gone."""
    standby_emulator.script("*=slow:1h")
    async with batches(standby_emulator, max_items=3) as client:
        tasks = [asyncio.create_task(ask(client, f"number {n}")) for n in range(3)]
        await until(lambda: len(creates(standby_emulator)) == 1)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        assert count(standby_emulator, "cancel") == 0
        tasks[2].cancel()
        await until(lambda: count(standby_emulator, "cancel") == 1)
        assert all(task.cancelled() for task in tasks)


async def test_a_batch_that_may_be_anothers_is_not_canceled(standby_emulator: Emulator) -> None:
    """Its create was not answered, and only its size says whose it is."""
    standby_emulator.script("*=slow:1h")
    standby_emulator.fault("create=lost+times:1")
    async with batches(standby_emulator, max_items=1) as client:
        task = asyncio.create_task(ask(client, "slow"))
        await until(lambda: count(standby_emulator, "retrieve") >= 1)
        task.cancel()
        await asyncio.wait([task])
    assert (count(standby_emulator, "create"), count(standby_emulator, "cancel")) == (1, 0)


async def test_a_timeout_of_the_program_is_honoured(client: Client, standby_emulator: Emulator) -> None:
    """The SDK's own error comes; its retry waits for the same item and pays for no other."""
    standby_emulator.script("*=slow:1h")
    with pytest.raises(anthropic.APITimeoutError):
        await ask(client.with_options(max_retries=1), "slow", timeout=0.3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(client, "slow")
    assert [one.items for one in standby_emulator.requests if one.operation == "create"] == [1]


async def test_closing_sends_what_waits_and_brings_its_answers(standby_emulator: Emulator) -> None:
    """Without waiting for the window."""
    async with batches(standby_emulator, window=3600, max_window=3600) as client:
        tasks = [asyncio.create_task(ask(client, f"number {n}")) for n in range(3)]
        await asyncio.sleep(0)
    assert all(isinstance(task.result(), Message) for task in tasks)
    with pytest.raises(anthropic.APIConnectionError):
        await ask(client.with_options(max_retries=0), "too late")


async def test_a_program_that_fails_waits_for_nothing(standby_emulator: Emulator) -> None:
    """Who still waits is told, and the batch is canceled."""
    standby_emulator.script("*=slow:1h")
    with contextlib.suppress(ZeroDivisionError):
        async with batches(standby_emulator) as client:
            task = asyncio.create_task(ask(client, "slow"))
            await until(lambda: len(creates(standby_emulator)) == 1)
            raise ZeroDivisionError
    with pytest.raises(workload.Closed):
        await task
    assert count(standby_emulator, "cancel") == 1


def test_a_program_that_is_interrupted_cancels_its_batch(standby_emulator: Emulator) -> None:
    """The event loop ends while calls wait, as after Ctrl-C."""
    standby_emulator.script("*=slow:1h")

    async def program() -> None:
        async with batches(standby_emulator) as client:
            await ask(client, "slow")

    async def interrupted() -> None:
        task = asyncio.create_task(program())
        await until(lambda: count(standby_emulator, "retrieve") > 0)
        assert not task.done()

    asyncio.run(interrupted())
    assert count(standby_emulator, "cancel") == 1


# -- answers that are kept


async def test_the_same_program_again_pays_for_nothing(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Equal calls get the answers of the first run, each its own."""
    runs = []
    for _ in range(2):
        async with batches(standby_emulator, folder=tmp_path / "kept", max_items=4) as client:
            answers = await ask_all(client, *["same"] * 3, "other")
            runs.append([sorted(message.id for message in answers[:3]), answers[3].id])
    assert runs[0] == runs[1]
    assert len(creates(standby_emulator)) == 1


async def test_only_what_has_no_answer_is_sent_again(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Failures are not kept."""
    standby_emulator.script("*~/bad/=errored:invalid_request_error")
    for _ in range(2):
        async with batches(standby_emulator, folder=tmp_path / "kept", max_items=2) as client:
            await asyncio.gather(ask(client, "good"), ask(client, "bad"), return_exceptions=True)
    assert [one.items for one in standby_emulator.requests if one.operation == "create"] == [2, 1]


async def test_what_was_under_way_is_collected_by_the_next_run(standby_emulator: Emulator, tmp_path: Path) -> None:
    """A program that ends leaves its batch running, and pays once."""
    standby_emulator.script("*~/slow/=slow:1h")
    async with batches(standby_emulator, folder=tmp_path / "kept") as client:
        task = asyncio.create_task(ask(client, "slow"))
        await until(lambda: len(creates(standby_emulator)) == 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert count(standby_emulator, "cancel") == 0
    await asyncio.to_thread(standby_emulator.advance, hours=2)
    async with batches(standby_emulator, folder=tmp_path / "kept") as client:
        assert isinstance(await ask(client, "slow"), Message)
    assert len(creates(standby_emulator)) == 1


async def test_a_folder_is_for_one_process(standby_emulator: Emulator, tmp_path: Path) -> None:
    """The second client says so."""
    async with batches(standby_emulator, folder=tmp_path) as one, batches(standby_emulator, folder=tmp_path) as two:
        await ask(one, "hello")
        with pytest.raises(workload.NotBatched, match="in use by process"):
            await ask(two, "hello")


async def test_kept_answers_are_for_their_owner_and_hold_no_secret(standby_emulator: Emulator, tmp_path: Path) -> None:
    """Neither a key nor a prompt is written down."""
    async with batches(standby_emulator, folder=tmp_path / "kept", api_key="sk-very-secret") as client:
        await ask(client, "a very private question")
    written = b"".join(path.read_bytes() for path in (tmp_path / "kept").iterdir())
    assert b"very-secret" not in written
    assert b"private question" not in written
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "kept").iterdir())


# -- any program


FATES = st.sampled_from(["waits", "waits", "leaves at once", "leaves when sent", "has no patience"])
CALLS = st.lists(st.tuples(st.sampled_from(["good", "fine", "bad", "busy"]), FATES), min_size=1, max_size=12)
FAULTS = st.sampled_from(
    ["", "create=lost+times:1", "create=reset+times:2", "create=500+times:1", "results=cut:1+times:1"]
)
KINDS = {"good": Message, "fine": Message, "bad": anthropic.BadRequestError, "busy": anthropic.OverloadedError}
SCRIPT = ("*~/^bad$/=errored:invalid_request_error", "*~/^busy$/=errored:overloaded_error")


@given(calls=CALLS, fault=FAULTS, most=st.integers(1, 5))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whoever_waits_is_answered_and_nothing_is_paid_twice(
    standby_emulator: Emulator, calls: list[tuple[str, str]], fault: str, most: int
) -> None:
    """However calls, departures and failures follow on each other; and the next run pays for what is left alone."""
    standby_emulator.reset()
    standby_emulator.script(*SCRIPT)
    if fault:
        standby_emulator.fault(fault)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"folder": folder, "max_items": most, "max_retries": 0}
        first = asyncio.run(lived(standby_emulator, calls, options))
        second = asyncio.run(lived(standby_emulator, [(text, "waits") for text, _ in calls], options))
    for (text, fate), outcome in zip(calls, first, strict=True):
        left = {"leaves at once": asyncio.CancelledError, "leaves when sent": asyncio.CancelledError}
        assert isinstance(outcome, (KINDS[text], left.get(fate, anthropic.APITimeoutError)))
        assert fate != "waits" or isinstance(outcome, KINDS[text])
    assert [type(outcome) for outcome in second] == [KINDS[text] for text, _ in calls]
    standby_emulator.settle()
    paid = sum(one.request_counts.succeeded for one in standby_emulator.client().messages.batches.list(limit=100))
    assert paid == sum(KINDS[text] is Message for text, _ in calls)


async def lived(emulator: Emulator, calls: list[tuple[str, str]], options: dict[str, Any]) -> list[Any]:
    """Make calls that end as they are fated to; return their outcomes."""
    async with batches(emulator, **options) as client:
        tasks = [
            asyncio.create_task(ask(client, text, **({"timeout": 0.05} if fate == "has no patience" else {})))
            for text, fate in calls
        ]
        await asyncio.sleep(0)
        for task, (_, fate) in zip(tasks, calls, strict=True):
            if fate == "leaves at once":
                task.cancel()
        if any(fate == "leaves when sent" for _, fate in calls):
            await until(lambda: bool(creates(emulator)))
        for task, (_, fate) in zip(tasks, calls, strict=True):
            if fate == "leaves when sent":
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)
