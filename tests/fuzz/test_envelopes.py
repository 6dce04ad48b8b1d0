"""Generated envelopes against a plain model of the rules: the server says yes exactly when the model does.

`FUZZ_EXAMPLES` asks for more, and then for others each time.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.raw import CREATE, chunked, exchange, head
from tests.fuzz.trace import assert_all_or_nothing, assert_refused, trace
from tests.harness import ServerProcess, call, results, wait_ended

pytestmark = pytest.mark.kill
MORE = os.environ.get("FUZZ_EXAMPLES")
thorough = settings(
    max_examples=int(MORE or "120"),
    derandomize=MORE is None,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
OBJECTS = st.dictionaries(st.text(), JSON, max_size=5)
GOOD_IDS = st.from_regex(r"\A[a-zA-Z0-9_-]{1,64}\Z")
FEW_IDS = st.sampled_from(["a", "b", "c", "A"])
BAD_IDS = st.text(max_size=70) | SCALARS
GOOD_PARAMS = st.fixed_dictionaries(
    {
        "model": st.just("claude-sonnet-5-5"),
        "max_tokens": st.integers(1, 64),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": st.text(min_size=1)}), min_size=1, max_size=3
        ),
    }
)
ITEMS = st.fixed_dictionaries({"custom_id": GOOD_IDS, "params": GOOD_PARAMS | OBJECTS})
ODD_ITEMS = (
    st.fixed_dictionaries({}, optional={"custom_id": FEW_IDS | BAD_IDS, "params": OBJECTS | JSON, "extra": SCALARS})
    | JSON
)
ENVELOPES = (
    st.fixed_dictionaries({"requests": st.lists(ITEMS, min_size=1, max_size=12)})
    | st.fixed_dictionaries({"requests": st.lists(ITEMS | ODD_ITEMS, max_size=6)})
    | st.fixed_dictionaries(
        {"requests": st.lists(ITEMS, min_size=1, max_size=2)}, optional={"extra": JSON, "Requests": JSON}
    )
    | st.dictionaries(st.sampled_from(["requests", "request", ""]), JSON)
    | JSON
)
MANNERS = st.fixed_dictionaries(
    {"indent": st.none() | st.integers(0, 9) | st.just("\t\r\n"), "ensure_ascii": st.booleans()}
)


def is_right(body: Any) -> bool:
    """Judge an envelope by the rules of contract 2.2, in the plainest way."""
    if not isinstance(body, dict) or set(body) != {"requests"} or not isinstance(body["requests"], list):
        return False
    items = body["requests"]
    if not all(isinstance(one, dict) and set(one) == {"custom_id", "params"} for one in items):
        return False
    ids = [one["custom_id"] for one in items]
    are_ids = all(isinstance(name, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    are_objects = all(isinstance(one["params"], dict) for one in items)
    return are_ids and are_objects and 0 < len(items) == len({*ids})


@thorough
@given(body=ENVELOPES, manner=MANNERS)
def test_yes_exactly_when_the_rules_say_so(server: ServerProcess, body: Any, manner: dict[str, Any]) -> None:
    """A right envelope becomes a batch with one result an item, whatever the params; a wrong one leaves no trace."""
    raw = json.dumps(body, **manner).encode()
    before = trace(server)
    answer = call(server, "POST", CREATE, raw)
    if not is_right(body):
        assert_refused(server, answer, before, 400)
        return
    assert answer.status == 200, answer
    wait_ended(server, answer.json()["id"])
    assert results(server, answer.json()["id"]).keys() == {one["custom_id"] for one in body["requests"]}


@thorough
@given(
    items=st.lists(ITEMS, min_size=1, max_size=5, unique_by=lambda one: str(one["custom_id"])),
    harm=st.lists(
        st.tuples(st.sampled_from(["drop", "put", "swap", "cut", "double"]), st.floats(0, 1), st.binary(max_size=4)),
        max_size=4,
    ),
)
def test_a_body_with_damaged_bytes(
    server: ServerProcess, items: list[Any], harm: list[tuple[str, float, bytes]]
) -> None:
    """A right body in which bytes were dropped, added, changed or doubled is refused whole or taken whole."""
    raw = json.dumps({"requests": items}, ensure_ascii=False).encode()
    for kind, where, data in harm:
        raw = damaged(raw, kind, int(where * len(raw)), data)
    assert_all_or_nothing(server, call(server, "POST", CREATE, raw), trace(server))


def damaged(raw: bytes, kind: str, at: int, data: bytes) -> bytes:
    """Do one kind of harm at one place."""
    if kind == "drop":
        return raw[:at] + raw[at + 1 + len(data) :]
    if kind == "put":
        return raw[:at] + data + raw[at:]
    if kind == "swap":
        return raw[:at] + data + raw[at + len(data) :]
    if kind == "cut":
        return raw[:at]
    return raw[:at] + raw[max(0, at - 40) :]


@thorough
@given(body=ENVELOPES, cuts=st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_any_split_means_the_same(server: ServerProcess, body: Any, cuts: list[int]) -> None:
    """The verdict on a body does not depend on the pieces in which it comes."""
    raw = json.dumps(body).encode()
    pieces: list[bytes] = []
    place = 0
    while place < len(raw):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(raw[place : place + size])
        place += size
    answer = exchange(server, [head("transfer-encoding: chunked"), *chunked(pieces)])
    assert answer is not None
    assert (answer.status == 200) == is_right(body), answer


@thorough
@given(body=OBJECTS | GOOD_PARAMS | JSON)
def test_live_bodies(server: ServerProcess, body: Any) -> None:
    """A live request with any JSON is answered or refused in the contract's shape, never with a 500."""
    answer = call(server, "POST", "/v1/messages", json.dumps(body).encode())
    assert answer.status == 200 or 400 <= answer.status < 500, answer
    assert answer.json()["type"] == ("message" if answer.status == 200 else "error")
