"""Gates, rule by rule: each test builds a small plan and asks where its items may start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from standby.engines.base import CacheProfile
from standby.records import SECOND, BatchId
from standby.scheduler.gates import IDLE_US, JOIN_US, PASS_US, REST_US, SPILL_US, Gates, Place, RoomView, Want

BATCH = BatchId("msgbatch_1")
ONE_GROUP = [0] + [500] * 19


class Bench:
    """One plan in hand and the endpoints that it may use."""

    def __init__(self, shared: Sequence[int], groups: Sequence[int], *rooms: RoomView, batch: BatchId = BATCH) -> None:
        """Begin with nothing in flight."""
        self.gates = Gates()
        self.gates.learn(batch, 0, shared, groups)
        self.shared, self.groups, self.rooms, self.batch = shared, groups, list(rooms), batch
        self.now_us = 0
        self.flying: dict[int, tuple[Want, Place]] = {}
        self.left = set(range(len(groups)))

    def want(self, index: int) -> Want:
        """Return an item as it would ask."""
        return Want(
            batch_id=self.batch,
            index=index,
            group=self.groups[index],
            shared=self.shared[index],
            prompt_tokens=600,
            model="m",
        )

    def views(self) -> list[RoomView]:
        """Return the endpoints as they are now."""
        busy = [place.endpoint for _, place in self.flying.values()]
        return [
            RoomView(
                name=room.name,
                cache=room.cache,
                slots=room.slots,
                free=room.free - busy.count(room.name),
                kv_tokens=room.kv_tokens,
                takes=room.takes,
            )
            for room in self.rooms
        ]

    def ask(self, index: int) -> Place | None:
        """Ask where an item may start, and start nothing."""
        left = sum(self.groups[other] == self.groups[index] for other in self.left)
        return self.gates.place(self.want(index), self.views(), self.now_us, left)

    def start(self, index: int, *, is_read: bool = True) -> Place | None:
        """Start an item if it may; in a slot its prompt is read at once, unless told otherwise."""
        place = self.ask(index)
        if place is not None:
            self.gates.started(self.want(index), place)
            self.flying[index] = self.want(index), place
            self.left.discard(index)
            if place.slot is not None and is_read:
                self.token(index)
        return place

    def started(self, *indices: int) -> list[int]:
        """Try each and say which started."""
        return [index for index in indices if self.start(index) is not None]

    def token(self, index: int) -> None:
        """Let the first token of an item come."""
        self.gates.first_token(*self.flying[index])

    def end(self, index: int) -> None:
        """Let an item end."""
        self.gates.ended(*self.flying.pop(index))


def room(
    cache: CacheProfile, name: str = "a", *, slots: int = 16, free: int | None = None, kv_tokens: int = 0
) -> RoomView:
    """Make an endpoint, idle unless told."""
    return RoomView(
        name=name, cache=cache, slots=slots, free=slots if free is None else free, kv_tokens=kv_tokens, takes=True
    )


AT_ONCE, AFTER = CacheProfile.SHARED_AT_ONCE, CacheProfile.SHARED_AFTER_FIRST_TOKEN
PER_SLOT, NONE = CacheProfile.PER_SLOT, CacheProfile.NONE


@pytest.mark.parametrize("cache", [AT_ONCE, NONE])
def test_no_gate(cache: CacheProfile) -> None:
    """Where a prefix is shared at once, or never, nobody waits while there is room."""
    bench = Bench(ONE_GROUP, [1] * 20, room(cache, slots=4))

    assert bench.started(*range(20)) == [0, 1, 2, 3]


def test_no_endpoint() -> None:
    """An item that no endpoint takes waits, and so does the rest of its group."""
    bench = Bench(ONE_GROUP, [1] * 20)

    assert bench.ask(0) is None
    assert bench.gates.resume_at(bench.want(0)) == 20


class TestWarmFirst:
    """A prefix that others can use after its first token."""

    def test_one_leads(self) -> None:
        """The first of a group goes alone; after its first token all others may go."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER))

        assert bench.started(0, 1, 2) == [0]
        bench.token(0)

        assert bench.started(1, 2, 3) == [1, 2, 3]

    def test_others_fill_the_window(self) -> None:
        """While a leader computes, leaders of other groups and items without a group start."""
        bench = Bench([0, 500, 500, 3, 500, 500, 2, 2], [1, 1, 1, 2, 2, 2, 0, 0], room(AFTER))

        assert bench.started(*range(8)) == [0, 3, 6, 7]

    def test_every_fork_has_its_leader(self) -> None:
        """A warm trunk lets one go ahead into each branch, not all of a branch at once."""
        shared = [0, 900, 900, 400, 900, 900, 400, 900]
        bench = Bench(shared, [1] * 8, room(AFTER))

        assert bench.started(*range(8)) == [0]
        bench.token(0)

        assert bench.started(*range(1, 8)) == [1, 2, 3, 6]
        bench.token(3)
        assert bench.started(4, 5, 7) == [4, 5]

    def test_little_is_not_waited_for(self) -> None:
        """What saves only a few tokens is not worth a wait."""
        bench = Bench([0, 20, 20], [0, 0, 0], room(AFTER))

        assert bench.started(0, 1, 2) == [0, 1, 2]

    @pytest.mark.parametrize("is_seen", [False, True])
    def test_a_leader_that_fails(self, *, is_seen: bool) -> None:
        """A leader that ends before its first token makes room for the next; one that ends later leaves it warm."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER))
        bench.start(0)
        if is_seen:
            bench.token(0)

        bench.end(0)

        assert bench.started(1, 2, 3) == ([1, 2, 3] if is_seen else [1])

    def test_the_leader_comes_again(self) -> None:
        """A leader that is tried again waits for whoever leads meanwhile, and then starts like the others."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER))
        bench.start(0)
        bench.end(0)

        assert bench.started(1, 0) == [1]
        bench.token(1)
        assert bench.started(0, 2) == [0, 2]

    def test_unknown_neighbours(self) -> None:
        """Entries that were never learnt, and those whose run was let go, start as if nothing were shared."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER))
        bench.start(0)
        bench.gates.forget(BATCH, 0)

        assert bench.started(1, 2) == [1, 2]
        bench.token(0)
        for index in (0, 1, 2):
            bench.end(index)

    def test_runs_that_follow_each_other(self) -> None:
        """What is shared across the border of two runs counts, in whatever order they were learnt."""
        bench = Bench([500] * 4, [1] * 4, room(AFTER))
        bench.gates.forget(BATCH, 0)
        bench.gates.learn(BATCH, 2, [500, 500], [1, 1])
        bench.gates.learn(BATCH, 0, [0, 500], [1, 1])

        assert bench.started(0, 1, 2, 3) == [0]
        bench.token(0)
        assert bench.started(3, 1, 2) == [3, 1, 2]

    def test_warm_only_where_it_was_computed(self) -> None:
        """A prefix that is warm at one endpoint is cold at another."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER, "a"))
        bench.start(0)
        bench.token(0)
        bench.rooms = [room(AFTER, "b")]

        assert bench.started(1, 2) == [1]

    def test_what_was_pushed_out_is_cold(self) -> None:
        """Once an endpoint computed more than its cache holds, a group needs a leader again."""
        shared = [0, 500, *[0] * 10, 0]
        bench = Bench(shared, [1, 1, *[0] * 10, 0], room(AFTER, kv_tokens=3000))
        for index in (0, *range(2, 12)):
            bench.start(index)
            bench.token(index)
            bench.end(index)
        bench.gates.learn(BATCH, 1, [500, 500], [1, 1])

        assert bench.started(1, 2) == [1]

    def test_an_endpoint_that_was_lost_is_cold(self) -> None:
        """An endpoint that went away and came back needs a leader for every group."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER))
        bench.start(0)
        bench.token(0)
        bench.end(0)

        bench.gates.lost("a")

        assert bench.started(1, 2) == [1]


class TestBlocked:
    """What a caller may pass over after a refusal."""

    def test_a_branch(self) -> None:
        """A branch that waits for its leader is passed over as a whole, its group is not."""
        bench = Bench([0, 900, 900, 400, 900], [1] * 5, room(AFTER))
        bench.start(0)
        bench.token(0)
        bench.start(3)

        assert bench.ask(4) is None
        assert bench.gates.resume_at(bench.want(4)) == 5
        bench.gates.lost("a")
        assert bench.ask(1) is None
        assert bench.gates.resume_at(bench.want(1)) == 5

    def test_a_deeper_branch(self) -> None:
        """After a refusal inside a branch the next branch of the same group is worth a try."""
        bench = Bench([0, 400, 900, 900, 400, 900], [1] * 6, room(AFTER))
        bench.start(0)
        bench.token(0)
        bench.start(1)

        assert bench.ask(2) is None
        assert bench.gates.resume_at(bench.want(2)) == 4
        assert bench.ask(4) is not None

    def test_a_full_endpoint(self) -> None:
        """Where there is no room the rest of the group is passed over."""
        bench = Bench([0, 500, 500, 0, 500], [1, 1, 1, 2, 2], room(AT_ONCE, slots=1))
        bench.start(0)

        assert bench.ask(1) is None
        assert bench.gates.resume_at(bench.want(1)) == 3


class TestSlots:
    """A cache that each slot has for itself; the last slot is the first that is taken."""

    def test_one_group_a_slot(self) -> None:
        """Each group gets a slot of its own and runs there one by one."""
        bench = Bench([0, 500, 500, 0, 500, 500], [1, 1, 1, 2, 2, 2], room(PER_SLOT, slots=2))

        assert [bench.start(index) for index in (0, 1, 3)] == [
            Place(endpoint="a", slot=1),
            None,
            Place(endpoint="a", slot=0),
        ]
        bench.end(3)
        assert bench.start(1) is None
        assert bench.start(4) == Place(endpoint="a", slot=0)
        bench.end(0)
        assert bench.start(1) == Place(endpoint="a", slot=1)

    def test_another_slot_joins(self) -> None:
        """A second slot computes the prefix once more if nothing else is left for a while and enough items are."""
        bench = Bench(ONE_GROUP, [1] * 20, room(PER_SLOT, slots=2))
        bench.start(0)

        assert bench.start(1) is None
        bench.now_us += JOIN_US
        assert bench.start(1) == Place(endpoint="a", slot=0)
        bench.end(1)
        assert bench.start(2) == Place(endpoint="a", slot=0)

    def test_other_work_comes_first(self) -> None:
        """No slot joins in a group while another group is in hand that nobody opened."""
        bench = Bench([*ONE_GROUP, 0, 500], [1] * 20 + [2, 2], room(PER_SLOT, slots=2))
        bench.start(0)
        bench.start(1)
        bench.now_us += 2 * JOIN_US

        assert bench.start(1) is None
        assert bench.start(20) == Place(endpoint="a", slot=0)

    def test_too_few_left(self) -> None:
        """A few items do not pay for their prefix: they wait for the slot that has it."""
        bench = Bench([0] + [500] * 7, [1] * 8, room(PER_SLOT, slots=2))
        bench.start(0)
        bench.start(1)
        bench.now_us += 2 * JOIN_US

        assert bench.start(1) is None
        bench.end(0)
        assert bench.start(1) == Place(endpoint="a", slot=1)

    def test_no_more_than_admitted(self) -> None:
        """Slots that admission keeps for live requests stay free."""
        bench = Bench([0, 0, 0], [0, 0, 0], room(PER_SLOT, slots=3, free=2))

        assert bench.started(0, 1, 2) == [0, 1]

    def test_a_slot_with_work_to_come_is_spared(self) -> None:
        """An item that shares nothing takes a slot that nobody will miss."""
        bench = Bench([0, 500, 500, 0], [1, 1, 1, 0], room(PER_SLOT, slots=2))
        bench.start(0)
        bench.end(0)

        assert bench.start(3) == Place(endpoint="a", slot=0)

    def test_no_more_groups_take_turns_than_there_are_slots(self) -> None:
        """A third group waits while two that come back have both slots: each turn would begin with a prefix again."""
        bench = Bench([0, 500, 500] * 3, [1, 1, 1, 2, 2, 2, 3, 3, 3], room(PER_SLOT, slots=2))
        for index in (0, 3):
            bench.start(index)
        for index in (0, 3):
            bench.end(index)

        assert bench.start(6) is None
        assert bench.start(1) == Place(endpoint="a", slot=1)

    def test_a_group_that_never_comes_back_keeps_no_slot(self) -> None:
        """After a minute of rest another group takes it."""
        bench = Bench([0, 500, 500] * 3, [1, 1, 1, 2, 2, 2, 3, 3, 3], room(PER_SLOT, slots=2))
        for index in (0, 3):
            bench.start(index)
        for index in (0, 3):
            bench.end(index)
        bench.now_us += REST_US

        assert bench.start(6) == Place(endpoint="a", slot=1)

    def test_a_batch_with_less_than_its_share_takes_a_slot(self) -> None:
        """Of whoever has most of them, that which rested longest."""
        bench = Bench([0, 500, 500] * 2, [1, 1, 1, 2, 2, 2], room(PER_SLOT, slots=2))
        for index in (3, 0):
            bench.now_us += 1
            bench.start(index)
        for index in (3, 0):
            bench.end(index)
        bench.gates.learn(BatchId("msgbatch_2"), 0, [0, 500], [1, 1])
        other = Want(batch_id=BatchId("msgbatch_2"), index=0, group=1, shared=0, prompt_tokens=600, model="m")

        assert bench.gates.place(other, bench.views(), bench.now_us, 2) == Place(endpoint="a", slot=1)

    def test_slots_of_live_requests_are_not_taken(self) -> None:
        """Neither the one in which a live request is, nor those that are kept for the next."""
        busy = replace(room(PER_SLOT, slots=3), kept=1, taken=frozenset({2}))
        gates = Gates()
        gates.learn(BATCH, 0, [0, 0], [0, 0])
        want = Want(batch_id=BATCH, index=0, group=0, shared=0, prompt_tokens=600, model="m")

        place = gates.place(want, [busy], 0, 1)

        assert place == Place(endpoint="a", slot=1)
        gates.started(want, place)
        assert gates.place(replace(want, index=1), [busy], 0, 1) is None

    @pytest.mark.parametrize(("wait_us", "starts"), [(PASS_US, True), (PASS_US + 1, False)])
    def test_prompts_are_not_passed_for_long(self, wait_us: int, *, starts: bool) -> None:
        """llama.cpp reads slot after slot: one in the last slot might never have its turn."""
        gates, two = Gates(), room(PER_SLOT, slots=2)
        gates.learn(BATCH, 0, [0, 0], [0, 0])
        want = Want(batch_id=BATCH, index=0, group=0, shared=0, prompt_tokens=600, model="m")
        place = gates.place(want, [two], 0, 1)
        assert place == Place(endpoint="a", slot=1)
        gates.started(want, place)
        other = replace(want, index=1)

        assert (gates.place(other, [replace(two, free=1)], wait_us, 1) is not None) is starts
        gates.first_token(want, place)
        assert gates.place(other, [replace(two, free=1)], wait_us, 1) == Place(endpoint="a", slot=0)

    def test_a_later_slot_is_in_nobody_s_way(self) -> None:
        """What is being read in an earlier slot is read first anyway."""
        bench = Bench([0, 0, 0], [0, 0, 0], room(PER_SLOT, slots=2))
        bench.start(0)
        assert bench.start(1, is_read=False) == Place(endpoint="a", slot=0)
        bench.end(0)

        assert bench.start(2) == Place(endpoint="a", slot=1)

    def test_a_live_prompt_is_not_passed(self) -> None:
        """By nothing, however short; when its answer began, batches go on."""
        gates, three = Gates(), replace(room(PER_SLOT, slots=3), taken=frozenset({2}), reading=2)
        gates.learn(BATCH, 0, [0], [0])
        want = Want(batch_id=BATCH, index=0, group=0, shared=0, prompt_tokens=9, model="m")

        assert gates.place(want, [three], 0, 1) is None
        assert gates.place(want, [replace(three, reading=-1)], 0, 1) == Place(endpoint="a", slot=1)

    def test_what_a_live_request_took_over_is_not_counted_on(self) -> None:
        """The group begins again wherever there is a slot."""
        bench = Bench([0, 500, 500], [1, 1, 1], room(PER_SLOT, slots=2))
        bench.start(0)
        bench.end(0)
        bench.gates.taken_over("a", {1})
        bench.gates.learn(BatchId("msgbatch_2"), 0, [0], [0])
        other = Want(batch_id=BatchId("msgbatch_2"), index=0, group=0, shared=0, prompt_tokens=9, model="m")

        assert bench.gates.place(other, bench.views(), 0, 1) == Place(endpoint="a", slot=1)


class TestOpenGroups:
    """Groups at work at the same time, bounded by the cache."""

    GROUPS = (1, 1, 2, 2, 3, 3)
    SHARED = (0, 400, 0, 400, 0, 400)

    def test_bounded(self) -> None:
        """No group is opened whose prefix would push those of open groups out; items of open groups go on."""
        bench = Bench(self.SHARED, self.GROUPS, room(AT_ONCE, kv_tokens=1200))

        assert bench.started(0, 2, 4, 1) == [0, 2, 1]
        assert bench.gates.place(bench.want(4), bench.views(), 0, 2) is None

    def test_the_end_of_a_group_makes_room(self) -> None:
        """When all of a group ran, the next may be opened."""
        bench = Bench(self.SHARED, self.GROUPS, room(AT_ONCE, kv_tokens=1200))
        bench.started(0, 2, 1)
        bench.end(0)
        assert bench.start(4) is None

        bench.end(1)

        assert bench.start(4) is not None

    def test_never_nothing(self) -> None:
        """A group too large for the cache runs if nothing else does."""
        bench = Bench([0, 5000, 0], [1, 1, 0], room(AT_ONCE, kv_tokens=1200))

        assert bench.started(0, 1) == [0, 1]

    def test_a_group_that_rests_holds_nobody_up(self) -> None:
        """A group that nobody goes on with does not keep others closed for ever."""
        bench = Bench([*self.SHARED, 0], [*self.GROUPS, 0], room(AT_ONCE, kv_tokens=1200))
        bench.started(0, 2, 6)
        bench.end(0)
        bench.end(2)
        assert bench.start(4) is None

        bench.now_us += IDLE_US

        assert bench.start(4) is not None


class TestReplicas:
    """Several endpoints with the same model."""

    def test_a_group_has_a_home(self) -> None:
        """All items of a group go to one endpoint, and groups spread over all."""
        groups = [1 + index // 5 for index in range(200)]
        bench = Bench([0] * 200, groups, *(room(AT_ONCE, name, slots=300) for name in "abc"))
        homes: dict[int, set[str]] = {}
        for index in range(200):
            place = bench.start(index)
            assert place is not None
            homes.setdefault(groups[index], set()).add(place.endpoint)

        assert all(len(names) == 1 for names in homes.values())
        assert set().union(*homes.values()) == {"a", "b", "c"}

    def test_spill(self) -> None:
        """Another endpoint helps once the home was full for two seconds, if enough items are left."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AT_ONCE, "a", slots=1), room(AT_ONCE, "b", slots=1))
        first = bench.start(0)
        assert first is not None
        assert bench.start(1) is None
        bench.now_us += SPILL_US
        assert bench.start(1) is None

        bench.now_us += 1
        second = bench.start(1)

        assert second is not None
        assert {first.endpoint, second.endpoint} == {"a", "b"}

    def test_no_spill_for_a_few(self) -> None:
        """The last few items wait for the endpoint that has their prefix."""
        bench = Bench([0] + [500] * 7, [1] * 8, room(AT_ONCE, "a", slots=1), room(AT_ONCE, "b", slots=1))
        bench.start(0)
        bench.start(1)
        bench.now_us += 10 * SECOND

        assert bench.start(1) is None

    def test_a_home_that_goes_away(self) -> None:
        """When the endpoint of a group goes away the others take its items at once."""
        bench = Bench(ONE_GROUP, [1] * 20, room(AFTER, "a"), room(AFTER, "b"))
        first = bench.start(0)
        assert first is not None
        other = next(one for one in bench.rooms if one.name != first.endpoint)

        bench.rooms = [other]

        assert bench.start(1) == Place(endpoint=other.name, slot=None)

    def test_items_without_a_group_go_where_most_room_is(self) -> None:
        """What shares nothing fills the endpoints evenly."""
        bench = Bench([0] * 6, [0] * 6, room(AT_ONCE, "a", slots=4), room(AT_ONCE, "b", slots=2))

        places = [bench.start(index) for index in range(6)]

        assert sorted(place.endpoint for place in places if place) == ["a"] * 4 + ["b"] * 2
