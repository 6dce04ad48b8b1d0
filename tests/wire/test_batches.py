from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pydantic
import pytest
from anthropic.types import Message as SdkMessage
from anthropic.types import ModelInfo
from anthropic.types.messages import DeletedMessageBatch, MessageBatch, MessageBatchIndividualResponse
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import ApiError, EngineError, Failure, InvalidParams, invalid, unknown_model
from standby.records import Batch, BatchId, Counts, Page, Tokens, WorkspaceId
from standby.states import BatchState
from standby.wire.batches import (
    ROW_TYPES,
    canceled_row,
    decode_item,
    encode_batch,
    encode_deleted,
    encode_page,
    errored_row,
    expired_row,
    parse_timestamp,
    succeeded_row,
    timestamp,
)
from standby.wire.errors import error_body
from standby.wire.messages import CacheCreation, Message, Usage, encode_message, tokens_of
from standby.wire.models import FEATURES, Listing, encode_model, encode_models, model_object
from tests.wire.strategies import messages

START = 1_795_341_000_125_000
BATCH = Batch(
    id=BatchId("msgbatch_010000000000000000000001"),
    workspace_id=WorkspaceId("wrkspc_1"),
    state=BatchState.IN_PROGRESS,
    size=3,
    counts=Counts(processing=2, succeeded=1),
    created_us=START,
    expires_us=START + 1,
    ended_us=None,
    cancel_initiated_us=None,
    archived_us=None,
)
ENDED = replace(BATCH, state=BatchState.ENDED, counts=Counts(succeeded=3), ended_us=START + 2)
URL = "http://127.0.0.1/v1/messages/batches/x/results"
any_text = st.text(alphabet=st.characters(), max_size=30)


def read(kind: type[pydantic.BaseModel], raw: bytes) -> Any:
    """Read as the official SDK would if it were strict, and find no key that it does not know."""
    found = kind.model_validate_json(raw, strict=True)
    assert not list(extras(found))
    return found


def extras(model: object) -> Any:
    """Walk the keys that a type of the SDK does not declare."""
    if isinstance(model, pydantic.BaseModel):
        yield from model.model_extra or ()
        for value in model.__dict__.values():
            yield from extras(value)
    elif isinstance(model, list):
        for value in model:
            yield from extras(value)


def keys(raw: bytes) -> set[str]:
    """List the keys of a JSON object."""
    return set(json.loads(raw))


@given(messages)
def test_a_message_is_what_the_sdk_reads(message: Message) -> None:
    """Every documented key is there, of the documented type, and nothing else."""
    raw = encode_message(message)
    found = read(SdkMessage, raw)
    assert keys(raw) == set(SdkMessage.model_fields)
    assert set(json.loads(raw)["usage"]) == {
        *("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation"),
        *("service_tier", "inference_geo", "server_tool_use", "output_tokens_details", "speed"),
    }
    assert found.usage.output_tokens == message.usage.output_tokens


@given(any_text, messages)
def test_a_succeeded_row_is_one_line_that_the_sdk_reads(custom_id: str, message: Message) -> None:
    """Valid JSON, one newline at the very end, `service_tier` batch, whatever the text."""
    custom_id = custom_id.encode("utf-8", "replace").decode()
    raw = succeeded_row(custom_id, message)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    row = read(MessageBatchIndividualResponse, raw)
    assert row.custom_id == custom_id
    assert row.result.message.usage.service_tier == "batch"
    plain = encode_message(message)
    assert json.loads(raw)["result"]["message"]["content"] == json.loads(plain)["content"]


@given(st.sampled_from(sorted(ROW_TYPES)), any_text, st.none() | st.just("req_1"))
def test_an_errored_row_is_one_line_that_the_sdk_reads(type_: str, message: str, request_id: str | None) -> None:
    """Valid JSON for any text, lone surrogates included."""
    raw = errored_row("a", type_, message, request_id)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    row = read(MessageBatchIndividualResponse, raw)
    assert (row.result.error.error.type, row.result.error.request_id) == (type_, request_id)
    assert "request_id" in json.loads(raw)["result"]["error"]


def test_rows_of_items_that_never_ran() -> None:
    """Canceled and expired rows have a type and nothing else."""
    assert canceled_row("a") == b'{"custom_id":"a","result":{"type":"canceled"}}\n'
    assert expired_row("b") == b'{"custom_id":"b","result":{"type":"expired"}}\n'
    assert read(MessageBatchIndividualResponse, canceled_row("a")).result.type == "canceled"
    assert read(MessageBatchIndividualResponse, expired_row("a")).result.type == "expired"


@pytest.mark.parametrize(
    ("error", "type_"),
    [
        (unknown_model("m"), "not_found_error"),
        (invalid("x"), "invalid_request_error"),
        (InvalidParams(413, "request_too_large", "x"), "invalid_request_error"),
        (ApiError(500, "strange_error", "x"), "api_error"),
        *((EngineError(failure, "x"), failure.wire_type) for failure in Failure),
    ],
)
def test_a_row_has_one_of_nine_error_types(error: ApiError | EngineError, type_: str) -> None:
    """Every failure of ours has a type that the SDK's union knows."""
    given = error.type if isinstance(error, ApiError) else error.failure.wire_type
    row = read(MessageBatchIndividualResponse, errored_row("a", given, error.message))
    assert row.result.error.error.type == type_
    assert type_ in ROW_TYPES


