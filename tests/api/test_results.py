from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import pytest

from standby.api.ranges import Span, Unsatisfiable, is_range_valid, is_unchanged, parse_range
from standby.blobs.local import LocalBlobs
from standby.records import BatchId
from tests.api.client import Client, Leaving
from tests.api.world import World, create_body

BATCHES = "/v1/messages/batches"


def url(batch_id: str) -> str:
    """Path of the results."""
    return f"{BATCHES}/{batch_id}/results"


async def test_download(world: World, client: Client) -> None:
    """Results are JSON Lines, a row an item, no blank line, whatever `Accept` says (items 5-7, 19)."""
    batch_id = await world.ended(client, 40)

    answer = await client.get(url(batch_id), headers={"accept": "application/binary"})

    assert answer.status == 200
    assert answer.is_complete
    assert answer.headers["content-type"] == "application/x-jsonl"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert b"\r" not in answer.body
    assert b"\n\n" not in answer.body
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert sorted(row["custom_id"] for row in rows) == sorted(f"item-{number}" for number in range(40))
    usage = rows[0]["result"]["message"]["usage"]
    assert usage["service_tier"] == "batch"
    assert (usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (0, 0)


async def test_rows_larger_than_a_piece(world: World, client: Client) -> None:
    """A row may be larger than the pieces in which blobs are read, and survives unchanged."""
    texts = ["ä" * 700_000, "short", "x" * 1_500_000]
    batch_id = (await client.post(BATCHES, create_body(3))).ok()["id"]
    rows = await world.work(batch_id, texts=texts)
    await world.end(batch_id)

    assert (await client.get(url(batch_id))).body == b"".join(rows)


async def test_every_range(world: World, client: Client) -> None:
    """Any byte range of the whole is 206 with exactly those bytes, across rows and segments."""
    batch_id = await world.ended(client, 3)
    whole = (await client.get(url(batch_id))).body
    size = len(whole)

    for start in range(0, size, 61):
        for end in sorted({start + 1, (start + size) // 2 + 1, size}):
            answer = await client.get(url(batch_id), headers={"range": f"bytes={start}-{end - 1}"})
            assert answer.status == 206
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert answer.headers["content-length"] == str(end - start)
            assert answer.body == whole[start:end]


async def test_range_across_segments(world: World, client: Client) -> None:
    """Canceled rows stand in a segment of their own, and a range crosses into it unnoticed."""
    batch_id = (await client.post(BATCHES, create_body(600))).ok()["id"]
    await world.work(batch_id, runs=1)
    await client.post(f"{BATCHES}/{batch_id}/cancel")
    await world.end(batch_id)
    assert len(await world.store.manifest(BatchId(batch_id))) == 2
    whole = (await client.get(url(batch_id))).body
    edge = (await world.store.manifest(BatchId(batch_id)))[0].length

    answer = await client.get(url(batch_id), headers={"range": f"bytes={edge - 5}-{edge + 40}"})

    assert answer.body == whole[edge - 5 : edge + 41]
    assert len({json.loads(line)["custom_id"] for line in whole.splitlines()}) == 600


async def test_resumed_download_is_the_same(world: World, client: Client) -> None:
    """A download that broke off goes on with `Range` and `If-Range`; another version starts anew."""
    batch_id = await world.ended(client, 20)
    first = await client.get(url(batch_id))
    half = {"range": f"bytes={len(first.body) // 2}-"}

    rest = await client.get(url(batch_id), headers={**half, "if-range": first.headers["etag"]})
    anew = await client.get(url(batch_id), headers={**half, "if-range": '"another"'})

    assert rest.status == 206
    assert first.body[: len(first.body) // 2] + rest.body == first.body
    assert (anew.status, anew.body) == (200, first.body)


async def test_range_behind_the_end(world: World, client: Client) -> None:
    """A range that begins behind the last byte is 416 with the size."""
    batch_id = await world.ended(client)
    size = len((await client.get(url(batch_id))).body)

    answer = await client.get(url(batch_id), headers={"range": f"bytes={size}-"})

    answer.error(416, "invalid_request_error")
    assert answer.headers["content-range"] == f"bytes */{size}"


async def test_head(world: World, client: Client) -> None:
    """HEAD answers the headers of GET and no body."""
    batch_id = await world.ended(client)
    whole = await client.get(url(batch_id))

    head = await client.send("HEAD", url(batch_id))

    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "etag", "content-type", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]


async def test_unchanged_is_304(world: World, client: Client) -> None:
    """A client that has this version gets 304, also if its copy was compressed."""
    batch_id = await world.ended(client)
    etag = (await client.get(url(batch_id))).headers["etag"]

    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = await client.get(url(batch_id), headers={"if-none-match": known})
        assert (answer.status, answer.body) == (304, b"")
    assert (await client.get(url(batch_id), headers={"if-none-match": '"x"'})).status == 200


async def test_gzip(world: World, client: Client) -> None:
    """Compressed when asked: same bytes, a weak tag; a range is never compressed."""
    batch_id = await world.ended(client, 50)
    plain = await client.get(url(batch_id))
    asked = {"accept-encoding": "gzip, deflate"}

    packed = await client.get(url(batch_id), headers=asked)
    part = await client.get(url(batch_id), headers={**asked, "range": "bytes=10-19"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-length" not in packed.headers
    assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in part.headers
    assert part.body == plain.body[10:20]


@pytest.mark.parametrize("asked", ["gzip;q=0", "identity", "gzip; q=0.000", "br", ""])
async def test_no_gzip_unless_asked(world: World, client: Client, asked: str) -> None:
    """Who does not take gzip gets none."""
    batch_id = await world.ended(client, 50)

    assert "content-encoding" not in (await client.get(url(batch_id), headers={"accept-encoding": asked})).headers


async def flip(world: World, batch_id: str, place: int) -> None:
    """Flip one bit of the first segment on disk."""
    path = world.folder / "batches" / (await world.store.manifest(BatchId(batch_id)))[0].key
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


async def test_flipped_bit_in_the_first_piece_is_a_clean_500(world: World, client: Client) -> None:
    """Damage that is found before anything was sent is a 500 that is not worth repeating."""
    batch_id = await world.ended(client)
    await flip(world, batch_id, 30)

    answer = await client.get(url(batch_id))

    answer.error(500, "api_error")
    assert answer.headers["x-should-retry"] == "false"


async def test_flipped_bit_further_on_cuts_the_answer(world: World, client: Client) -> None:
    """Damaged rows are never sent: the answer breaks off before them, and is visibly incomplete."""
    texts = [f"{number:04d}" * 50_000 for number in range(12)]
    batch_id = (await client.post(BATCHES, create_body(12))).ok()["id"]
    rows = await world.work(batch_id, texts=texts)
    await world.end(batch_id)
    whole = b"".join(rows)
    await flip(world, batch_id, len(whole) - len(rows[-1]) + 100)

    answer = await client.get(url(batch_id))

    assert answer.status == 200
    assert not answer.is_complete
    assert 0 < len(answer.body) < len(whole)
    assert whole.startswith(answer.body)
    assert answer.body.endswith(b"\n")


async def test_range_checks_whole_rows(world: World, client: Client) -> None:
    """A range that touches a damaged row is refused even if its own bytes are sound; one beside it is served."""
    batch_id = await world.ended(client, 3)
    whole = (await client.get(url(batch_id))).body
    second = whole.index(b"\n") + 1
    await flip(world, batch_id, second + 20)

    touching = await client.get(url(batch_id), headers={"range": f"bytes={second}-{second + 3}"})
    beside = await client.get(url(batch_id), headers={"range": f"bytes=0-{second - 1}"})

    touching.error(500, "api_error")
    assert beside.body == whole[:second]


async def test_missing_segment_is_a_clean_500(world: World, client: Client) -> None:
    """A segment that vanished is a 500, not an empty file."""
    batch_id = await world.ended(client)
    (world.folder / "batches" / (await world.store.manifest(BatchId(batch_id)))[0].key).unlink()

    (await client.get(url(batch_id))).error(500, "api_error")


@pytest.mark.parametrize("path", ["/v1/messages/batches/{}/results", "/standby/v1/batches/{}/results"])
async def test_delete_wins_over_a_download_that_opens(world: World, client: Client, path: str) -> None:
    """A batch that is deleted between the look at its manifest and the first byte is 404, not 500."""
    batch_id = BatchId(await world.ended(client))

    class Racing(LocalBlobs):
        async def stream(self, key: str, *, start: int, end: int) -> AsyncIterator[bytes]:
            await client.send("DELETE", f"{BATCHES}/{batch_id}")
            async for piece in super().stream(key, start=start, end=end):
                yield piece

    racing = Racing(world.folder)
    await racing.open()
    world.changes["blobs"] = racing

    answer = await world.client().get(path.format(batch_id))

    assert answer.error(404, "not_found_error") == f"Message Batch {batch_id} not found."


async def test_client_that_leaves_stops_the_reading(world: World, client: Client) -> None:
    """Nobody reads on for a client that is gone."""
    batch_id = (await client.post(BATCHES, create_body(20))).ok()["id"]
    await world.work(batch_id, texts=["x" * 1_000_000] * 20)
    await world.end(batch_id)

    answer = await client.get(url(batch_id), leaving=Leaving(after_pieces=2))

    assert not answer.is_complete
    assert len(answer.pieces) < 20


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-", Span(2, 10)),
        ("bytes=2-99", Span(2, 10)),
        ("bytes=-3", Span(7, 10)),
        ("bytes=-30", Span(0, 10)),
        ("BYTES=1-2", Span(1, 3)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges(header: str | None, span: Span | None) -> None:
    """One range is honoured; what is malformed, unknown or several is ignored, as RFC 9110 allows."""
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_unsatisfiable_ranges(header: str) -> None:
    """A range without a single byte is refused."""
    with pytest.raises(Unsatisfiable):
        parse_range(header, 10)


def test_tags() -> None:
    """`If-None-Match` compares weakly, `If-Range` strongly."""
    assert is_unchanged('W/"a"', '"a"')
    assert not is_unchanged('"b"', '"a"')
    assert not is_unchanged(None, '"a"')
    assert is_range_valid(None, '"a"')
    assert is_range_valid('"a"', '"a"')
    assert not is_range_valid('W/"a"', '"a"')
