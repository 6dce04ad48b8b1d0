"""Bodies made to hurt: each is refused in the contract's shape and leaves nothing, or makes a whole batch."""

from __future__ import annotations

import gzip
import json
import os
import random
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.fuzz.raw import CREATE, break_off, chunked, exchange, gzip_of_zeros, head
from tests.fuzz.trace import assert_all_or_nothing, assert_nothing_left, assert_refused, trace
from tests.harness import Answer, ServerProcess, call, create, item, message, results, wait_ended

pytestmark = pytest.mark.kill
MB = 1 << 20
MAX_BODY = 256 * MB
ONE = json.dumps(item("a")).encode()
GOOD = b'{"requests":[' + ONE + b"]}"
DEEP = 100_000


def post(server: ServerProcess, body: bytes, **headers: str) -> Answer:
    """Post a body as it is."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(server, "POST", CREATE, body, headers=named, timeout=120)


def params(text: bytes) -> bytes:
    """Put raw JSON in the place of the first item's params, with a good item behind it."""
    return b'{"requests":[{"custom_id":"b","params":' + text + b"}," + ONE + b"]}"


def named(custom_id: bytes) -> bytes:
    """Put raw JSON in the place of a custom_id behind a good item."""
    return b'{"requests":[' + ONE + b',{"custom_id":' + custom_id + b',"params":{}}]}'


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "null": b"null",
    "an array": b"[" + ONE + b"]",
    "a string": b'"requests"',
    "a number": b"1e400",
    "no requests": b"{}",
    "no items": b'{"requests":[]}',
    "requests is null": b'{"requests":null}',
    "requests is an object": b'{"requests":{"0":' + ONE + b"}}",
    "requests is text": b'{"requests":"[]"}',
    "requests holds arrays": b'{"requests":[[' + ONE + b"]]}",
    "an item is null behind a good one": b'{"requests":[' + ONE + b",null]}",
    "an extra key at the top": GOOD[:-1] + b',"extra":1}',
    "an extra key in an item": b'{"requests":[' + ONE[:-1] + b',"extra":1}]}',
    "params is an array": params(b"[]"),
    "params is a string": params(b'"{}"'),
    "params is null": params(b"null"),
    "params missing": b'{"requests":[{"custom_id":"b"},' + ONE + b"]}",
    "custom_id missing": b'{"requests":[{"params":{}},' + ONE + b"]}",
    "custom_id is a number": named(b"7"),
    "custom_id is null": named(b"null"),
    "custom_id is empty": named(b'""'),
    "custom_id ends in a newline": named(rb'"b\n"'),
    "custom_id ends in a raw newline": named(b'"b\n"'),
    "custom_id starts with a space": named(b'" b"'),
    "custom_id has 65 characters": named(b'"' + b"x" * 65 + b'"'),
    "custom_id is not ASCII": named('"é"'.encode()),
    "custom_id has full-width digits": named('"\uff11"'.encode()),
    "custom_id has a NUL": named(rb'"b\u0000"'),
    "custom_id has a lone surrogate": named(rb'"\ud800"'),
    "custom_id is there again, escaped": named(rb'"\u0061"'),
    "custom_id twice": b'{"requests":[' + ONE + b"," + ONE + b"]}",
    "a trailing comma": GOOD[:-2] + b",]}",
    "cut off in an item": GOOD[:-20],
    "cut off before the last brace": GOOD[:-1],
    "garbage behind": GOOD + b"garbage",
    "a second document": GOOD + GOOD,
    "a NUL behind": GOOD + b"\0",
    "a byte-order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "invalid UTF-8 at the top": b'{"requests":[' + ONE + b'],"\xff":1}',
    "invalid UTF-8 in a text": GOOD.replace(b"Say", b"\xff\xfe"),
    "an overlong slash": GOOD.replace(b"Say", b"\xc0\xaf"),
    "a raw surrogate in UTF-8": GOOD.replace(b"Say", b"\xed\xa0\x80"),
    "NaN": params(b'{"max_tokens":NaN}'),
    "Infinity": params(b'{"max_tokens":-Infinity}'),
    "a leading zero": params(b'{"max_tokens":01}'),
    "a control character in a text": GOOD.replace(b"Say", b"\x01"),
    "a bad escape": GOOD.replace(b"Say", rb"\x"),
    "a half escape": GOOD.replace(b"Say", rb"\u12"),
    "comments": b"/* */" + GOOD,
    "single quotes": GOOD.replace(b'"', b"'"),
    "arrays 100,000 deep": b"[" * DEEP,
    "arrays 100,000 deep and back": b"[" * DEEP + b"]" * DEEP,
    "objects 100,000 deep": b'{"requests":' * DEEP + b"1" + b"}" * DEEP,
    "items 100,000 deep": b'{"requests":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a form": b"requests=1&custom_id=2",
    "random bytes": random.Random(7).randbytes(100_000),
    "gzip without saying so": gzip.compress(GOOD),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_body_is_refused_and_leaves_nothing(server: ServerProcess, name: str) -> None:
    """A body that is no list of items is a 400 that says why, and neither list nor folder shows it."""
    before = trace(server)
    said = assert_refused(server, post(server, REFUSED[name]), before, 400)
    assert "Say something" not in said


