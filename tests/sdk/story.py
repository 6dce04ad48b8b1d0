"""The story of `calls.py`, played by whatever Python SDK the interpreter has; every answer is validated strictly.

    python story.py '{"url": …, "prefixed_url": …, "key": …, "other_key": …, "workspace": …, "other_workspace": …}'

prints `{"sdk": "2.12.0", "calls": {"messages.create": "yes", …}}`. It needs nothing but the SDK, so that it runs in
the side environments; what an SDK lacks is found by looking.
"""

# ruff: noqa: D103 - calls.py says what each step shows

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import anthropic

MODEL = "claude-sonnet-5-5"
BRIEF = 1
"""Tokens of an answer that is there almost at once."""
LONG = 24
"""Tokens of an answer that takes a second: the server of these stories is slow on purpose."""
LONGEST = 96
"""Tokens of an answer that is still on its way after a few more calls."""
MANY = 120
ENOUGH = 500
"""More than any list here holds: a walk that gets there would never stop."""
END_S = 90.0
BETA = "message-batches-2024-09-24"


class NotOffered(Exception):
    """This SDK has no such call."""


@dataclass(frozen=True)
class Setting:
    """Where the story plays."""

    url: str
    prefixed_url: str
    key: str
    other_key: str
    workspace: str
    other_workspace: str

    def client(self, **changes: Any) -> Any:
        """Make a client that validates every answer and retries nothing."""
        return anthropic.Anthropic(**self._arguments(changes))

    def async_client(self) -> Any:
        """Make its asynchronous twin."""
        return anthropic.AsyncAnthropic(**self._arguments({}))

    def _arguments(self, changes: dict[str, Any]) -> dict[str, Any]:
        usual = {"base_url": self.url, "api_key": self.key, "max_retries": 0, "timeout": 60.0}
        return {**usual, "_strict_response_validation": True, **changes}


Step = Callable[[Setting], None]
STORY: dict[str, Step] = {}


def main() -> None:
    """Play every step; one that fails does not stop the next."""
    setting = Setting(**json.loads(sys.argv[1]))
    calls = {name: outcome(step, setting) for name, step in STORY.items()}
    print(json.dumps({"sdk": anthropic.__version__, "calls": calls}))  # noqa: T201 - its one answer


def outcome(step: Step, setting: Setting) -> str:
    """Play one step and say what became of it."""
    try:
        step(setting)
    except NotOffered:
        return "not offered"
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the outcome
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        return f"lines {lines}: {type(error).__name__}: {error}"
    return "yes"


def call(name: str) -> Callable[[Step], Step]:
    """Give a step its row in the table."""

    def add(step: Step) -> Step:
        STORY[name] = step
        return step

    return add


# --- message batches


@call("messages.batches.create")
def batches_create(setting: Setting) -> None:
    batch = setting.client().messages.batches.create(requests=items(3))

    equal(batch.type, "message_batch")
    equal(batch.processing_status, "in_progress")
    equal(counts(batch), {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0})
    equal(batch.expires_at - batch.created_at, dt.timedelta(hours=24))
    equal(batch.created_at.utcoffset(), dt.timedelta(0))
    equal([batch.ended_at, batch.cancel_initiated_at, batch.archived_at, batch.results_url], [None] * 4)


@call("messages.batches.create, faults")
def batches_create_faults(setting: Setting) -> None:
    create = setting.client().messages.batches.create
    for requests, words in [
        ([], "requests: List should have at least 1 item after validation, not 0"),
        (items(1) * 2, "custom_id's must be unique within a batch. Duplicate custom_id found: item-0"),
        ([{**items(1)[0], "custom_id": "some body"}], "requests.0.custom_id: String should match pattern"),
    ]:
        contains(refused(anthropic.BadRequestError, "invalid_request_error", create, requests=requests), words)


@call("messages.batches.retrieve")
def batches_retrieve(setting: Setting) -> None:
    batches = setting.client().messages.batches
    batch = batches.create(requests=items(3))

    at_once = batches.retrieve(batch.id)
    equal((at_once.id, at_once.created_at, at_once.expires_at), (batch.id, batch.created_at, batch.expires_at))

    ended = until_ended(batches, batch.id)
    equal(counts(ended), {"processing": 0, "succeeded": 3, "errored": 0, "canceled": 0, "expired": 0})
    equal(ended.results_url, f"{setting.url}/v1/messages/batches/{batch.id}/results")
    true(ended.created_at <= ended.ended_at <= ended.expires_at)


