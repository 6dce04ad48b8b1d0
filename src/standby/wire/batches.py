"""Batches as bytes: stored items that come in, batch objects and result rows that go out (contract 2).

The envelope of a create is judged in `envelope.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from standby.errors import ROW_ERRORS
from standby.records import Batch, BatchId, Counts, Page
from standby.states import BatchState
from standby.wire.reply import Message, encode_message

ROW_TYPES = frozenset(ROW_ERRORS)


class _StoredItem(msgspec.Struct, gc=False):
    custom_id: str
    params: msgspec.Raw


_stored_decoder = msgspec.json.Decoder(_StoredItem)
_encode = msgspec.json.Encoder().encode


def decode_item(raw: bytes) -> tuple[str, msgspec.Raw]:
    """Read an accepted item back from the items blob: its `custom_id` and the bytes of its `params`."""
    item = _stored_decoder.decode(raw)
    return item.custom_id, item.params


def timestamp(us: int) -> str:
    """Write microseconds since 1970 as the wire does: `2026-11-22T10:00:00.000000Z`."""
    return f"{datetime(1970, 1, 1) + timedelta(microseconds=us):%Y-%m-%dT%H:%M:%S.%f}Z"  # noqa: DTZ001 - UTC by its Z


def parse_timestamp(text: str) -> int:
    """Read such a time back as microseconds since 1970."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def encode_batch(batch: Batch, *, results_url: str | None, counts_at_end: bool = False) -> bytes:
    """Write a MessageBatch (contract 2.1).

    `results_url` may always be passed: it is shown only while there are results to get. With `counts_at_end`
    all items stay in processing until the batch has ended.
    """
    return _encode(batch_object(batch, results_url=results_url, counts_at_end=counts_at_end))


def batch_object(batch: Batch, *, results_url: str | None, counts_at_end: bool = False) -> dict[str, Any]:
    """Return a MessageBatch as plain JSON values; every key is there, null where empty."""
    is_ended = batch.state is BatchState.ENDED
    has_results = is_ended and batch.archived_us is None
    counts = batch.counts if is_ended or not counts_at_end else Counts(processing=batch.size)
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": batch.state.value,
        "request_counts": {
            "processing": counts.processing,
            "succeeded": counts.succeeded,
            "errored": counts.errored,
            "canceled": counts.canceled,
            "expired": counts.expired,
        },
        "created_at": timestamp(batch.created_us),
        "expires_at": timestamp(batch.expires_us),
        "ended_at": _optional(batch.ended_us),
        "cancel_initiated_at": _optional(batch.cancel_initiated_us),
        "archived_at": _optional(batch.archived_us),
        "results_url": results_url if has_results else None,
    }


def encode_page(page: Page, *, results_url: Callable[[BatchId], str | None], counts_at_end: bool = False) -> bytes:
    """Write a page of batches (contract 2.4)."""
    data = [
        batch_object(batch, results_url=results_url(batch.id), counts_at_end=counts_at_end) for batch in page.batches
    ]
    return _encode(page_object(data, has_more=page.has_more))


def page_object(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return the envelope of every list: `first_id` and `last_id` are null on an empty page."""
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def encode_deleted(batch_id: BatchId) -> bytes:
    """Write the answer to a delete (contract 2.6)."""
    return _encode({"id": batch_id, "type": "message_batch_deleted"})


def succeeded_row(custom_id: str, message: Message) -> bytes:
    """Write the row of an answered item, its newline included; `service_tier` becomes `batch` (contract 3.4)."""
    if message.usage.service_tier != "batch":
        message = replace(message, usage=replace(message.usage, service_tier="batch"))
    body = encode_message(message)
    return b'{"custom_id":%b,"result":{"type":"succeeded","message":%b}}\n' % (_encode(custom_id), body)


def errored_row(custom_id: str, type_: str, message: str, request_id: str | None = None) -> bytes:
    """Write the row of an item that failed for good, its newline included.

    The inner type must be one of nine (contract 2.7.2); any other becomes `invalid_request_error` if the fault
    is the item's own (a 4xx of the live route), else `api_error`.
    """
    error = {"type": _row_type(type_), "message": sound_text(message)}
    body = _encode({"type": "error", "error": error, "request_id": request_id})
    return b'{"custom_id":%b,"result":{"type":"errored","error":%b}}\n' % (_encode(custom_id), body)


def canceled_row(custom_id: str) -> bytes:
    """Write the row of an item that a cancel kept from running, its newline included."""
    return b'{"custom_id":%b,"result":{"type":"canceled"}}\n' % _encode(custom_id)


def expired_row(custom_id: str) -> bytes:
    """Write the row of an item whose time was over, its newline included."""
    return b'{"custom_id":%b,"result":{"type":"expired"}}\n' % _encode(custom_id)


def sound_text(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8, by question marks."""
    return text.encode("utf-8", "replace").decode()


def _optional(us: int | None) -> str | None:
    return None if us is None else timestamp(us)


def _row_type(type_: str) -> str:
    if type_ in ROW_TYPES:
        return type_
    return "invalid_request_error" if type_ in {"request_too_large", "conflict_error"} else "api_error"