EITHER: dict[str, bytes] = {
    "requests twice at the top": GOOD[:-1] + b',"requests":[' + ONE.replace(b'"a"', b'"z"') + b"]}",
    "custom_id twice in one item": b'{"requests":[{"custom_id":"b","custom_id":"c","params":{}}]}',
    "params twice in one item": b'{"requests":[{"custom_id":"b","params":{},"params":{"model":"x"}}]}',
    "a key twice in params": params(b'{"model":"claude-sonnet-5-5","model":"x","max_tokens":1,"messages":[]}'),
    "a key twice in a message": params(
        b'{"model":"claude-sonnet-5-5","max_tokens":1,"messages":[{"role":"user","role":"assistant","content":"x"}]}'
    ),
    "params 100,000 deep": params(b'{"messages":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "params 100,000 objects deep": params(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "params 1,500 deep": params(b'{"messages":' + b"[" * 1500 + b"]" * 1500 + b"}"),
    "a number of 10,000 digits": params(b'{"max_tokens":' + b"9" * 10_000 + b"}"),
    "a number of 400 digits and an exponent": params(b'{"max_tokens":1e' + b"9" * 400 + b"}"),
    "a float for a count": params(b'{"max_tokens":1.0}'),
    "minus zero": params(b'{"max_tokens":-0}'),
    "2 to the 64": params(b'{"max_tokens":18446744073709551616}'),
    "lone surrogates in a text": GOOD.replace(b"Say", rb"\ud800 \udfff"),
    "lone surrogates in a key": params(rb'{"\udc00":1}'),
    "a surrogate pair": GOOD.replace(b"Say", rb"\ud83d\ude00"),
    "NUL in a text": GOOD.replace(b"Say", rb"\u0000"),
    "line separators in a text": GOOD.replace(b"Say", "\u2028\u2029\x85".encode()),
    "an empty key": params(b'{"":1}'),
    "keys of a prototype": params(b'{"__proto__":{},"constructor":1}'),
    "a key of a megabyte": params(b'{"' + b"k" * MB + b'":1}'),
    "200,000 keys": params(b"{" + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}"),
    "an item that looks like another's end": params(
        b'{"messages":"},{\\"custom_id\\":\\"a\\",\\"params\\":{","x":[{"custom_id":"a","params":{}},{"custom_id":"a"}]}'
    ),
    "params before custom_id": b'{"requests":[{"params":{},"custom_id":"b"},' + ONE + b"]}",
    "keys written with escapes": GOOD.replace(b'"custom_id"', rb'"\u0063ustom_id"').replace(
        b'"requests"', rb'"\u0072equests"'
    ),
    "a custom_id written with escapes": named(rb'"\u0062"'),
    "a lot of white space": b" \r\n\t" * 50_000 + GOOD.replace(b",", b" \n ,\t\r\n ") + b"\n" * 50_000,
    "white space longer than a window": GOOD[:-2] + b" " * (9 * MB) + b"]}",
}


@pytest.mark.parametrize("name", EITHER)
def test_a_strange_body_is_refused_or_becomes_a_whole_batch(server: ServerProcess, name: str) -> None:
    """Where JSON leaves room, the answer is a clean 4xx or a batch whose every item gets its one result."""
    assert_all_or_nothing(server, post(server, EITHER[name]), trace(server))


def test_too_many_items(server: ServerProcess) -> None:
    """100,001 items are refused with the number that is allowed."""
    before = trace(server)
    items = b",".join(b'{"custom_id":"i%d","params":{}}' % n for n in range(100_001))
    said = assert_refused(server, post(server, b'{"requests":[' + items + b"]}"), before, 400)
    assert "100000" in said
    assert "100001" in said


@pytest.mark.parametrize("gap", [2, 1000, 60_000])
def test_twins_far_apart(server: ServerProcess, gap: int) -> None:
    """A custom_id that occurs again far behind, megabytes later, is found and named."""
    before = trace(server)
    filler = b'{"custom_id":"i%d","params":{"model":"' + b"x" * 200 + b'"}}'
    items = [filler % n for n in range(gap)] + [b'{"custom_id":"i0","params":{}}']
    said = assert_refused(server, post(server, b'{"requests":[' + b",".join(items) + b"]}"), before, 400)
    assert said.endswith("Duplicate custom_id found: i0")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_item_of_tens_of_megabytes(server: ServerProcess, place: int) -> None:
    """An item of 24 MB, first, in the middle or last, keeps its neighbours whole and gets one result."""
    items = [item(f"i{n}") for n in range(3)]
    items[place] = item(f"i{place}", "x" * (24 * MB))
    batch = create(server, items)
    wait_ended(server, batch["id"])
    assert results(server, batch["id"]).keys() == {"i0", "i1", "i2"}


def test_a_body_that_announces_too_much(server: ServerProcess) -> None:
    """A body that says it is one byte over the limit is a 413, even if the rest never comes."""
    before = trace(server)
    answer = exchange(server, [head(f"content-length: {MAX_BODY + 1}"), GOOD])
    assert_refused(server, answer, before, 413)


def test_a_body_that_grows_too_large(server: ServerProcess) -> None:
    """A chunked body that passes the limit on its way is a 413, and its spooled part is gone."""
    before = trace(server)

    def endless() -> Iterator[bytes]:
        yield b'{"requests":[' + ONE[:-3]
        for _ in range(MAX_BODY // MB):
            yield b"x" * MB

    answer = exchange(server, [head("transfer-encoding: chunked"), *chunked(endless())], timeout=120)
    assert_refused(server, answer, before, 413)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb(server: ServerProcess, encoding: str) -> None:
    """A small body that unpacks to a gigabyte is a 413 with the code for it."""
    before = trace(server)
    bomb = gzip_of_zeros(1 << 30)
    if encoding == "deflate":
        bomb = zlib.compress(bytes(MAX_BODY + MB), 1)
    answer = post(server, bomb, content_encoding=encoding)
    assert_refused(server, answer, before, 413)
    assert answer.json()["error"]["details"]["error_code"] == "request_body_too_large_after_decoding"


PACKED: dict[str, tuple[str, bytes, str]] = {
    "no gzip": ("gzip", GOOD, "request_body_encoding_invalid"),
    "gzip cut off": ("gzip", gzip.compress(GOOD)[:-9], "request_body_encoding_invalid"),
    "gzip with a wrong sum": ("gzip", gzip.compress(GOOD)[:-8] + bytes(8), "request_body_encoding_invalid"),
    "gzip with garbage behind": ("gzip", gzip.compress(GOOD) + b"xx", "request_body_encoding_invalid"),
    "nothing, as gzip": ("gzip", b"", "request_body_encoding_invalid"),
    "an encoding that nobody knows": ("rot13", GOOD, "request_body_encoding_unsupported"),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(GOOD)), "request_body_encoding_unsupported"),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_wrongly_packed_body(server: ServerProcess, name: str) -> None:
    """A body that cannot be unpacked is a 400 with the code for it."""
    before = trace(server)
    encoding, body, code = PACKED[name]
    answer = post(server, body, content_encoding=encoding)
    assert_refused(server, answer, before, 400)
    if body:
        assert answer.json()["error"]["details"]["error_code"] == code


def test_packed_bodies_are_taken(server: ServerProcess) -> None:
    """The same body in gzip or deflate, in one part or two, makes a whole batch."""
    for encoding, body in [
        ("gzip", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
        ("gzip", gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:])),
    ]:
        answer = post(server, body, content_encoding=encoding)
        assert answer.status == 200, answer.body
        assert_all_or_nothing(server, answer, trace(server))


@pytest.mark.parametrize("seed", range(8))
def test_odd_splits(server: ServerProcess, seed: int) -> None:
    """However a body is cut into chunks and segments, the same batch comes of it."""
    dice = random.Random(seed)
    body = json.dumps({"requests": [item(f"i{n}", "é\U0001f600" * 20) for n in range(40)]}, ensure_ascii=False).encode()
    pieces, place = [], 0
    while place < len(body):
        size = dice.choice([1, 2, 3, 7, 100, 4096])
        pieces.append(body[place : place + size])
        place += size
    answer = exchange(server, [head("transfer-encoding: chunked"), *chunked(pieces)])
    assert answer is not None
    assert answer.status == 200, answer.body
    assert sum(answer.json()["request_counts"].values()) == 40
    assert_all_or_nothing(server, answer, trace(server))


def test_a_slow_body(server: ServerProcess) -> None:
    """While one body trickles in byte by byte, others are answered; the slow one is taken in the end."""

    def slow() -> Iterator[bytes]:
        yield head(f"content-length: {len(GOOD)}")
        for number in range(len(GOOD)):
            if number % 20 == 0:
                assert call(server, "GET", f"{CREATE}?limit=1", timeout=20).status == 200
            yield GOOD[number : number + 1]

    before = trace(server)
    answer = exchange(server, slow())
    assert answer is not None
    assert answer.status == 200, answer.body
    assert_all_or_nothing(server, answer, before)


BROKEN_OFF: dict[str, Callable[[], list[bytes]]] = {
    "after the head": lambda: [head("content-length: 1000")],
    "in the body": lambda: [head(f"content-length: {len(GOOD)}"), GOOD[:-1]],
    "after the whole JSON, before the announced end": lambda: [head(f"content-length: {len(GOOD) + 1}"), GOOD],
    "in a chunk": lambda: [head("transfer-encoding: chunked"), b"ff\r\n" + GOOD[:40]],
    "before the last chunk": lambda: [head("transfer-encoding: chunked"), *list(chunked([GOOD]))[:-1]],
    "after ten megabytes": lambda: [head(f"content-length: {20 * MB}"), b'{"requests":[' + b" " * (10 * MB)],
    "in the head": lambda: [b"POST /v1/messages/batches HTTP/1.1\r\nhost: x\r\ncontent-le"],
}


@pytest.mark.parametrize("place", BROKEN_OFF)
def test_an_upload_that_breaks_off(server: ServerProcess, place: str) -> None:
    """A client that hangs up before the end of its body leaves no batch and no file."""
    before = trace(server)
    break_off(server, BROKEN_OFF[place]())
    assert_nothing_left(server, before)


LIES: dict[str, list[bytes]] = {
    "a length that is less than the body": [head(f"content-length: {len(GOOD) - 5}"), GOOD],
    "a negative length": [head("content-length: -1"), GOOD],
    "a length that is no number": [head("content-length: many"), GOOD],
    "a length of 30 digits": [head("content-length: " + "9" * 30), GOOD],
    "two lengths": [head("content-length: 5", f"content-length: {len(GOOD)}"), GOOD],
    "a length and chunks": [head(f"content-length: {len(GOOD)}", "transfer-encoding: chunked"), GOOD],
    "a chunk size that is no number": [head("transfer-encoding: chunked"), b"zz\r\n" + GOOD],
    "a huge chunk size": [head("transfer-encoding: chunked"), b"f" * 20 + b"\r\n" + GOOD],
    "no length at all": [head(), GOOD],
    "a bad head": [b"POST\r\n\r\n", GOOD],
    "a head of a megabyte": [head("x-long: " + "y" * MB), GOOD],
}


@pytest.mark.parametrize("name", LIES)
def test_a_head_that_lies(server: ServerProcess, name: str) -> None:
    """A head that contradicts its body is a 4xx or a closed connection, and leaves nothing."""
    before = trace(server)
    answer = exchange(server, LIES[name])
    assert answer is None or 400 <= answer.status < 500, answer
    assert_nothing_left(server, before)


@pytest.mark.parametrize("name", [*REFUSED, *EITHER])
def test_the_live_route_takes_the_same_bodies(server: ServerProcess, name: str) -> None:
    """What hurts a create does not hurt a live request either: 4xx with the contract's shape."""
    body = REFUSED.get(name, EITHER.get(name, b""))
    answer = call(server, "POST", "/v1/messages", body)
    assert 400 <= answer.status < 500, answer
    assert answer.json()["type"] == "error"


@pytest.mark.parametrize("name", ["params 100,000 deep", "2 to the 64", "lone surrogates in a key", "minus zero"])
def test_hurtful_params_live(server: ServerProcess, name: str) -> None:
    """Params that an item may carry are judged by the live route too, without a 500."""
    inner = EITHER[name].removeprefix(b'{"requests":[{"custom_id":"b","params":').removesuffix(b"}," + ONE + b"]}")
    answer = call(server, "POST", "/v1/messages", inner)
    assert 400 <= answer.status < 500, answer
    assert answer.json()["type"] == "error"


QUERIES = [
    "?limit=0",
    "?limit=1001",
    "?limit=-1",
    "?limit=many",
    "?limit=" + "9" * 5000,
    "?limit=1e1",
    "?limit=%00",
    "?after_id=",
    "?after_id=%ff%fe",
    "?after_id=" + "x" * 5000,
    "?after_id=msgbatch_01..%2f..%2f",
    "?before_id='; drop table batches; --",
    "?limit=1&limit=2",
    "?%ff=%ff",
]


@pytest.mark.parametrize("query", QUERIES)
def test_hurtful_queries(server: ServerProcess, query: str) -> None:
    """A list call with any query is a page or a 400."""
    answer = exchange(server, [head(path=CREATE + query.replace(" ", "%20"), method="GET")])
    assert answer is not None
    assert answer.status in {200, 400, 414}, answer
    assert (
        answer.json()["type"] == "error" or answer.status == 200
        if answer.status != 200
        else answer.json()["data"] is not None
    )


IDS = ["..", "%2e%2e%2f%2e%2e", "msgbatch_01" + "0" * 22, "msgbatch_%00", "%ff", "x" * 8000, "'", "msgbatch_01/../x"]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("rest", ["", "/results", "/cancel"])
def test_hurtful_ids(server: ServerProcess, name: str, rest: str) -> None:
    """An id that names nothing is a 404 with the contract's shape, whatever it looks like."""
    method = "POST" if rest == "/cancel" else "GET"
    answer = exchange(server, [head("content-length: 0", path=f"{CREATE}/{name}{rest}", method=method)])
    assert answer is not None
    assert answer.status in {400, 404, 405, 414}, answer
    assert answer.json()["type"] == "error"


def test_the_server_still_works(server: ServerProcess) -> None:
    """After all of this a good batch runs to its end and a live request is answered."""
    batch = create(server, [item(os.urandom(8).hex()) for _ in range(50)])
    assert wait_ended(server, batch["id"])["request_counts"]["succeeded"] == 50
    assert call(server, "POST", "/v1/messages", message()).status == 200