@call("messages.batches.results")
def batches_results(setting: Setting) -> None:
    batches = setting.client().messages.batches
    broken = {"custom_id": "broken", "params": {"model": MODEL, "max_tokens": BRIEF}}
    batch = batches.create(requests=[*items(3), broken])
    equal(until_ended(batches, batch.id).request_counts.errored, 1)

    check_rows({row.custom_id: row.result for row in batches.results(batch.id)})


@call("messages.batches.results, too early")
def batches_results_too_early(setting: Setting) -> None:
    client = setting.client()
    batch = client.messages.batches.create(requests=items(MANY, tokens=LONG))
    raised(anthropic.AnthropicError, client.messages.batches.results, batch.id)

    path = f"/v1/messages/batches/{batch.id}/results"
    words = refused(anthropic.NotFoundError, "not_found_error", client.get, path, cast_to=object)
    equal(words, f"Message Batch {batch.id} has no available results.")
    client.messages.batches.cancel(batch.id)


@call("messages.batches.list")
def batches_list(setting: Setting) -> None:
    batches = setting.client().messages.batches
    first, second = (batches.create(requests=items(1)).id for _ in range(2))

    page = batches.list(limit=1)
    equal(([batch.id for batch in page.data], page.first_id, page.last_id), ([second], second, second))
    equal(page.has_more, True)
    for options in ({}, {"limit": 1000}):
        equal([batch.id for batch in batches.list(**options).data][:2], [second, first])
    for limit in (0, 1001):
        contains(refused(anthropic.BadRequestError, "invalid_request_error", batches.list, limit=limit), "limit: Input")


@call("messages.batches.list, forwards")
def batches_list_forwards(setting: Setting) -> None:
    batches = setting.client().messages.batches
    made = [batches.create(requests=items(1)).id for _ in range(5)]

    walked = walk(batches.list(limit=2))

    equal(walked[:5], made[::-1])
    equal(len(set(walked)), len(walked))
    equal(walked, walk(batches.list(limit=1000)))
    equal(walk(batches.list(limit=2, after_id=made[-1])), walked[1:])


@call("messages.batches.list, backwards")
def batches_list_backwards(setting: Setting) -> None:
    batches = setting.client().messages.batches
    for _ in range(5):
        batches.create(requests=items(1))
    everything = walk(batches.list(limit=1000))

    for limit in (2, 3, 1000):
        walked = walk(batches.list(limit=limit, before_id=everything[-1]))
        equal(len(walked), len(set(walked)))
        equal(sorted(walked, key=everything.index), everything[:-1])
    nearest = batches.list(limit=2, before_id=everything[-1])
    equal([batch.id for batch in nearest.data], everything[-3:-1])


@call("messages.batches.cancel")
def batches_cancel(setting: Setting) -> None:
    batches = setting.client().messages.batches
    batch = batches.create(requests=items(MANY, tokens=LONGEST))

    canceled = batches.cancel(batch.id)
    equal((canceled.id, canceled.processing_status, canceled.results_url), (batch.id, "canceling", None))
    equal(batches.cancel(batch.id).cancel_initiated_at, canceled.cancel_initiated_at)

    ended = until_ended(batches, batch.id)
    rows = {row.custom_id: row.result.type for row in batches.results(batch.id)}
    equal(set(rows), {each["custom_id"] for each in items(MANY)})
    equal(list(rows.values()).count("canceled"), ended.request_counts.canceled)
    true(ended.request_counts.canceled > 0)
    refused(anthropic.BadRequestError, "invalid_request_error", batches.cancel, batch.id)


@call("messages.batches.delete")
def batches_delete(setting: Setting) -> None:
    batches = setting.client().messages.batches
    if not hasattr(batches, "delete"):
        raise NotOffered
    running = batches.create(requests=items(MANY, tokens=LONG)).id
    contains(refused(anthropic.BadRequestError, "invalid_request_error", batches.delete, running), "cannot be deleted")
    batches.cancel(running)

    batch = batches.create(requests=items(1))
    until_ended(batches, batch.id)
    gone = batches.delete(batch.id)
    equal((gone.id, gone.type), (batch.id, "message_batch_deleted"))
    for again in (batches.retrieve, batches.results, batches.cancel, batches.delete):
        refused(anthropic.NotFoundError, "not_found_error", again, batch.id)
    true(batch.id not in walk(batches.list(limit=1000)))


