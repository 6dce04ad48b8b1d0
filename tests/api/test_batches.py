from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import replace

import pytest

from standby.api.deps import Phase
from standby.config import load_settings
from standby.errors import BlobError, StoreError
from standby.ids import is_id, make_id
from standby.scheduler.intake import Intake
from tests.api.client import Client
from tests.api.world import World, create_body, item

BATCHES = "/v1/messages/batches"
KEYS = {
    "id",
    "type",
    "processing_status",
    "request_counts",
    "created_at",
    "expires_at",
    "ended_at",
    "cancel_initiated_at",
    "archived_at",
    "results_url",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_create_answers_the_whole_object(client: Client) -> None:
    """A create answers 200 with every documented key, all in processing, times in microseconds with Z (item 21)."""
    batch = (await client.post(BATCHES, create_body(3))).ok()

    assert set(batch) == KEYS
    assert is_id("msgbatch", batch["id"])
    assert batch["type"] == "message_batch"
    assert batch["processing_status"] == "in_progress"
    assert batch["request_counts"] == {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert TIME.fullmatch(batch["created_at"])
    assert TIME.fullmatch(batch["expires_at"])
    assert [batch[key] for key in ("ended_at", "cancel_initiated_at", "archived_at", "results_url")] == [None] * 4


async def test_created_batch_is_readable_at_once(client: Client) -> None:
    """What a create answered can be read in the next call, unchanged (item 18)."""
    batch = (await client.post(BATCHES, create_body(1))).ok()

    assert (await client.get(f"{BATCHES}/{batch['id']}")).ok() == batch


async def test_bad_params_do_not_refuse_the_create(client: Client) -> None:
    """Nonsense inside `params` is the item's own affair (item 9)."""
    body = {"requests": [{"custom_id": "a", "params": {"nonsense": [1]}}, {"custom_id": "b", "params": {}}]}

    assert (await client.post(BATCHES, body)).ok()["request_counts"]["processing"] == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The request body is not valid JSON: "),
        (b"{", "The request body is not valid JSON: "),
        (b"\xef\xbb\xbf{}", "The request body is not valid JSON: "),
        ({"requests": []}, "requests: List should have at least 1 item after validation, not 0"),
        ({}, "requests: Field required"),
        ({"requests": [{"params": {}}]}, "requests.0.custom_id: Field required"),
        ({"requests": [item("x" * 65)]}, "requests.0.custom_id: String should have at most 64 characters"),
        ({"requests": [item("")]}, "requests.0.custom_id: String should have at least 1 character"),
        ({"requests": [item("a\n")]}, "requests.0.custom_id: String should match pattern"),
        ({"requests": [item("a"), item("b"), item("a")]}, "Duplicate custom_id found: a"),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params: Field required"),
        ({"requests": [{"custom_id": 7, "params": {}}]}, "requests.0.custom_id: "),
    ],
)
async def test_envelope_faults_are_400(world: World, client: Client, body: object, words: str) -> None:
    """A fault of the envelope is a 400 with the contract's words, and leaves nothing behind (items 9 and 26)."""
    answer = await client.post(BATCHES, body)

    assert words in answer.error(400, "invalid_request_error")
    assert (await client.get(BATCHES)).ok()["data"] == []
    assert list(world.folder.glob("batches/*")) == []
    assert list(world.folder.glob("spool/*")) == []


async def test_broken_off_upload_leaves_no_trace(world: World, client: Client) -> None:
    """A client that leaves in the middle of its body has created nothing."""
    whole = json.dumps(create_body(2000)).encode()

    answer = await client.post(BATCHES, [whole[: 1 << 20], whole[1 << 20 : -10], None])

    assert answer.status == 0
    assert (await client.get(BATCHES)).ok()["data"] == []
    assert list(world.folder.glob("spool/*")) == []
    assert list(world.folder.glob("batches/*")) == []


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_compressed_create(client: Client, pack: object) -> None:
    """A body may come compressed, in pieces of any size."""
    packed = pack(json.dumps(create_body(50)).encode())  # type: ignore[operator]
    encoding = "gzip" if pack is gzip.compress else "deflate"
    pieces = [packed[i : i + 7] for i in range(0, len(packed), 7)]

    batch = (await client.post(BATCHES, pieces, headers={"content-encoding": encoding})).ok()

    assert batch["request_counts"]["processing"] == 50


