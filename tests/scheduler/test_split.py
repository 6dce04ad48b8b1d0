from __future__ import annotations

import asyncio
import io
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import InvalidParams
from standby.records import PlanFacts, unpack_plan
from standby.scheduler import split as splitting
from standby.scheduler.split import find_items, split
from standby.scheduler.split_child import split_in_child

ITEM = b'{"custom_id":"a","params":{}}'


def fault(body: bytes, *, max_items: int = 100) -> str:
    """Return the message with which a body is refused."""
    with pytest.raises(InvalidParams) as caught:
        find_items(io.BytesIO(body), max_items=max_items)
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request body is not valid JSON: it is empty"),
        (b"[]", "Input should be a valid dictionary"),
        (b"{}", "requests: Field required"),
        (b'{"requests":{}}', "requests: Input should be a valid list"),
        (b'{"requests":[]}', "requests: List should have at least 1 item after validation, not 0"),
        (b'{"other":1,"requests":[]}', "other: Extra inputs are not permitted"),
        (b'{"requests":[' + ITEM + b'],"other":[]}', "other: Extra inputs are not permitted"),
        (b'{"requests":[' + ITEM + b'],"requests":[]}', "requests: the key stands twice in the body"),
        (b'{"requests":[1]}', "requests.0: Input should be a valid dictionary"),
        (b'{"requests":[{}]}', "requests.0.custom_id: Field required"),
        (b'{"requests":[{"custom_id":7,"params":{}}]}', "requests.0.custom_id: Input should be a valid string"),
        (
            b'{"requests":[{"custom_id":"","params":{}}]}',
            "requests.0.custom_id: String should have at least 1 character",
        ),
        (
            b'{"requests":[{"custom_id":"' + b"x" * 65 + b'","params":{}}]}',
            "requests.0.custom_id: String should have at most 64 characters",
        ),
        (
            b'{"requests":[{"custom_id":"a\\n","params":{}}]}',
            "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'",
        ),
        (b'{"requests":[{"custom_id":"a"}]}', "requests.0.params: Field required"),
        (b'{"requests":[{"custom_id":"a","params":[]}]}', "requests.0.params: Input should be a valid dictionary"),
        (b'{"requests":[{"custom_id":"a","params":{},"x":1}]}', "requests.0.x: Extra inputs are not permitted"),
        (
            b'{"requests":[' + ITEM + b"," + ITEM + b"]}",
            "requests: custom_id's must be unique within a batch. Duplicate custom_id found: a",
        ),
    ],
)
def test_every_fault_of_the_envelope_has_the_contracts_words(body: bytes, message: str) -> None:
    """The first fault is named by path (contract 2.2)."""
    assert fault(body) == message


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + b'{"requests":[' + ITEM + b"]}",
        b'{"requests":[' + ITEM + b",]}",
        b'{"requests":[' + ITEM + b"]} x",
        b'{"requests":[' + ITEM,
        b'{"requests":[{"custom_id":"a","params":{"t":"\xff"}}]}',
        b'{"requests":' + b"[" * 100_000,
        b'{"requests":[{"custom_id":"a","params":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001 + b"]}",
        b'{"requests":[{"custom_id":"a","params":{"n":NaN}}]}',
        b'{"requests":[{"custom_id":"\x80","params":{}}]}',
        b'{"requests":[{"custom_id":"a","params":{}},{"\x80":"a","params":{}}]}',
    ],
)
def test_what_is_not_json_is_called_so(body: bytes) -> None:
    """BOM, trailing comma, trailing text, a cut body, bad UTF-8, endless nesting and NaN are no JSON."""
    assert fault(body).startswith("The request body is not valid JSON: ")


def test_too_many_items_are_counted() -> None:
    """The message names the limit and the number of items."""
    body = b'{"requests":[' + b",".join(b'{"custom_id":"i%d","params":{}}' % n for n in range(12)) + b"]}"

    assert fault(body, max_items=10) == "requests: List should have at most 10 items after validation, not 12"
    assert len(find_items(io.BytesIO(body), max_items=12)) == 12


