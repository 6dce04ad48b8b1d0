"""What holds for gates whatever comes: random plans, endpoints, failures, items that come again, runs let go."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from standby.engines.base import CacheProfile
from standby.records import BatchId
from standby.scheduler.gates import NEAR, Gates, Place, RoomView, Want

BATCH = BatchId("msgbatch_1")
PROMPT = 700


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Draw what entries share with the one before them, and their groups."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    shared, groups = [], []
    for number, size in enumerate(sizes, start=1):
        group = number if size > 1 else 0
        shared += [
            draw(st.sampled_from([0, 10, 300])),
            *(draw(st.sampled_from([300, 305, 600])) for _ in range(size - 1)),
        ]
        groups += [group] * size
    return [0, *shared[1:]], groups


class GatesMachine(RuleBasedStateMachine):
    """A driver that tries all it has in the order of the plan, as a worker does."""

    @initialize(
        plan=plans(),
        cut=st.integers(0, 60),
        caches=st.lists(st.sampled_from(CacheProfile), min_size=1, max_size=3),
        slots=st.lists(st.integers(1, 5), min_size=3, max_size=3),
        kv_tokens=st.sampled_from([0, 500, 2000]),
    )
    def begin(
        self, plan: tuple[list[int], list[int]], cut: int, caches: list[CacheProfile], slots: list[int], kv_tokens: int
    ) -> None:
        """Take a plan in hand, in two runs."""
        self.shared, self.groups = plan
        self.rooms = [
            RoomView(name=name, cache=cache, slots=most, free=most, kv_tokens=kv_tokens, takes=True)
            for name, cache, most in zip("abc", caches, slots, strict=False)
        ]
        self.gates = Gates()
        self.runs = [(0, min(cut, len(self.shared))), (min(cut, len(self.shared)), len(self.shared))]
        for first, stop in self.runs:
            if first < stop:
                self.gates.learn(BATCH, first, self.shared[first:stop], self.groups[first:stop])
        self.todo = list(range(len(self.shared)))
        self.again: set[int] = set()
        self.flying: dict[int, tuple[Want, Place]] = {}
        self.warmed: set[str] = set()
        """Endpoints that ever gave a first token."""
        self.away: set[str] = set()
        self.now_us = 0
        self.is_learnt = True

    @rule(step_us=st.sampled_from([0, 50_000, 3_000_000]))
    def pass_once(self, step_us: int) -> None:
        """Try all that is left, but for what need not be tried after a refusal; what comes again always."""
        self.now_us += step_us
        low = high = 0
        for index in list(self.todo):
            want = self._want(index)
            if (index in self.again or not low <= index < high) and not self._try(want):
                low, high = index, self.gates.resume_at(want)
        # nothing waits for nothing
        assert not self.todo or self.flying or not self._open_rooms(), "items wait and nothing is in flight"

    @rule(pick=st.integers(0, 1000))
    def token(self, pick: int) -> None:
        """Let a first token come."""
        if self.flying:
            index = sorted(self.flying)[pick % len(self.flying)]
            self.gates.first_token(*self.flying[index])
            self.warmed.add(self.flying[index][1].endpoint)

    @rule(pick=st.integers(0, 1000), comes_again=st.booleans())
    def end(self, pick: int, *, comes_again: bool) -> None:
        """Let an attempt end; perhaps its item comes again."""
        if self.flying:
            index = sorted(self.flying)[pick % len(self.flying)]
            self.gates.ended(*self.flying.pop(index))
            if comes_again:
                self.todo.append(index)
                self.again.add(index)

    @rule(name=st.sampled_from("abc"))
    def go_away(self, name: str) -> None:
        """Let an endpoint go away, or come back with nothing in its cache."""
        self.away ^= {name}
        self.gates.lost(name)

    @rule()
    def let_go(self) -> None:
        """Let go of a run while items of it are in flight."""
        self.gates.forget(BATCH, 0)
        self.is_learnt = False

    @invariant()
    def nobody_computes_the_same_at_once(self) -> None:
        """Before anything is warm, no two compute at once what they could share after a first token."""
        if not getattr(self, "is_learnt", False):
            return
        for one in self.rooms:
            if one.cache is CacheProfile.SHARED_AFTER_FIRST_TOKEN and one.name not in self.warmed:
                computing = sorted(index for index, (_, place) in self.flying.items() if place.endpoint == one.name)
                assert all(self._common(low, high) < NEAR for low, high in pairwise(computing))

    @invariant()
    def one_at_a_time_in_a_slot(self) -> None:
        """No slot has two of ours, none has a number that the endpoint lacks, and only slots have numbers."""
        kinds = {one.name: one for one in getattr(self, "rooms", [])}
        used = Counter((place.endpoint, place.slot) for _, place in getattr(self, "flying", {}).values())
        for (name, slot), count in used.items():
            assert (slot is None) == (kinds[name].cache is not CacheProfile.PER_SLOT)
            assert slot is None or (count == 1 and 0 <= slot < kinds[name].slots)

    @invariant()
    def never_too_many(self) -> None:
        """No endpoint has more than it has room for."""
        for one in getattr(self, "rooms", []):
            assert self._busy(one.name) <= one.slots

    def teardown(self) -> None:
        """Everything comes to its end once nothing fails any more, and nothing is left behind."""
        if not hasattr(self, "gates"):
            return
        self.away.clear()
        for _ in range(20 * len(self.shared)):
            self.pass_once(300_000)
            if not self.flying:
                break
            index = min(self.flying)
            self.gates.first_token(*self.flying[index])
            self.gates.ended(*self.flying.pop(index))
        assert not self.todo
        for first, _ in self.runs:
            self.gates.forget(BATCH, first)
        assert self.gates.is_empty

    def _try(self, want: Want) -> bool:
        left = sum(self.groups[index] == want.group for index in self.todo)
        place = self.gates.place(want, self._views(), self.now_us, left)
        if place is not None:
            self.gates.started(want, place)
            self.flying[want.index] = want, place
            self.todo.remove(want.index)
        return place is not None

    def _want(self, index: int) -> Want:
        return Want(
            batch_id=BATCH,
            index=index,
            group=self.groups[index],
            shared=self.shared[index],
            prompt_tokens=PROMPT,
            model="m",
        )

    def _views(self) -> list[RoomView]:
        return [
            RoomView(
                name=one.name,
                cache=one.cache,
                slots=one.slots,
                free=one.slots - self._busy(one.name),
                kv_tokens=one.kv_tokens,
                takes=one.name not in self.away,
            )
            for one in self.rooms
        ]

    def _open_rooms(self) -> list[RoomView]:
        return [one for one in self._views() if one.takes and one.free > 0]

    def _busy(self, name: str) -> int:
        return sum(place.endpoint == name for _, place in self.flying.values())

    def _common(self, low: int, high: int) -> int:
        return min(self.shared[low + 1 : high + 1])


TestGates = GatesMachine.TestCase
TestGates.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