async def test_encoding_faults(client: Client) -> None:
    """An unknown encoding and a broken one are 400 with their codes."""
    unknown = await client.post(BATCHES, b"{}", headers={"content-encoding": "zstd"})
    broken = await client.post(BATCHES, b"no gzip at all", headers={"content-encoding": "gzip"})

    unknown.error(400, "invalid_request_error")
    broken.error(400, "invalid_request_error")
    assert unknown.json()["error"]["details"]["error_code"] == "request_body_encoding_unsupported"
    assert broken.json()["error"]["details"]["error_code"] == "request_body_encoding_invalid"


async def test_too_large_is_413(world: World) -> None:
    """A body above the limit is 413, whether it announces its size, hides it, or hides it in gzip (item 25)."""
    world.settings = load_settings(environ={}, flags={"store.data": str(world.folder), "batch.max_body_mb": 1})
    client = world.client()
    body = b" " * (1 << 20) + b"{}"

    announced = await client.post(BATCHES, body, headers={"content-length": str(len(body))})
    hidden = await client.post(BATCHES, [body[: 1 << 19], body[1 << 19 :]])
    packed = await client.post(BATCHES, gzip.compress(body), headers={"content-encoding": "gzip"})

    for answer in (announced, hidden, packed):
        answer.error(413, "request_too_large")
    assert packed.json()["error"]["details"]["error_code"] == "request_body_too_large_after_decoding"
    assert list(world.folder.glob("spool/*")) == []


async def test_idempotency_key(client: Client) -> None:
    """The same key and body is the same batch; with another body the key is 400, never 409 (items 14 and 23)."""
    key = {"idempotency-key": "nightly-7"}
    first = (await client.post(BATCHES, create_body(2), headers=key)).ok()

    again = (await client.post(BATCHES, create_body(2), headers=key)).ok()
    other = await client.post(BATCHES, create_body(3), headers=key)

    assert again == first
    assert "idempotency-key" in other.error(400, "invalid_request_error")
    assert [batch["id"] for batch in (await client.get(BATCHES)).ok()["data"]] == [first["id"]]


async def test_sdk_retry_meets_its_first_try(client: Client) -> None:
    """A create that the SDK repeats answers the batch of its first try; a fresh one makes its own (item 23)."""
    first = (await client.post(BATCHES, create_body(2), headers={"x-stainless-retry-count": "0"})).ok()
    again = (await client.post(BATCHES, create_body(2), headers={"x-stainless-retry-count": "1"})).ok()
    fresh = (await client.post(BATCHES, create_body(2))).ok()

    assert again["id"] == first["id"]
    assert fresh["id"] != first["id"]


async def test_cancel(client: Client) -> None:
    """Cancel answers `canceling` with a time; again it answers the same; its empty body is never parsed (item 12)."""
    batch_id = (await client.post(BATCHES, create_body(2))).ok()["id"]
    typed = {"content-type": "application/json", "content-length": "0"}

    first = (await client.post(f"{BATCHES}/{batch_id}/cancel", headers=typed)).ok()
    again = (await client.post(f"{BATCHES}/{batch_id}/cancel", b"not json")).ok()

    assert first["processing_status"] == "canceling"
    assert TIME.fullmatch(first["cancel_initiated_at"])
    assert first["results_url"] is None
    assert first["request_counts"]["processing"] == 2
    assert again == first


async def test_cancel_after_the_end_is_400(world: World, client: Client) -> None:
    """An ended batch cannot be canceled: 400, never 409 (item 14)."""
    batch_id = await world.ended(client)

    assert batch_id in (await client.post(f"{BATCHES}/{batch_id}/cancel")).error(400, "invalid_request_error")


async def test_canceled_batch_has_all_rows(world: World, client: Client) -> None:
    """After a cancel the results hold every item, mixed types, and the counts match (items 7 and 15)."""
    batch_id = (await client.post(BATCHES, create_body(3))).ok()["id"]
    await client.post(f"{BATCHES}/{batch_id}/cancel")
    await world.end(batch_id)

    batch = (await client.get(f"{BATCHES}/{batch_id}")).ok()
    rows = [json.loads(line) for line in (await client.get(f"{BATCHES}/{batch_id}/results")).body.splitlines()]

    assert batch["processing_status"] == "ended"
    assert batch["request_counts"] == {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 3, "expired": 0}
    assert {row["custom_id"] for row in rows} == {"item-0", "item-1", "item-2"}
    assert {json.dumps(row["result"]) for row in rows} == {'{"type": "canceled"}'}