# --- messages and models


@call("messages.create")
def messages_create(setting: Setting) -> None:
    check_message(setting.client().messages.create(**question(LONG)))


@call("messages.create, faults")
def messages_create_faults(setting: Setting) -> None:
    create = setting.client().messages.create
    refused(anthropic.BadRequestError, "invalid_request_error", create, **{**question(), "messages": []})
    refused(anthropic.NotFoundError, "not_found_error", create, **{**question(), "model": "nobody-serves-this"})


@call("messages.create, streamed")
def messages_create_streamed(setting: Setting) -> None:
    events = list(setting.client().messages.create(stream=True, **question(LONG)))

    kinds = [event.type for event in events if event.type != "content_block_delta"]
    equal(kinds, ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    equal(text, setting.client().messages.create(**question(LONG)).content[0].text)


@call("messages.stream")
def messages_stream(setting: Setting) -> None:
    with setting.client().messages.stream(**question(LONG)) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    check_message(message)
    equal(message.content[0].text, text)


@call("messages.count_tokens")
def messages_count_tokens(setting: Setting) -> None:
    check_count(setting.client().messages.count_tokens)


@call("models.list")
def models_list(setting: Setting) -> None:
    check_models(setting.client().models)


@call("beta.messages.batches")
def beta_batches(setting: Setting) -> None:
    batches = setting.client().beta.messages.batches
    batch = batches.create(requests=items(3), betas=[BETA])
    until_ended(batches, batch.id)
    equal({row.result.type for row in batches.results(batch.id)}, {"succeeded"})

    running = batches.create(requests=items(MANY, tokens=LONG)).id
    equal(batches.cancel(running).processing_status, "canceling")
    equal(walk(batches.list(limit=1))[:2], [running, batch.id])
    if hasattr(batches, "delete"):
        equal(batches.delete(batch.id, betas=[BETA]).type, "message_batch_deleted")
        refused(anthropic.NotFoundError, "not_found_error", batches.retrieve, batch.id)


@call("beta.messages")
def beta_messages(setting: Setting) -> None:
    messages = setting.client().beta.messages
    check_message(messages.create(betas=["prompt-caching-2024-07-31"], **question(LONG)))
    check_count(messages.count_tokens)


@call("beta.messages.stream")
def beta_messages_stream(setting: Setting) -> None:
    messages = setting.client().beta.messages
    if not hasattr(messages, "stream"):
        raise NotOffered
    with messages.stream(**question(LONG)) as stream:
        text = "".join(stream.text_stream)
        equal(stream.get_final_message().content[0].text, text)
    true(text)


@call("beta.models")
def beta_models(setting: Setting) -> None:
    check_models(setting.client().beta.models)


@call("asynchronous client")
def asynchronous_client(setting: Setting) -> None:
    async def play() -> None:
        async with setting.async_client() as client:
            await async_batches(client.messages.batches)
            await async_messages(client)

    asyncio.run(play())


async def async_batches(batches: Any) -> None:
    """Play the life of two batches."""
    batch = await batches.create(requests=items(3))
    until = time.monotonic() + END_S
    while (await batches.retrieve(batch.id)).processing_status != "ended":
        true(time.monotonic() < until)
        await asyncio.sleep(0.05)
    equal({row.custom_id async for row in await batches.results(batch.id)}, {"item-0", "item-1", "item-2"})

    running = await batches.create(requests=items(MANY, tokens=LONG))
    equal((await batches.cancel(running.id)).processing_status, "canceling")
    walked = [each.id async for each in batches.list(limit=1)]
    equal(walked[:2], [running.id, batch.id])
    if hasattr(batches, "delete"):
        equal((await batches.delete(batch.id)).type, "message_batch_deleted")


async def async_messages(client: Any) -> None:
    """Play the real-time calls."""
    check_message(await client.messages.create(**question(LONG)))
    async with client.messages.stream(**question(LONG)) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        equal((await stream.get_final_message()).content[0].text, text)
    asked = {name: value for name, value in question().items() if name != "max_tokens"}
    true((await client.messages.count_tokens(**asked)).input_tokens > 0)
    true([model.id async for model in client.models.list()])


# --- doors: keys, workspaces, paths


@call("key in `X-Api-Key`")
def key_in_x_api_key(setting: Setting) -> None:
    usual = setting.client()
    sends_it_by_itself = "X-Api-Key" in usual.auth_headers
    client = usual if sends_it_by_itself else setting.client(api_key=None, default_headers={"X-Api-Key": setting.key})
    equal(header_sent(client), "x-api-key")


@call("key in `Authorization`")
def key_in_authorization(setting: Setting) -> None:
    equal(header_sent(setting.client(api_key=None, auth_token=setting.key)), "authorization")


@call("a key in each header")
def key_in_each_header(setting: Setting) -> None:
    other = "Authorization" if "X-Api-Key" in setting.client().auth_headers else "X-Api-Key"
    equal(header_sent(setting.client(default_headers={other: "Bearer nobody-has-this"})), "x-api-key authorization")


def header_sent(client: Any) -> str:
    """Make a call that needs a key and say which headers carried it."""
    sent = client.models.with_raw_response.list().http_request.headers
    return " ".join(name for name in ("x-api-key", "authorization") if name in sent)


@call("wrong key")
def wrong_key(setting: Setting) -> None:
    for client in (
        setting.client(api_key="sk-nobody-has-this"),
        setting.client(api_key=None, auth_token="sk-nobody-has-this"),
    ):
        refused(anthropic.AuthenticationError, "authentication_error", client.messages.batches.list)
        refused(anthropic.AuthenticationError, "authentication_error", client.messages.create, **question())


@call("workspaces")
def workspaces(setting: Setting) -> None:
    batches = setting.client().messages.batches
    batch = batches.create(requests=items(1), extra_headers={"anthropic-workspace-id": setting.workspace})
    elsewhere = {"anthropic-workspace-id": setting.other_workspace}
    refused(anthropic.PermissionDeniedError, "permission_error", batches.retrieve, batch.id, extra_headers=elsewhere)

    others = setting.client(api_key=setting.other_key).messages.batches
    words = refused(anthropic.NotFoundError, "not_found_error", others.retrieve, batch.id)
    equal(words, f"Message Batch {batch.id} not found.")
    refused(anthropic.NotFoundError, "not_found_error", others.cancel, batch.id)
    true(batch.id not in walk(others.list(limit=1000)))


@call("unknown id, unknown path")
def unknown(setting: Setting) -> None:
    client = setting.client()
    nothing = "msgbatch_010000000000000000000000"
    for ask in (client.messages.batches.retrieve, client.messages.batches.results, client.messages.batches.cancel):
        equal(refused(anthropic.NotFoundError, "not_found_error", ask, nothing), f"Message Batch {nothing} not found.")
    refused(anthropic.NotFoundError, "not_found_error", client.get, "/_stainless_unknown_path", cast_to=object)


@call("request ids")
def request_ids(setting: Setting) -> None:
    client = setting.client()
    answer = client.messages.batches.with_raw_response.create(requests=items(1))
    true(answer.headers["request-id"].startswith("req_"))
    equal(answer.headers["anthropic-workspace-id"], setting.workspace)
    true(answer.headers["anthropic-organization-id"])
    true(client.messages.create(**question())._request_id.startswith("req_"))

    error = raised(anthropic.NotFoundError, client.messages.batches.retrieve, "msgbatch_nothing")
    equal(error.response.headers["request-id"], error.body["request_id"])


@call("path prefix in the base URL")
def path_prefix(setting: Setting) -> None:
    batches = setting.client(base_url=setting.prefixed_url).messages.batches
    batch = batches.create(requests=items(2))
    ended = until_ended(batches, batch.id)
    equal(ended.results_url, f"{setting.prefixed_url}/v1/messages/batches/{batch.id}/results")
    equal({row.custom_id for row in batches.results(batch.id)}, {"item-0", "item-1"})


# --- what the steps share


def items(number: int, *, tokens: int = BRIEF) -> list[Any]:
    """Write the items of a batch."""
    return [{"custom_id": f"item-{n}", "params": question(tokens)} for n in range(number)]


def question(tokens: int = BRIEF) -> dict[str, Any]:
    """Write the params of one message."""
    return {"model": MODEL, "max_tokens": tokens, "messages": [{"role": "user", "content": "Why do geese fly in a V?"}]}


def counts(batch: Any) -> dict[str, int]:
    """Read the five counts."""
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    return {name: getattr(batch.request_counts, name) for name in names}


def until_ended(batches: Any, batch_id: str) -> Any:
    """Poll until the batch has ended; what is seen on the way must be true as well."""
    until = time.monotonic() + END_S
    batch = batches.retrieve(batch_id)
    size = sum(counts(batch).values())
    while batch.processing_status != "ended":
        equal((batch.results_url, batch.ended_at), (None, None))
        true(time.monotonic() < until)
        time.sleep(0.05)
        batch = batches.retrieve(batch_id)
        equal(sum(counts(batch).values()), size)
    equal(batch.request_counts.processing, 0)
    return batch


def walk(page: Any) -> list[str]:
    """Take the ids of a list from page to page, with an end even if the server gives none."""
    walked = [batch.id for batch in islice(iterate(page), ENOUGH)]
    true(len(walked) < ENOUGH)
    return walked


def iterate(page: Any) -> Iterator[Any]:
    """Iterate as the SDK does: on and on to the last page."""
    yield from page


def check_rows(rows: dict[str, Any]) -> None:
    """Three answers and one error, as contract 2.7.2 has them."""
    error = rows.pop("broken")
    equal((error.type, error.error.type), ("errored", "error"))
    equal((error.error.error.type, error.error.error.message), ("invalid_request_error", "messages: Field required"))
    equal(set(rows), {"item-0", "item-1", "item-2"})
    for result in rows.values():
        equal(result.type, "succeeded")
        check_message(result.message)
        equal(result.message.usage.service_tier, "batch")


def check_message(message: Any) -> None:
    """Check what programs read from a message without looking first."""
    equal((message.type, message.role, message.content[0].type), ("message", "assistant", "text"))
    true(message.id.startswith("msg_") and message.content[0].text)
    true(message.stop_reason in {"end_turn", "max_tokens"})
    usage = message.usage
    true(usage.input_tokens > 0 and usage.output_tokens > 0)
    true(isinstance(usage.cache_creation_input_tokens, int) and isinstance(usage.cache_read_input_tokens, int))


def check_count(count_tokens: Callable[..., Any]) -> None:
    """A longer prompt counts more."""
    short, long = (
        count_tokens(model=MODEL, messages=[{"role": "user", "content": text}]).input_tokens
        for text in ("Geese.", "Why do geese fly in a V, and who flies in front of it?")
    )
    true(0 < short < long)


def check_models(models: Any) -> None:
    """Every model of the list can be asked for by its id."""
    listed = list(islice(iterate(models.list(limit=1)), ENOUGH))
    true(0 < len(listed) < ENOUGH)
    for model in listed:
        found = models.retrieve(model.id)
        equal((found.id, found.type, found.display_name), (model.id, "model", model.display_name))
        true(found.created_at.utcoffset() is not None)
    refused(anthropic.NotFoundError, "not_found_error", models.retrieve, "nobody-serves-this")


def refused(kind: type[Any], error_type: str, ask: Callable[..., Any], *given: Any, **named: Any) -> str:
    """Ask for something that must be refused with this class and type; return the message."""
    error = raised(kind, ask, *given, **named)
    equal((error.body["type"], error.body["error"]["type"]), ("error", error_type))
    return str(error.body["error"]["message"])


def raised(kind: type[Any], ask: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Return the exception of exactly this class that the call raises."""
    try:
        answer = ask(*given, **named)
    except Exception as error:  # noqa: BLE001 - the class is what is checked
        equal(type(error).__name__, kind.__name__)
        return error
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


def equal(seen: Any, expected: Any) -> None:
    """Say what differs, since there is no pytest here to do it."""
    if seen != expected:
        raise AssertionError(f"{seen!r} is not {expected!r}")


def contains(text: str, part: str) -> None:
    """Say what is missing."""
    if part not in text:
        raise AssertionError(f"{part!r} is not in {text!r}")


def true(held: object) -> None:
    """Insist."""
    if not held:
        raise AssertionError(traceback.extract_stack(limit=2)[0].line)


if __name__ == "__main__":
    main()
