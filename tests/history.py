"""The history checker: what clients saw and did, judged against the invariants I1 to I10.

Tests record events, each with the moments between which it happened, and `check` says what cannot be true.
Nothing here talks to anything: the checker is a function of the events. Two events are in order only if one
ended before the other began, so observations from many threads are judged without guessing.

    I1   an accepted item has exactly one result                    I6   one item is never at the engine twice at once
    I2   counts equal results and move one way                      I7   results are JSON Lines, every custom_id once
    I3   an acknowledged create, cancel or delete stays             I8   batch items at the engine <= the window
    I4   results once visible stay byte-identical                   I9   everything ends (at the close of a history)
    I5   nothing is dispatched after its batch ended, was           I10  nobody reads another workspace's batch
         canceled (bound) or expired                                R    repeated work <= what was in flight

I11 (charges) needs the ledger and is checked where that can be read.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

OUTCOMES = ("succeeded", "errored", "canceled", "expired")
STATES = ("in_progress", "canceling", "ended")
Json = dict[str, Any]
E = TypeVar("E", bound="Event")
T = TypeVar("T")
K = TypeVar("K")


class Violation(AssertionError):
    """The history breaks an invariant; the message lists every finding."""


class Reply(Enum):
    """What a client knows about something that it asked for."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened between two moments, in seconds of one clock."""

    began: float
    ended: float

    def before(self, other: Event) -> bool:
        """Whether this was certainly over when the other began."""
        return self.ended < other.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Event):
    """One create call. Calls that carry the same `token` ask for the same batch."""

    token: str
    custom_ids: tuple[str, ...]
    reply: Reply
    is_idempotent: bool = False
    batch: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Event):
    """A batch as an answer showed it: retrieve, list, create, cancel."""

    batch: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Event):
    """A 404 for a batch."""

    batch_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Event):
    """A walk through the whole list."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(Event):
    """A whole download of results."""

    batch_id: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Event):
    """One cancel call."""

    batch_id: str
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Event):
    """One delete call."""

    batch_id: str
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch(Event):
    """One attempt as the engine saw it: from the arrival of the request to its answer or its end."""

    token: str
    custom_id: str
    answered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign(Event):
    """What a client of another workspace was answered about a batch."""

    batch_id: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Event):
    """The server died and was started again: from the kill to ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a test may expect of timing and load; None leaves the rule out."""

    cancel_s: float = 0.25
    window: int | None = None
    repeats_a_crash: int | None = None
    closed: bool = True
    """Whether this is the whole story: everything must have ended (I9) and been read (I1)."""


@dataclass(slots=True)
class History:
    """Events from any number of threads."""

    clock: Callable[[], float] = time.time
    events: list[Event] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event) -> None:
        """Keep one event."""
        with self._lock:
            self.events.append(event)

    def check(self, bounds: Bounds | None = None) -> Summary:
        """Judge everything so far; raises `Violation`."""
        with self._lock:
            events = list(self.events)
        return check(events, bounds or Bounds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a history held, for the report of a test."""

    batches: int
    items: int
    results: dict[str, int]
    observations: int
    crashes: int
    dispatches: int
    repeats: int


def check(events: Sequence[Event], bounds: Bounds) -> Summary:
    """Judge a history: raises `Violation` that lists all findings, or sums up what was there."""
    story = _Story(events)
    findings = [finding for rule in RULES for finding in rule(story, bounds)]
    if findings:
        shown = "\n".join(f"  {finding}" for finding in findings[:40])
        more = f"\n  … and {len(findings) - 40} more" if len(findings) > 40 else ""
        raise Violation(f"{len(findings)} findings in {len(events)} events:\n{shown}{more}")
    return story.summary()