async def test_delete(world: World, client: Client) -> None:
    """Delete answers its own object, erases the blobs at once, and leaves a 404 everywhere (item 13)."""
    batch_id = await world.ended(client)

    deleted = (await client.send("DELETE", f"{BATCHES}/{batch_id}", headers={"content-type": "application/json"})).ok()

    assert deleted == {"id": batch_id, "type": "message_batch_deleted"}
    assert list(world.folder.glob("batches/*")) == []
    assert await world.store.erasures() == []
    assert (await client.get(BATCHES)).ok()["data"] == []
    for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
        answer = await client.send(method, f"{BATCHES}/{batch_id}{path}")
        assert answer.error(404, "not_found_error") == f"Message Batch {batch_id} not found."


async def test_delete_before_the_end_is_400(client: Client) -> None:
    """A batch that runs or is being canceled cannot be deleted: 400, never 409 (item 14)."""
    batch_id = (await client.post(BATCHES, create_body(1))).ok()["id"]
    words = "In progress batches cannot be deleted. Consider canceling the batch instead."

    running = await client.send("DELETE", f"{BATCHES}/{batch_id}")
    await client.post(f"{BATCHES}/{batch_id}/cancel")
    canceling = await client.send("DELETE", f"{BATCHES}/{batch_id}")

    assert running.error(400, "invalid_request_error") == words
    assert canceling.error(400, "invalid_request_error") == words


async def test_failed_erasure_is_still_owed(world: World, client: Client) -> None:
    """If the disk refuses the erasure, the batch is gone all the same and the sweeper still owes it."""
    batch_id = await world.ended(client)

    class Stubborn(type(world.blobs)):  # type: ignore[misc]
        async def erase(self, batch_id: str) -> None:
            raise BlobError("the disk says no")

    world.changes["blobs"] = Stubborn(world.folder)

    answer = await world.client().send("DELETE", f"{BATCHES}/{batch_id}")

    assert answer.ok()["type"] == "message_batch_deleted"
    assert await world.store.erasures() == [batch_id]
    (await client.get(f"{BATCHES}/{batch_id}")).error(404, "not_found_error")


@pytest.mark.parametrize(
    "batch_id", ["message_batch_id", "msgbatch_01", "a%20b", "%00", "%F0%9F%8F%9B", "x" * 3000, "x%0A"]
)
async def test_ids_that_cannot_be_are_unknown(client: Client, batch_id: str) -> None:
    """Whatever stands in place of an id, the answer is 404 in the contract's words."""
    for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
        answer = await client.send(method, f"{BATCHES}/{batch_id}{path}")
        assert answer.error(404, "not_found_error").startswith("Message Batch ")


async def test_results_before_the_end_are_404(client: Client) -> None:
    """While a batch runs there are no results."""
    batch_id = (await client.post(BATCHES, create_body(1))).ok()["id"]

    answer = await client.get(f"{BATCHES}/{batch_id}/results")

    assert answer.error(404, "not_found_error") == f"Message Batch {batch_id} has no available results."


async def test_ended_comes_with_everything(world: World, client: Client) -> None:
    """`ended`, final counts, `ended_at` and `results_url` appear in one read (items 2 and 3)."""
    batch_id = (await client.post(BATCHES, create_body(2))).ok()["id"]
    await world.work(batch_id)
    before = (await client.get(f"{BATCHES}/{batch_id}")).ok()
    await world.end(batch_id)

    after = (await client.get(f"{BATCHES}/{batch_id}")).ok()

    assert before["results_url"] is None
    assert before["processing_status"] == "in_progress"
    assert after["processing_status"] == "ended"
    assert after["request_counts"] == {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0}
    assert TIME.fullmatch(after["ended_at"])
    assert after["results_url"] == f"http://localhost:8378{BATCHES}/{batch_id}/results"


