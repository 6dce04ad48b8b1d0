"""The history checker finds every violation, and nothing in a good history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.history import (
    RULES,
    Bounds,
    Cancel,
    Crash,
    Create,
    Delete,
    Dispatch,
    Event,
    Foreign,
    Json,
    Listed,
    Missing,
    Reply,
    Results,
    Seen,
    Violation,
    _Story,
    check,
    moment,
)

BOUNDS = Bounds(window=2, repeats_a_crash=1)
START = moment("2026-11-22T10:00:00Z")


def batch(**changes: Any) -> Json:
    """Write a batch of three items in progress."""
    counts = {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    return {
        "id": "msgbatch_1",
        "processing_status": "in_progress",
        "request_counts": counts,
        "created_at": "2026-11-22T10:00:00Z",
        "expires_at": "2026-11-23T10:00:00Z",
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
        **changes,
    }


def counted(processing: int, succeeded: int, errored: int = 0, canceled: int = 0) -> dict[str, int]:
    """Write the five counts."""
    return {
        "processing": processing,
        "succeeded": succeeded,
        "errored": errored,
        "canceled": canceled,
        "expired": 0,
    }


def ended(**changes: Any) -> Json:
    """Write the same batch at its end."""
    end = {
        "processing_status": "ended",
        "request_counts": counted(0, 2, 1),
        "ended_at": "2026-11-22T10:00:09Z",
        "results_url": "http://127.0.0.1/v1/messages/batches/msgbatch_1/results",
    }
    return batch(**{**end, **changes})


def row(custom_id: str, kind: str = "succeeded") -> Json:
    """Write one row of results."""
    extra: Json = {"succeeded": {"message": {}}, "errored": {"error": {}}}.get(kind, {})
    return {"custom_id": custom_id, "result": {"type": kind, **extra}}


def lines(*rows: Json) -> bytes:
    """Write results."""
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def at(begin: float, end: float | None = None) -> dict[str, Any]:
    """Say when, in seconds since the create."""
    return {"began": START + begin, "ended": START + (begin + 0.1 if end is None else end)}


ROWS = lines(row("a"), row("b"), row("c", "errored"))


def good() -> list[Event]:
    """Tell a story in which nothing is wrong: a create, a crash, a cancel of another batch, a delete of a third."""
    second = batch(id="msgbatch_2", request_counts=counted(1, 0))
    canceled = {**second, "processing_status": "canceling", "cancel_initiated_at": "2026-11-22T10:00:03Z"}
    over = {"processing_status": "ended", "ended_at": "2026-11-22T10:00:04Z", "results_url": "http://x"}
    done = {**canceled, **over, "request_counts": counted(0, 0, 0, 1)}
    third = batch(id="msgbatch_3", request_counts=counted(0, 1), **over)
    return [
        Create(**at(0), token="one", custom_ids=("a", "b", "c"), reply=Reply.ACKNOWLEDGED, batch=batch()),
        Create(**at(0.2), token="two", custom_ids=("d",), reply=Reply.ACKNOWLEDGED, batch=second),
        Create(**at(0.4), token="three", custom_ids=("e",), reply=Reply.UNKNOWN, is_idempotent=True),
        Create(**at(0.5), token="four", custom_ids=("f",), reply=Reply.REFUSED),
        Dispatch(**at(1, 2), token="one", custom_id="a"),
        Dispatch(**at(1, 5), token="one", custom_id="b", answered=False),
        Seen(**at(2.5), batch=batch(request_counts=counted(2, 1))),
        Cancel(**at(3), batch_id="msgbatch_2", reply=Reply.ACKNOWLEDGED),
        Seen(**at(3.2), batch=canceled),
        Seen(**at(4), batch=done),
        Crash(**at(5, 6)),
        Dispatch(**at(6.5), token="one", custom_id="b"),
        Seen(**at(10), batch=ended()),
        Seen(**at(10, 10.5), batch=third),
        Listed(**at(10.2), ids=("msgbatch_3", "msgbatch_2", "msgbatch_1")),
        Results(**at(11), batch_id="msgbatch_1", raw=ROWS),
        Results(**at(11), batch_id="msgbatch_2", raw=lines(row("d", "canceled"))),
        Results(**at(11), batch_id="msgbatch_3", raw=lines(row("e"))),
        Results(**at(12), batch_id="msgbatch_1", raw=ROWS),
        Foreign(**at(12), batch_id="msgbatch_1", status=404),
        Delete(**at(13), batch_id="msgbatch_3", reply=Reply.ACKNOWLEDGED),
        Missing(**at(14), batch_id="msgbatch_3"),
        Listed(**at(15), ids=("msgbatch_2", "msgbatch_1")),
    ]


def without(kind: type[Event], **having: Any) -> list[Event]:
    """Tell the good story without some events."""
    return [e for e in good() if not (isinstance(e, kind) and all(getattr(e, k) == v for k, v in having.items()))]


def reread(raw: bytes) -> list[Event]:
    """Tell the good story with other results for the first batch."""
    return [replace(e, raw=raw) if isinstance(e, Results) and e.batch_id == "msgbatch_1" else e for e in good()]


def test_a_good_history_has_no_findings() -> None:
    """A history in which nothing is wrong is summed up."""
    found = check(good(), BOUNDS)
    assert (found.batches, found.items, found.crashes, found.dispatches, found.repeats) == (3, 5, 1, 3, 1)
    assert found.results == {"succeeded": 3, "errored": 1, "canceled": 1}


BROKEN: dict[str, tuple[str, Callable[[], list[Event]]]] = {
    "a result is missing": ("I1", lambda: reread(lines(row("a"), row("c", "errored")))),
    "a result is foreign": ("I1", lambda: reread(ROWS + lines(row("z")))),
    "ended and not read": ("I1", lambda: without(Results, batch_id="msgbatch_2")),
    "results of no create": ("I1", lambda: [*good(), Results(**at(16), batch_id="msgbatch_9", raw=lines(row("q")))]),
    "counts do not add up": ("I2", lambda: [*good(), Seen(**at(1), batch=batch(request_counts=counted(2, 0)))]),
    "a count is negative": ("I2", lambda: [*good(), Seen(**at(1), batch=batch(request_counts=counted(4, -1)))]),
    "counts go back": ("I2", lambda: [*good(), Seen(**at(3), batch=batch())]),
    "counts go back behind a concurrent look": (
        "I2",
        lambda: [
            *without(Seen, batch=batch(request_counts=counted(2, 1))),
            Seen(**at(2, 2.1), batch=batch(request_counts=counted(1, 2))),
            Seen(**at(1.9, 2.2), batch=batch(request_counts=counted(3, 0))),
            Seen(**at(2.3), batch=batch(request_counts=counted(2, 1))),
        ],
    ),
    "ended goes back": ("I2", lambda: [*good(), Seen(**at(16), batch=batch(request_counts=counted(1, 2)))]),
    "ended with work left": ("I2", lambda: [*good(), Seen(**at(16), batch=ended(request_counts=counted(1, 1, 1)))]),
    "counts are not the results": ("I2", lambda: [*good(), Seen(**at(16), batch=ended(request_counts=counted(0, 3)))]),
    "an unknown state": ("I2", lambda: [*good(), Seen(**at(2), batch=batch(processing_status="failed"))]),
    "ended without ended_at": ("I2", lambda: [*good(), Seen(**at(16), batch=ended(ended_at=None))]),
    "ended without results_url": ("I2", lambda: [*good(), Seen(**at(16), batch=ended(results_url=None))]),
    "results_url too early": ("I2", lambda: [*good(), Seen(**at(2), batch=batch(results_url="http://x"))]),
    "ended_at changes": ("I2", lambda: [*good(), Seen(**at(16), batch=ended(ended_at="2026-11-22T10:00:10Z"))]),
    "canceling without a time": ("I2", lambda: [*good(), Seen(**at(2), batch=batch(processing_status="canceling"))]),
    "an accepted batch is gone": ("I3", lambda: [*good(), Missing(**at(6), batch_id="msgbatch_1")]),
    "an accepted batch is not listed": ("I3", lambda: [*good(), Listed(**at(16), ids=("msgbatch_2",))]),
    "a list shows one twice": ("I3", lambda: [*good(), Listed(**at(16), ids=("msgbatch_2", "msgbatch_1") * 2)]),
    "a cancel is forgotten": (
        "I3",
        lambda: [*good(), Seen(**at(3.3), batch=batch(id="msgbatch_2", request_counts=counted(1, 0)))],
    ),
    "a deleted batch is back": ("I3", lambda: [*good(), Seen(**at(16), batch=ended(id="msgbatch_3"))]),
    "a deleted batch is listed": (
        "I3",
        lambda: [*good(), Listed(**at(16), ids=("msgbatch_3", "msgbatch_2", "msgbatch_1"))],
    ),
    "a deleted batch has results": (
        "I3",
        lambda: [*good(), Results(**at(16), batch_id="msgbatch_3", raw=lines(row("e")))],
    ),
    "an idempotent create makes two": (
        "I3",
        lambda: [
            *good(),
            Create(
                **at(1),
                token="three",
                custom_ids=("e",),
                reply=Reply.ACKNOWLEDGED,
                is_idempotent=True,
                batch=batch(id="msgbatch_4", request_counts=counted(1, 0)),
            ),
        ],
    ),
    "a refused create makes one": (
        "I3",
        lambda: [*good(), Results(**at(16), batch_id="msgbatch_5", raw=lines(row("f")))],
    ),
    "results change by one byte": (
        "I4",
        lambda: [*good(), Results(**at(16), batch_id="msgbatch_1", raw=ROWS.replace(b"{}", b"{ }", 1))],
    ),
    "results change their order": (
        "I4",
        lambda: [
            *good(),
            Results(**at(16), batch_id="msgbatch_1", raw=lines(row("b"), row("a"), row("c", "errored"))),
        ],
    ),
    "dispatched after the end": ("I5", lambda: [*good(), Dispatch(**at(16), token="one", custom_id="c")]),
    "dispatched after the cancel": ("I5", lambda: [*good(), Dispatch(**at(3.6), token="two", custom_id="d")]),
    "dispatched after expiry": (
        "I5",
        lambda: [
            Create(
                **at(0),
                token="one",
                custom_ids=("a", "b", "c"),
                reply=Reply.ACKNOWLEDGED,
                batch=batch(expires_at="2026-11-22T10:00:01Z"),
            ),
            Dispatch(**at(1.5), token="one", custom_id="a"),
        ],
    ),
    "two attempts at once": ("I6", lambda: [*good(), Dispatch(**at(1.5), token="one", custom_id="a")]),
    "a blank line": ("I7", lambda: reread(ROWS.replace(b"\n", b"\n\n", 1))),
    "carriage returns": ("I7", lambda: reread(ROWS.replace(b"\n", b"\r\n"))),
    "a byte-order mark": ("I7", lambda: reread(b"\xef\xbb\xbf" + ROWS)),
    "no rows": ("I7", lambda: reread(b"")),
    "a broken row": ("I7", lambda: reread(ROWS[:-9])),
    "a row of another shape": ("I7", lambda: reread(ROWS + b'{"custom_id": "z"}\n')),
    "a row of an unknown type": ("I7", lambda: reread(ROWS + lines(row("z", "failed")))),
    "a custom_id twice": ("I7", lambda: reread(ROWS + lines(row("a")))),
    "more than the window": ("I8", lambda: [*good(), Dispatch(**at(1.2, 1.3), token="one", custom_id="c")]),
    "never ended": ("I9", lambda: [e for e in without(Results) if not isinstance(e, Seen) or e.batch != ended()]),
    "another workspace reads": ("I10", lambda: [*good(), Foreign(**at(12), batch_id="msgbatch_1", status=200)]),
    "too much is done again": ("R", lambda: [*good(), Dispatch(**at(7), token="one", custom_id="a")]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_violation_is_found(fault: str) -> None:
    """A history with one fault is refused, and the message names the invariant that it breaks."""
    invariant, broken = BROKEN[fault]
    with pytest.raises(Violation, match=rf"(?m)^  {invariant}: "):
        check(broken(), BOUNDS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_no_rule_is_idle(rule: Any) -> None:
    """Each rule finds at least one of the faults above."""
    assert any(list(rule(_Story(broken()), BOUNDS)) for _, broken in BROKEN.values())


def test_an_open_history_may_have_work_left() -> None:
    """In the middle of a test, unfinished and unread batches are no findings."""
    check(good()[:8], replace(BOUNDS, closed=False))


def test_overlapping_looks_prove_no_order() -> None:
    """Counts that seem to go back between two looks at the same time are no finding."""
    events = [
        Create(**at(0), token="one", custom_ids=("a", "b", "c"), reply=Reply.ACKNOWLEDGED, batch=batch()),
        Seen(**at(1, 3), batch=batch()),
        Seen(**at(1, 2), batch=batch(request_counts=counted(2, 1))),
    ]
    check(events, Bounds(closed=False))


def test_a_crash_excuses_an_overlap() -> None:
    """An attempt that the engine had not dropped when the server came back is not a double one."""
    events = [
        Dispatch(**at(1, 9), token="one", custom_id="a", answered=False),
        Crash(**at(2, 3)),
        Dispatch(**at(4), token="one", custom_id="a"),
    ]
    check(events, Bounds(closed=False))