def test_a_batch_is_what_the_sdk_reads() -> None:
    """All keys are always there, times have microseconds and a Z."""
    raw = encode_batch(BATCH, results_url=URL)
    found = read(MessageBatch, raw)
    assert keys(raw) == set(MessageBatch.model_fields)
    assert json.loads(raw)["created_at"] == timestamp(START)
    assert found.request_counts.model_dump() == {
        "processing": 2,
        "succeeded": 1,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }


def test_counts_may_wait_for_the_end() -> None:
    """With `counts_at_end` all items stay in processing until the batch has ended."""
    before = read(MessageBatch, encode_batch(BATCH, results_url=URL, counts_at_end=True))
    after = read(MessageBatch, encode_batch(ENDED, results_url=URL, counts_at_end=True))
    assert (before.request_counts.processing, before.request_counts.succeeded) == (3, 0)
    assert (after.request_counts.processing, after.request_counts.succeeded) == (0, 3)


def test_the_results_url_is_there_while_there_are_results() -> None:
    """Null until the batch has ended, and again when it is archived."""
    archived = replace(ENDED, archived_us=START + 3)
    urls = [json.loads(encode_batch(batch, results_url=URL))["results_url"] for batch in (BATCH, ENDED, archived)]
    assert urls == [None, URL, None]


def test_a_page_names_its_ends() -> None:
    """First and last id are those of its batches, null on an empty page."""
    other = replace(ENDED, id=BatchId("msgbatch_010000000000000000000000"))
    page = json.loads(
        encode_page(Page(batches=(BATCH, other), has_more=True), results_url=lambda one: f"http://x/{one}")
    )
    assert (page["first_id"], page["last_id"], page["has_more"]) == (BATCH.id, other.id, True)
    assert [one["results_url"] for one in page["data"]] == [None, f"http://x/{other.id}"]
    empty = json.loads(encode_page(Page(batches=(), has_more=False), results_url=lambda _: None))
    assert empty == {"data": [], "has_more": False, "first_id": None, "last_id": None}


def test_a_deleted_batch_says_so() -> None:
    """The answer to a delete is what the SDK reads."""
    assert read(DeletedMessageBatch, encode_deleted(BATCH.id)).id == BATCH.id


@given(st.integers(0, 253_402_300_799_999_999))
def test_a_time_is_exact_to_the_microsecond(us: int) -> None:
    """Written and read back it is the same, and any reader agrees."""
    text = timestamp(us)
    assert parse_timestamp(text) == us
    assert len(text) == len("2026-11-22T10:00:00.000000Z")
    assert datetime.fromisoformat(text).tzinfo == UTC


def test_a_stored_item_keeps_its_params_byte_for_byte() -> None:
    """The params come back as they were sent, spaces and escapes included."""
    params = b'{ "model" : "m\\u00e9" , "x":1.0 }'
    custom_id, raw = decode_item(b'{"custom_id":"a","params":' + params + b"}")
    assert (custom_id, bytes(raw)) == ("a", params)


@given(any_text, st.none() | st.just("organization_on_hold"))
def test_an_error_body_has_the_contracts_shape(message: str, code: str | None) -> None:
    """Type, inner type and message, details only with a code, and the request's id."""
    raw = error_body(ApiError(400, "invalid_request_error", message, code=code), "req_1")
    error = {"type": "invalid_request_error", "message": message.encode("utf-8", "replace").decode()}
    details = {"details": {"error_code": code}} if code else {}
    assert json.loads(raw) == {"type": "error", "error": {**error, **details}, "request_id": "req_1"}


def test_usage_becomes_the_columns_of_a_price_book() -> None:
    """Each kind of token lands in its own column."""
    usage = Usage(
        input_tokens=1,
        cache_creation_input_tokens=5,
        cache_creation=CacheCreation(ephemeral_5m_input_tokens=2, ephemeral_1h_input_tokens=3),
        cache_read_input_tokens=4,
        output_tokens=6,
    )
    assert tokens_of(usage) == Tokens(input=1, write_5m=2, write_1h=3, read=4, output=6)


@pytest.mark.parametrize("features", [frozenset(), FEATURES])
def test_a_model_is_what_the_sdk_reads(features: frozenset[str]) -> None:
    """All keys are there; what is not named is not supported."""
    model = model_object(
        "m", display_name="M", created_us=START, max_input_tokens=10, max_output_tokens=5, features=features
    )
    found = read(ModelInfo, encode_model(model))
    assert keys(encode_model(model)) == set(ModelInfo.model_fields)
    assert found.capabilities.batch.supported
    assert found.capabilities.thinking.supported is ("thinking" in features)
    page = msgspec.json.decode(encode_models([model], has_more=False))
    assert (page["first_id"], page["last_id"]) == ("m", "m")


def test_a_model_of_the_catalogue_says_where_it_stands() -> None:
    """Its line, when it retires, and the kinds of thinking that it takes."""
    listing = Listing(lifecycle="deprecated", line="opus", retires_us=START, thinking=frozenset({"adaptive"}))
    model = model_object(
        "m",
        display_name="M",
        created_us=START,
        max_input_tokens=10,
        max_output_tokens=5,
        features=FEATURES,
        listing=listing,
    )
    found = read(ModelInfo, encode_model(model))
    assert (found.lifecycle, found.line) == ("deprecated", "opus")
    assert found.retires_at == found.created_at
    types = found.capabilities.thinking.types
    assert (types.adaptive.supported, types.enabled.supported) == (True, False)