async def test_errored_rows_are_nested_twice(world: World, client: Client) -> None:
    """A batch of failed items has ended too; its rows hold whole error objects, `request_id` included (item 8)."""
    batch_id = (await client.post(BATCHES, create_body(2))).ok()["id"]
    await world.end(batch_id)

    batch = (await client.get(f"{BATCHES}/{batch_id}")).ok()
    rows = [json.loads(line) for line in (await client.get(batch["results_url"].split("8378")[1])).body.splitlines()]

    assert (batch["processing_status"], batch["request_counts"]["errored"]) == ("ended", 2)
    for row in rows:
        assert row["result"]["type"] == "errored"
        assert set(row["result"]["error"]) == {"type", "error", "request_id"}
        assert row["result"]["error"]["type"] == "error"
        assert row["result"]["error"]["error"]["type"] == "api_error"


async def test_counts_at_end(world: World) -> None:
    """With `counts = "at_end"` all items stay in processing until the batch has ended."""
    world.settings = load_settings(environ={}, flags={"store.data": str(world.folder), "batch.counts": "at_end"})
    client = world.client()
    batch_id = (await client.post(BATCHES, create_body(2))).ok()["id"]
    await world.work(batch_id)

    running = (await client.get(f"{BATCHES}/{batch_id}")).ok()["request_counts"]
    listed = (await client.get(BATCHES)).ok()["data"][0]["request_counts"]
    await world.end(batch_id)

    assert running == listed == {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert (await client.get(f"{BATCHES}/{batch_id}")).ok()["request_counts"]["succeeded"] == 2


async def test_archived_batch_keeps_its_object(world: World, client: Client) -> None:
    """29 days after `created_at` the results are gone, the object stays, `results_url` is null (item 30)."""
    batch_id = await world.ended(client)
    world.clock.now_us += 30 * 86400 * 1_000_000
    assert await world.store.archive_due(now_us=world.clock(), retention_us=29 * 86400 * 1_000_000) == [batch_id]

    batch = (await client.get(f"{BATCHES}/{batch_id}")).ok()
    results = await client.get(f"{BATCHES}/{batch_id}/results")

    assert batch["processing_status"] == "ended"
    assert TIME.fullmatch(batch["archived_at"])
    assert batch["results_url"] is None
    assert "no available results" in results.error(404, "not_found_error")
    assert [each["id"] for each in (await client.get(BATCHES)).ok()["data"]] == [batch_id]


async def test_full_disk_is_a_clear_500(world: World, client: Client) -> None:
    """A disk that is full while a body arrives is a 500 that an SDK may repeat, and leaves nothing."""

    class Full(type(world.blobs)):  # type: ignore[misc]
        async def spool(self) -> object:
            raise BlobError("cannot begin an upload: No space left") from OSError(28, "No space left on device")

    world.changes["blobs"] = Full(world.folder)
    world.changes["intake"] = Intake(
        store=world.store, blobs=world.changes["blobs"], settings=world.settings.batch, clock=world.clock
    )

    answer = await world.client().post(BATCHES, create_body(1))

    assert "disk" in answer.error(500, "api_error")
    assert "x-should-retry" not in answer.headers
    assert str(world.folder) not in answer.body.decode()


async def test_trouble_of_the_store_tells_no_paths(world: World) -> None:
    """A failing store is a 500 in the contract's shape that does not tell where the data lies."""

    class Broken(type(world.store)):  # type: ignore[misc]
        async def get_batch(self, workspace_id: str, batch_id: str) -> object:
            raise StoreError(f"{world.folder}/standby.db is damaged")

    broken = Broken(world.folder / "standby.db")
    await broken.open()
    world.changes["store"] = broken

    answer = await world.client().get(f"{BATCHES}/{make_id('msgbatch')}")
    await broken.close()

    answer.error(500, "api_error")
    assert str(world.folder) not in answer.body.decode()


async def test_failure_after_the_batch_is_stored_must_not_be_repeated(world: World) -> None:
    """If anything fails once the batch is stored, the 500 says so: a repeat would make a second batch."""
    broken = replace(world.settings, server=replace(world.settings.server, public_url=7))  # type: ignore[arg-type]
    world.settings = broken

    answer = await world.client().post(BATCHES, create_body(1))

    answer.error(500, "api_error")
    assert answer.headers["x-should-retry"] == "false"


async def test_draining_server_takes_no_new_batches(world: World, client: Client) -> None:
    """A server that goes down answers 529 to a create and goes on answering reads."""
    world.phase[0] = Phase.DRAINING

    (await client.post(BATCHES, create_body(1))).error(529, "overloaded_error")
    (await client.get(BATCHES)).ok()