nasty = st.sampled_from(['},{"custom_id":"x"', '"]}', "\\", "é\u2028", '{"requests":[', "]}", "a" * 300])
params = st.recursive(
    st.one_of(nasty, st.integers(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["custom_id", "params", "k"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    bodies=st.lists(
        st.dictionaries(st.sampled_from(["model", "messages", "custom_id"]), params), min_size=1, max_size=30
    ),
    indent=st.sampled_from([None, 1]),
    order=st.sampled_from(["straight", "swapped"]),
    window=st.integers(min_value=16, max_value=2000),
)
def test_items_are_found_whatever_stands_in_them(
    bodies: list[dict[str, object]], indent: int | None, order: str, window: int
) -> None:
    """Each entry points at exactly its item's bytes, for any content, layout, key order and window size."""
    items = [{"custom_id": f"c{n}", "params": body} for n, body in enumerate(bodies)]
    if order == "swapped":
        items = [dict(reversed(item.items())) for item in items]
    body = json.dumps({"requests": items}, indent=indent).encode()
    whole, splitting.WINDOW = splitting.WINDOW, window
    try:
        found = find_items(io.BytesIO(body), max_items=100)
    finally:
        splitting.WINDOW = whole

    pieces = [body[at : at + length] for at, length in zip(found.offsets, found.lengths, strict=True)]
    assert [json.loads(piece) for piece in pieces] == bodies
    assert list(found.names) == [f"c{n}" for n in range(len(items))]
    assert [zlib.crc32(piece) for piece in pieces] == list(found.crcs)


def test_the_plan_on_disk_reads_back(tmp_path: Path) -> None:
    """What `split` writes is what `unpack_plan` reads: every item once, its own bytes, and runs that cover them."""
    bodies = [b'{"model":"m","messages":["%s%d"]}' % (b"shared " * 200 * (n % 2), n) for n in range(40)]
    body = b'{"requests":[' + b",".join(b'{"custom_id":"i%d","params":%s}' % pair for pair in enumerate(bodies)) + b"]}"
    (tmp_path / "items").write_bytes(body)

    found = split(tmp_path / "items", tmp_path / "plan", max_items=100)

    entries = list(unpack_plan((tmp_path / "plan").read_bytes()))
    assert found.size == len(entries) == 40
    assert sorted(entry.item for entry in entries) == list(range(40))
    assert all(body[e.offset : e.offset + e.length] == bodies[e.item] for e in entries)
    assert all(e.custom_id == f"i{e.item}" and zlib.crc32(bodies[e.item]) == e.crc for e in entries)
    assert [(run.first, run.count) for run in found.slices()] == [(0, 21), (21, 16), (37, 3)]
    assert [run.cost for run in found.slices()] == [
        sum(entry.cost for entry in entries[run.first : run.first + run.count]) for run in found.slices()
    ]
    assert found.facts() == PlanFacts(
        prompt_tokens=found.prompt_tokens, shared_tokens=sum(entry.shared for entry in entries), groups=1
    )


def test_the_child_writes_the_same_plan(tmp_path: Path) -> None:
    """A plan does not depend on the process that makes it, nor on how it hashes."""
    words = [b"alpha ", b"beta ", b"gamma "]
    bodies = [words[n % 3] * 100 + words[n // 3 % 3] * 50 + b"%d" % n for n in range(200)]
    (tmp_path / "items").write_bytes(
        b'{"requests":['
        + b",".join(
            b'{"custom_id":"i%d","params":{"model":"m","max_tokens":%d,"messages":["%s"]}}' % (n, n % 7, text)
            for n, text in enumerate(bodies)
        )
        + b"]}"
    )

    here = split(tmp_path / "items", tmp_path / "here", max_items=1000)
    there = asyncio.run(split_in_child(tmp_path / "items", tmp_path / "there", max_items=1000, order="shared"))

    assert here == there
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_in_submit_order_nothing_moves(tmp_path: Path) -> None:
    """With `batch.order = "submit"` entries stand as they came; what could be shared is told all the same."""
    bodies = [b"apple " * 100, b"pear " * 100, b"apple " * 100, b"apple " * 100 + b"pie"]
    body = b'{"requests":[' + b",".join(
        b'{"custom_id":"i%d","params":{"model":"m","messages":["%s"]}}' % pair for pair in enumerate(bodies)
    )
    (tmp_path / "items").write_bytes(body + b"]}")

    found = split(tmp_path / "items", tmp_path / "plan", max_items=10, order="submit")

    entries = list(unpack_plan((tmp_path / "plan").read_bytes()))
    assert [entry.item for entry in entries] == [0, 1, 2, 3]
    assert [entry.shared for entry in entries] == [0, 0, 0, 602 // 4]
    assert found.shared_tokens == 604 // 4 + 602 // 4