class _Story:
    """The events, sorted by kind and by batch."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.creates = _of(Create, events)
        self.missing = _of(Missing, events)
        self.listed = _of(Listed, events)
        self.results = _of(Results, events)
        self.cancels = _of(Cancel, events)
        self.deletes = _of(Delete, events)
        self.dispatches = _of(Dispatch, events)
        self.foreign = _of(Foreign, events)
        self.crashes = _of(Crash, events)
        shown = (Seen(began=c.began, ended=c.ended, batch=c.batch) for c in self.creates if c.batch is not None)
        self.seen = sorted([*_of(Seen, events), *shown], key=lambda seen: seen.ended)
        self.seen_of = _grouped(self.seen, lambda seen: str(seen.batch["id"]))
        self.results_of = _grouped(self.results, lambda read: read.batch_id)
        self.acknowledged = [c for c in self.creates if c.batch is not None]
        self.by_token = _grouped(self.creates, lambda create: create.token)
        self.token_of_id = self._identify()

    def _identify(self) -> dict[str, str]:
        """Tell which create made which batch: by its answer, else by the custom_ids of its results."""
        known = {str(c.batch["id"]): c.token for c in self.acknowledged if c.batch is not None}
        by_ids = {frozenset(creates[0].custom_ids): token for token, creates in self.by_token.items()}
        for read in self.results:
            token = by_ids.get(frozenset(_custom_ids(read.raw)))
            if token is not None:
                known.setdefault(read.batch_id, token)
        return known

    def delete_began(self, batch_id: str) -> float:
        """When a delete may first have worked."""
        tried = (d.began for d in self.deletes if d.batch_id == batch_id and d.reply is not Reply.REFUSED)
        return min(tried, default=float("inf"))

    def delete_known(self, batch_id: str) -> float:
        """From when on a delete is certain."""
        done = (d.ended for d in self.deletes if d.batch_id == batch_id and d.reply is Reply.ACKNOWLEDGED)
        return min(done, default=float("inf"))

    def summary(self) -> Summary:
        last = {batch_id: reads[-1].raw for batch_id, reads in self.results_of.items()}
        kinds = Counter(row["result"]["type"] for raw in last.values() for row in _rows(raw))
        return Summary(
            batches=len(self.seen_of),
            items=sum(sum(seen[-1].batch["request_counts"].values()) for seen in self.seen_of.values()),
            results=dict(kinds),
            observations=len(self.seen),
            crashes=len(self.crashes),
            dispatches=len(self.dispatches),
            repeats=_repeats(self),
        )


Rule = Callable[[_Story, Bounds], Iterator[str]]


def one_result_an_item(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I1: the results of a batch are the custom_ids that were sent, no more and no less."""
    for read in story.results:
        token = story.token_of_id.get(read.batch_id)
        if token is None:
            yield f"I1: {read.batch_id}: its custom_ids are those of no create"
            continue
        sent = Counter(story.by_token[token][0].custom_ids)
        got = Counter(_custom_ids(read.raw))
        if sent != got:
            yield f"I1: {read.batch_id}: without a result {_few(sent - got)}, one too many {_few(got - sent)}"
    if bounds.closed:
        yield from _all_read(story)


def _all_read(story: _Story) -> Iterator[str]:
    for batch_id, seen in story.seen_of.items():
        is_kept = story.delete_began(batch_id) == float("inf")
        if is_kept and seen[-1].batch["processing_status"] == "ended" and batch_id not in story.results_of:
            yield f"I1: {batch_id}: ended, but nobody read its results: the history proves nothing about it"


