from __future__ import annotations

import gzip
import json
import zlib
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standby.ids import make_id
from tests.api.client import Answer
from tests.api.world import World, create_body, message

METHODS = st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "BREW"])
SEGMENT = st.one_of(
    st.sampled_from(["message_batch_id", make_id("msgbatch"), "..", "%2e%2e", "%00", "a%0Ab", "%F0%9F", "é", "*"]),
    st.text(st.characters(exclude_characters="/?#", codec="utf-8"), min_size=1, max_size=40),
)
TEMPLATES = st.sampled_from(
    [
        "/v1/messages/batches",
        "/v1/messages/batches/{}",
        "/v1/messages/batches/{}/cancel",
        "/v1/messages/batches/{}/results",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{}",
        "/standby/v1/batches/{}",
        "/standby/v1/batches/{}/results",
        "/health",
        "/{}",
    ]
)
PATHS = st.builds(lambda template, segment: template.replace("{}", segment), TEMPLATES, SEGMENT)
QUERIES = st.one_of(
    st.just(""),
    st.builds(
        lambda name, value: f"?{name}={value}",
        st.sampled_from(["limit", "after_id", "before_id", "beta", "lifecycle[]", "%FF"]),
        st.one_of(st.integers().map(str), st.text(st.characters(exclude_characters="#?", codec="utf-8"), max_size=20)),
    ),
)
NAMES = st.sampled_from(
    [
        "x-api-key",
        "authorization",
        "anthropic-version",
        "anthropic-beta",
        "anthropic-workspace-id",
        "anthropic-user-profile-id",
        "content-type",
        "content-length",
        "content-encoding",
        "accept",
        "accept-encoding",
        "host",
        "origin",
        "range",
        "if-range",
        "if-none-match",
        "idempotency-key",
        "x-stainless-retry-count",
        "x-stainless-timeout",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-prefix",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "9" * 400,
            "gzip",
            "deflate",
            "gzip, gzip",
            "bytes=0-",
            "bytes=-",
            "2023-06-01",
            "*",
            "\xff\x00",
            "NaN",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=40),
)
HEADER_LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=True),
        st.text(max_size=10),
        st.sampled_from(["claude-sonnet-5-5", "user", "ephemeral", "\ud800", 10**400, -0.0, "a\nb"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["requests", "custom_id", "params", "model", "messages", "max_tokens", "stream", "role", "content", "x"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            b'{"requests":[{"custom_id":"a","custom_id":"b","params":{}}]}',
            b'{"requests":[],"requests":[{"custom_id":"a","params":{}}]}',
            b"[" * 5000 + b"]" * 5000,
            b'{"requests":' * 3000,
            b'{"requests":[{"custom_id":"\\ud800","params":{}}]}',
            b"\xef\xbb\xbf" + json.dumps(create_body(1)).encode(),
            json.dumps(create_body(1)).encode("utf-16"),
            gzip.compress(bytes(3 << 20)),
            gzip.compress(json.dumps(create_body(2)).encode())[:-9],
            zlib.compress(json.dumps(message()).encode()),
            b'{"requests":[{"custom_id":"a","params":' + b"1" * 5000 + b"}]}",
        ]
    ),
)
QUIET = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def check(answer: Answer, method: str) -> None:
    """Any answer is below 500 and complete; an error has the contract's shape."""
    assert answer.is_complete
    assert answer.status < 500
    assert answer.status not in {409, 422}
    if answer.status >= 400 and method != "HEAD":
        answer.error(answer.status, answer.json()["error"]["type"])


async def count(world: World) -> int:
    """Count the batches that exist."""
    return sum((await world.store.count_batches()).values())


@QUIET
@given(method=METHODS, path=PATHS, query=QUERIES, headers=HEADER_LISTS, body=BODIES)
async def test_anything_at_all(
    world: World, method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    """Whatever comes in, the answer is no 5xx, errors have the contract's shape, and only a 200 makes a batch."""
    before = await count(world)

    answer = await world.client().send(method, f"{path}{query}", body, headers=headers)

    check(answer, method)
    is_made = method == "POST" and path == "/v1/messages/batches" and answer.status == 200
    assert await count(world) == before + is_made
    assert list(world.folder.glob("spool/*")) == []


@QUIET
@given(body=BODIES, cuts=st.lists(st.integers(0, 200), max_size=6), gone=st.booleans())
async def test_any_body_in_any_pieces(world: World, body: bytes, cuts: list[int], *, gone: bool) -> None:
    """A create in pieces of any size, or broken off anywhere, makes one batch or none, and leaves nothing else."""
    before = await count(world)
    edges = sorted({0, *(min(cut, len(body)) for cut in cuts), len(body)})
    pieces: list[Any] = [body[start:end] for start, end in pairwise(edges)] or [b""]

    answer = await world.client().post("/v1/messages/batches", [*pieces, None] if gone else pieces)

    if gone:
        assert answer.status in {0, 400, 413}
    else:
        check(answer, "POST")
    assert await count(world) == before + (answer.status == 200)
    assert list(world.folder.glob("spool/*")) == []
    assert len(list(world.folder.glob("batches/*"))) == await count(world)


@QUIET
@given(
    change=st.dictionaries(st.sampled_from([*message(), "stream", "tools", "system", "stop_sequences"]), JSON_VALUES)
)
async def test_any_params(world: World, change: dict[str, Any]) -> None:
    """Any params of a live request or a count are answered or refused, never a 5xx."""
    client, body = world.client(), message() | change

    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        check(await client.post(path, body), "POST")
