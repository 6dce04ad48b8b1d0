from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import InvalidParams
from standby.records import unpack_plan
from standby.scheduler import split as splitting
from standby.scheduler.split import plan_of, runs_of, split

ITEM = b'{"custom_id":"a","params":{}}'


def fault(body: bytes, *, max_items: int = 100) -> str:
    """Return the message with which a body is refused."""
    with pytest.raises(InvalidParams) as caught:
        list(plan_of(io.BytesIO(body), max_items=max_items))
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
    assert len(list(plan_of(io.BytesIO(body), max_items=12))) == 12


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
        entries = list(unpack_plan(b"".join(packed for packed, _ in plan_of(io.BytesIO(body), max_items=100))))
    finally:
        splitting.WINDOW = whole

    assert [json.loads(body[e.offset : e.offset + e.length]) for e in entries] == bodies
    assert [e.custom_id for e in entries] == [f"c{n}" for n in range(len(items))]
    assert all(zlib.crc32(body[e.offset : e.offset + e.length]) == e.crc for e in entries)


def test_the_plan_on_disk_reads_back(tmp_path: Path) -> None:
    """What `split` writes is what `unpack_plan` reads, and its runs cover it."""
    body = b'{"requests":[' + b",".join(b'{"custom_id":"i%d","params":{}}' % n for n in range(40)) + b"]}"
    (tmp_path / "items").write_bytes(body)

    found = split(tmp_path / "items", tmp_path / "plan", max_items=100)

    entries = list(unpack_plan((tmp_path / "plan").read_bytes()))
    assert found.size == len(entries) == 40
    assert [(run.first, run.count) for run in found.slices()] == [(0, 16), (16, 16), (32, 8)]


@given(st.lists(st.integers(min_value=1, max_value=3 << 20), min_size=1, max_size=300))
def test_runs_cover_the_plan_without_gaps_and_stay_small(lengths: list[int]) -> None:
    """Runs follow each other, hold at most 256 items and 2 MiB unless one item alone is larger."""
    runs = list(runs_of(lengths))

    assert [first for first, _ in runs] == [sum(count for _, count in runs[:n]) for n in range(len(runs))]
    assert sum(count for _, count in runs) == len(lengths)
    assert all(count == 1 or sum(lengths[f : f + count]) <= splitting.RUN_BYTES for f, count in runs)
    assert all(count <= splitting.RUN_ITEMS_MAX for _, count in runs)


def test_a_full_batch_has_about_400_runs() -> None:
    """100,000 items make 400 runs (design 3: 400 to 1,600)."""
    assert len(list(runs_of([2_500] * 100_000))) == 400