def counts_add_up(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I2: five counts, their sum is the size, at the end they are the results."""
    sizes: dict[str, int] = {}
    for seen in story.seen:
        batch, counts = seen.batch, seen.batch["request_counts"]
        if set(counts) != {"processing", *OUTCOMES} or any(n < 0 for n in counts.values()):
            yield f"I2: {batch['id']}: counts {counts}"
        total = sum(counts.values())
        size = sizes.setdefault(batch["id"], _size(story, batch["id"]) or total)
        if total != size:
            yield f"I2: {batch['id']}: counts {counts} add up to {total}, not {size}"
        yield from _state_fits(batch)
    yield from _counts_are_results(story)


def _size(story: _Story, batch_id: str) -> int | None:
    token = story.token_of_id.get(batch_id)
    return None if token is None else len(story.by_token[token][0].custom_ids)


def _state_fits(batch: Json) -> Iterator[str]:
    state, counts = batch["processing_status"], batch["request_counts"]
    has_ended = state == "ended"
    if state not in STATES:
        yield f"I2: {batch['id']}: state {state!r}"
    if has_ended and counts["processing"]:
        yield f"I2: {batch['id']}: ended with counts {counts}"
    if (batch["ended_at"] is not None) != has_ended:
        yield f"I2: {batch['id']}: {state} with ended_at {batch['ended_at']}"
    if (batch["results_url"] is not None) != (has_ended and batch["archived_at"] is None):
        yield f"I2: {batch['id']}: {state} with results_url {batch['results_url']}"
    if state == "canceling" and batch["cancel_initiated_at"] is None:
        yield f"I2: {batch['id']}: canceling without cancel_initiated_at"


def _counts_are_results(story: _Story) -> Iterator[str]:
    for read in story.results:
        kinds = Counter(row["result"]["type"] for row in _rows(read.raw))
        for seen in story.seen_of.get(read.batch_id, []):
            counts = seen.batch["request_counts"]
            if seen.batch["processing_status"] == "ended" and any(counts[kind] != kinds[kind] for kind in OUTCOMES):
                yield f"I2: {read.batch_id}: counts {counts}, but results {dict(kinds)}"
                break


def counts_move_one_way(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I2: processing only falls, the others only grow, the state only advances, times never change."""
    for batch_id, seen in story.seen_of.items():
        for floor, later in _with_floor(seen):
            counts, state = later.batch["request_counts"], later.batch["processing_status"]
            if state in STATES and STATES.index(state) < floor.state:
                yield f"I2: {batch_id}: {STATES[floor.state]} and later {state}"
            if any(counts[kind] < floor.counts[kind] for kind in OUTCOMES):
                yield f"I2: {batch_id}: counts were at least {floor.counts} and later {counts}"
            for name, value in floor.times.items():
                if later.batch[name] != value:
                    yield f"I2: {batch_id}: {name} {value} and later {later.batch[name]}"


TIMES = ("created_at", "expires_at", "ended_at", "cancel_initiated_at", "archived_at")


@dataclass(slots=True)
class _Floor:
    """The most that was certainly seen before a moment."""

    state: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    times: dict[str, str] = field(default_factory=dict)

    def rise(self, batch: Json) -> None:
        if batch["processing_status"] in STATES:
            self.state = max(self.state, STATES.index(batch["processing_status"]))
        for kind in OUTCOMES:
            self.counts[kind] = max(self.counts[kind], batch["request_counts"][kind])
        self.times.update({name: batch[name] for name in TIMES if batch[name] is not None})


def _with_floor(seen: Sequence[Seen]) -> Iterator[tuple[_Floor, Seen]]:
    """Pair every observation with what all those say that were over before it began; `seen` is sorted by `ended`."""
    floor, position = _Floor(), 0
    for later in sorted(seen, key=lambda s: s.began):
        while position < len(seen) and seen[position].before(later):
            floor.rise(seen[position].batch)
            position += 1
        yield floor, later


def what_was_acknowledged_stays(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I3: after the answer the batch is there, canceled, or gone, for everybody and after every crash."""
    yield from _creates_stay(story)
    yield from _cancels_stay(story)
    yield from _deletes_stay(story)
    yield from _twins(story)


def _creates_stay(story: _Story) -> Iterator[str]:
    accepted = {batch_id: min(s.ended for s in seen) for batch_id, seen in story.seen_of.items()}
    for missing in story.missing:
        known_at = accepted.get(missing.batch_id, float("inf"))
        if known_at < missing.began and missing.ended < story.delete_began(missing.batch_id):
            yield f"I3: {missing.batch_id}: accepted, and later 404 without a delete"
    for walk in story.listed:
        if len(set(walk.ids)) != len(walk.ids):
            yield f"I3: a list shows twice {_few(Counter(walk.ids) - Counter(set(walk.ids)))}"
        for batch_id, known_at in accepted.items():
            is_due = known_at < walk.began and walk.ended < story.delete_began(batch_id)
            if is_due and batch_id not in walk.ids:
                yield f"I3: {batch_id}: accepted, and later not in the list"


def _cancels_stay(story: _Story) -> Iterator[str]:
    for cancel in story.cancels:
        if cancel.reply is not Reply.ACKNOWLEDGED:
            continue
        for seen in story.seen_of.get(cancel.batch_id, []):
            is_lost = seen.batch["processing_status"] == "in_progress" or seen.batch["cancel_initiated_at"] is None
            if cancel.before(seen) and is_lost:
                yield f"I3: {cancel.batch_id}: its cancel was acknowledged, later it is {_brief(seen.batch)}"


def _deletes_stay(story: _Story) -> Iterator[str]:
    for batch_id in {d.batch_id for d in story.deletes if d.reply is Reply.ACKNOWLEDGED}:
        since = story.delete_known(batch_id)
        if any(seen.began > since for seen in story.seen_of.get(batch_id, [])):
            yield f"I3: {batch_id}: its delete was acknowledged, later it is there"
        if any(read.began > since for read in story.results_of.get(batch_id, [])):
            yield f"I3: {batch_id}: its delete was acknowledged, later its results were served"
        if any(walk.began > since and batch_id in walk.ids for walk in story.listed):
            yield f"I3: {batch_id}: its delete was acknowledged, later it is in the list"


def _twins(story: _Story) -> Iterator[str]:
    made = _grouped(sorted(story.token_of_id.items()), lambda pair: pair[1])
    for token, creates in story.by_token.items():
        ids = {batch_id for batch_id, _ in made.get(token, [])}
        allowed = sum(create.reply is not Reply.REFUSED for create in creates)
        if all(create.is_idempotent for create in creates):
            allowed = min(allowed, 1)
        if len(ids) > allowed:
            yield f"I3: create {token}: at most {allowed} batches asked for, found {sorted(ids)}"
    for batch_id in story.seen_of.keys() | {i for walk in story.listed for i in walk.ids}:
        if batch_id not in story.token_of_id and batch_id in story.results_of:
            yield f"I3: {batch_id}: made by no create"


def results_stay(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I4: every download of a batch gives the same bytes."""
    for batch_id, reads in story.results_of.items():
        for read in reads[1:]:
            if read.raw != reads[0].raw:
                changed = {*reads[0].raw.splitlines()} ^ {*read.raw.splitlines()}
                sizes = f"{len(reads[0].raw)} and {len(read.raw)} bytes"
                yield f"I4: {batch_id}: results changed: {len(changed)} lines differ, {sizes}"
                break


def no_late_dispatch(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I5: no attempt begins once the batch ended, was canceled long enough ago, or expired."""
    limits = {token: list(_limits(story, batch_id, bounds)) for batch_id, token in story.token_of_id.items()}
    for dispatch in story.dispatches:
        for limit, why in limits.get(dispatch.token, []):
            if dispatch.began > limit:
                late = dispatch.began - limit
                yield f"I5: {dispatch.token}/{dispatch.custom_id}: dispatched {late:.3f} s after {why}"


def _limits(story: _Story, batch_id: str, bounds: Bounds) -> Iterator[tuple[float, str]]:
    for seen in story.seen_of.get(batch_id, []):
        yield moment(seen.batch["expires_at"]), "it expired"
        if seen.batch["processing_status"] == "ended":
            yield seen.ended, "it was seen ended"
    for cancel in story.cancels:
        if cancel.batch_id == batch_id and cancel.reply is Reply.ACKNOWLEDGED:
            yield cancel.ended + bounds.cancel_s, "its cancel and the bound"


def never_twice_at_once(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I6: two attempts at one item never overlap, unless a crash lies between their beginnings."""
    for (token, custom_id), attempts in _attempts(story).items():
        for first, second in itertools.pairwise(attempts):
            crashed = any(first.began <= c.ended and c.began <= second.began for c in story.crashes)
            if second.began < first.ended and not crashed:
                yield f"I6: {token}/{custom_id}: two attempts at once, with no crash between"


def results_are_json_lines(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I7: one JSON object a line with `custom_id` and `result`, no blank line, no CR, each custom_id once."""
    for read in story.results:
        body = read.raw.removesuffix(b"\n")
        if b"\r" in read.raw or b"\n\n" in read.raw or not body or read.raw.startswith(b"\xef\xbb\xbf"):
            yield f"I7: {read.batch_id}: blank lines, carriage returns, a BOM, or nothing at all"
            continue
        for number, line in enumerate(body.split(b"\n")):
            fault = _row_fault(line)
            if fault:
                yield f"I7: {read.batch_id}: line {number}: {fault}"
        doubled = [name for name, count in Counter(_custom_ids(read.raw)).items() if count > 1]
        if doubled:
            yield f"I7: {read.batch_id}: twice in the results: {_few(doubled)}"


RESULT_KEYS = {
    "succeeded": {"type", "message"},
    "errored": {"type", "error"},
    "canceled": {"type"},
    "expired": {"type"},
}


def _row_fault(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(row, dict) or set(row) != {"custom_id", "result"} or not isinstance(row["result"], dict):
        return "not a row of custom_id and result"
    kind = row["result"].get("type")
    if set(row["result"]) != RESULT_KEYS.get(str(kind)):
        return f"a result of type {kind!r} with keys {sorted(row['result'])}"
    return None


def window_is_kept(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I8: never more batch items at the engine than admitted; a crash empties it."""
    if bounds.window is None:
        return
    moves = [(d.began, 1) for d in story.dispatches] + [(d.ended, -1) for d in story.dispatches]
    level = most = 0
    for _, step in sorted(moves):
        level += step
        most = max(most, level)
    if most > bounds.window:
        yield f"I8: {most} batch items at the engine at once, {bounds.window} admitted"


def everything_ends(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I9: at the close of a history no batch is left unfinished."""
    if not bounds.closed:
        return
    for batch_id, seen in story.seen_of.items():
        is_kept = story.delete_began(batch_id) == float("inf")
        if is_kept and not any(s.batch["processing_status"] == "ended" for s in seen):
            yield f"I9: {batch_id}: never seen ended, last {_brief(seen[-1].batch)}"


def no_foreign_reads(story: _Story, bounds: Bounds) -> Iterator[str]:
    """I10: for another workspace the batch does not exist."""
    for look in story.foreign:
        if look.status != 404:
            yield f"I10: {look.batch_id}: another workspace was answered {look.status}"


def repeats_are_few(story: _Story, bounds: Bounds) -> Iterator[str]:
    """R: only what was in flight at a crash is done again, and what was not lost never."""
    if bounds.repeats_a_crash is None:
        return
    allowed = bounds.repeats_a_crash * len(story.crashes)
    if _repeats(story) > allowed:
        crashes = len(story.crashes)
        yield f"R: {_repeats(story)} attempts repeated work over {crashes} crashes; {allowed} can have been in flight"


RULES: tuple[Rule, ...] = (
    one_result_an_item,
    counts_add_up,
    counts_move_one_way,
    what_was_acknowledged_stays,
    results_stay,
    no_late_dispatch,
    never_twice_at_once,
    results_are_json_lines,
    window_is_kept,
    everything_ends,
    no_foreign_reads,
    repeats_are_few,
)


def moment(text: str) -> float:
    """Read an RFC 3339 time as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _attempts(story: _Story) -> dict[tuple[str, str], list[Dispatch]]:
    attempts = _grouped(story.dispatches, lambda d: (d.token, d.custom_id))
    return {name: sorted(found, key=lambda d: d.began) for name, found in attempts.items()}


def _repeats(story: _Story) -> int:
    return sum(len(found) - 1 for found in _attempts(story).values())


def _rows(raw: bytes) -> list[Json]:
    """Rows that can be read; I7 complains about the others."""
    return [json.loads(line) for line in raw.split(b"\n") if line and _row_fault(line) is None]


def _custom_ids(raw: bytes) -> list[str]:
    return [row["custom_id"] for row in _rows(raw)]


def _of(kind: type[E], events: Iterable[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def _brief(batch: Json) -> str:
    return f"{batch['processing_status']} {batch['request_counts']} canceled at {batch['cancel_initiated_at']}"


def _few(names: Iterable[str]) -> str:
    found = sorted(names)
    return f"{found[:5]}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"
