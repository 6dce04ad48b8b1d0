from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from standby.records import DAY, HOUR, SECOND, BatchId, WorkspaceId
from standby.scheduler.outlook import Waits
from standby.scheduler.policy import Claim, Policy

MINUTE = 60 * SECOND
NOW = 1_767_571_200 * SECOND
MOST_COST = 5_000


def claim(name: str, workspace: str = "w", *, size: int = 1000, cost: int = 1000, expires: int = NOW + DAY) -> Claim:
    """Make a claim of a batch whose items cost `cost` each."""
    return Claim(
        batch_id=BatchId(name),
        workspace_id=WorkspaceId(workspace),
        created_us=expires - DAY,
        expires_us=expires,
        size=size,
        left_items=size,
        left_cost=size * cost,
    )


def warm(policy: Policy, claims: Sequence[Claim], rate: float, *, minutes: int = 60) -> None:
    """Let the endpoints have served at a rate (cost tokens a second) for a while."""
    for minute in range(-minutes, 1):
        policy.outlook(claims, NOW + minute * MINUTE)
        policy.served(rate * 60, NOW + minute * MINUTE)


def serve(policy: Policy, claims: Sequence[Claim], items: int, *, cost: int = 1000) -> list[BatchId]:
    """Start items, one after the other."""
    by_id = {claim.batch_id: claim for claim in claims}
    chosen = []
    for _ in range(items):
        batch_id = policy.turn(claims, NOW)
        assert batch_id is not None
        policy.started(by_id[batch_id], cost)
        chosen.append(batch_id)
    return chosen


class Shares(RuleBasedStateMachine):
    """Tenants come, go, wait and are served, against a model that only adds up what each was really given."""

    def __init__(self) -> None:
        """Begin with nobody."""
        super().__init__()
        self.given: dict[str, float] = defaultdict(float)
        self.begin: dict[tuple[str, str], float] = {}
        self.claims: dict[BatchId, Claim] = {}
        self.flying: list[tuple[Claim, float, float]] = []
        """Started and not settled: what is charged too much for these holds their tenant back."""
        self.most = 0.0
        self.count = 0

    @initialize(quantum=st.sampled_from([1_000, 32_768]), rate=st.sampled_from([0.0, 300.0, 100_000.0]))
    def start(self, quantum: int, rate: float) -> None:
        """Draw a policy: turns of an item, of some items, of the longest quantum; sizes make no batch small."""
        self.policy = Policy(quantum=quantum, small=0)
        self.twin = Policy(quantum=quantum, small=0)
        for policy in (self.policy, self.twin):
            if rate:
                warm(policy, [claim("z", "z", size=100_000)], rate)
        self.quantum = quantum

    @rule(tenant=st.integers(0, 3))
    def arrive(self, tenant: int) -> None:
        """Another batch of a tenant waits."""
        self.count += 1
        new = claim(f"b{self.count:03}", f"w{tenant}")
        self.claims[new.batch_id] = new
        self._mark()

    @rule(cost=st.integers(1, MOST_COST), items=st.integers(1, 25), seed=st.integers(0, 99))
    def work(self, cost: int, items: int, seed: int) -> None:
        """Some items start; the estimate of each is wrong by up to a factor of two, and corrected later."""
        draw = random.Random(seed)
        for _ in range(items if self.claims else 0):
            order = list(self.claims.values())
            chosen = self.policy.turn(order, NOW)
            draw.shuffle(order)
            assert self.twin.turn(order, NOW) == chosen, "the order of claims means nothing"
            assert chosen in self.claims
            self._begin_item(self.claims[chosen], cost, cost * draw.uniform(0.5, 1.0))

    @rule()
    def settle(self) -> None:
        """All that is in flight ends."""
        for started, estimated, actual in self.flying:
            for policy in (self.policy, self.twin):
                policy.settled(started.batch_id, started.workspace_id, estimated, actual)
        self.flying.clear()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A batch ends."""
        if not self.claims:
            return
        batch_id = data.draw(st.sampled_from(sorted(self.claims)))
        del self.claims[batch_id]
        for policy in (self.policy, self.twin):
            policy.forget(batch_id)
        self._mark()

    @invariant()
    def equal_tenants_are_given_the_same(self) -> None:
        """Between tenants that both waited all the time the gap is at most two quanta and two of the largest items."""
        waiting = {claim.workspace_id for claim in self.claims.values()}
        charged = sum(estimated - actual for _, estimated, actual in self.flying)
        for one in waiting:
            for other in waiting:
                begin = self.begin.get((one, other))
                if begin is not None:
                    gap = self.given[one] - self.given[other] - begin
                    assert gap <= 2 * (self.quantum + self.most) + charged + 1

    def _begin_item(self, chosen: Claim, estimated: float, actual: float) -> None:
        for policy in (self.policy, self.twin):
            policy.started(chosen, estimated)
        self.given[chosen.workspace_id] += actual
        self.flying.append((chosen, estimated, actual))
        self.most = max(self.most, estimated)

    def _mark(self) -> None:
        """Begin to compare two tenants when both wait, and end when one of them does not."""
        waiting = {claim.workspace_id for claim in self.claims.values()}
        pairs = {(one, other) for one in waiting for other in waiting if one != other}
        self.begin = {pair: self.begin.get(pair, self.given[pair[0]] - self.given[pair[1]]) for pair in pairs}


Shares.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestShares = Shares.TestCase


def test_a_turn_is_a_quantum_so_that_groups_stay_together() -> None:
    """At 10,000 cost tokens a second a turn is 20 items of 1,000, then the other tenant's."""
    policy = Policy()
    claims = [claim("a", "one"), claim("b", "two")]
    warm(policy, claims, 10_000.0)

    assert (
        serve(policy, claims, 80)
        == [BatchId("a")] * 20 + [BatchId("b")] * 20 + [BatchId("a")] * 20 + [BatchId("b")] * 20
    )


def test_where_little_is_served_a_turn_is_an_item() -> None:
    """And before anything is known."""
    assert serve(Policy(), [claim("a", "one"), claim("b", "two")], 4) == ["a", "b", "a", "b"]


def test_a_tenant_with_many_batches_gets_no_more() -> None:
    """Ten batches of one tenant beside one of another: half for each, and the ten share theirs."""
    claims = [claim(f"a{number}", "one") for number in range(10)] + [claim("b", "two")]
    chosen = Counter(serve(Policy(), claims, 2000))

    assert chosen[BatchId("b")] == 1000
    assert {chosen[BatchId(f"a{number}")] for number in range(10)} == {100}


def test_nobody_saves_up() -> None:
    """Who waited for nothing for an hour has one turn when it comes back, not an hour of turns."""
    policy = Policy()
    one, two = claim("a", "one"), claim("b", "two")
    warm(policy, [one, two], 1_000.0)
    serve(policy, [one, two], 10)
    policy.forget(two.batch_id)
    serve(policy, [one], 5000)
    again = claim("b2", "two")
    chosen = serve(policy, [one, again], 40)

    assert 15 <= chosen.count(again.batch_id) <= 25


def test_who_could_not_be_served_is_owed_a_quantum_at_most() -> None:
    """A tenant whose endpoint was down for long does not keep all others out when it is back."""
    policy = Policy()
    one, two = claim("a", "one"), claim("b", "two")
    warm(policy, [one, two], 5_000.0)
    serve(policy, [one, two], 20)
    serve(policy, [one], 5000)
    chosen = serve(policy, [one, two], 60)

    assert chosen.count(two.batch_id) <= 30 + policy.quantum / 1000 + 1


def test_debts_outlast_a_batch() -> None:
    """Ending a batch and handing in a new one does not make a tenant new."""
    policy = Policy()
    one = claim("b", "one")
    for number in range(200):
        two = claim(f"a{number}", "two")
        serve(policy, [one, two], 2)
        policy.forget(two.batch_id)

    given = policy._root.used(WorkspaceId("one")), policy._root.used(WorkspaceId("two"))
    assert abs(given[0] - given[1]) <= 2000


def test_estimates_are_corrected() -> None:
    """A tenant whose answers are shorter than expected is given more of them, so that both cost the same."""
    policy = Policy()
    one, two = claim("a", "one"), claim("b", "two")
    actual: dict[str, float] = defaultdict(float)
    for _ in range(4000):
        chosen = policy.turn([one, two], NOW)
        this, cost = (one, 100) if chosen == "a" else (two, 1000)
        policy.started(this, 1000)
        policy.settled(this.batch_id, this.workspace_id, 1000, cost)
        actual[this.workspace_id] += cost

    assert actual["one"] == pytest.approx(actual["two"], rel=0.01)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12), st.integers(1, 100))
def test_nobody_starves(batches: list[tuple[int, bool]], quantum: int) -> None:
    """Within as many turns as there are batches and tenants every batch has had one."""
    policy = Policy(quantum=quantum * 1000)
    claims = [
        claim(f"b{number}", f"w{tenant}", size=10 if is_small else 1000)
        for number, (tenant, is_small) in enumerate(batches)
    ]
    warm(policy, claims, 2_000.0)
    turns = 2 * len(batches) * 6 * (1 + int(policy.credit / 1000) + int(policy.quantum / 1000))

    assert set(serve(policy, claims, turns)) == {claim.batch_id for claim in claims}


def test_a_small_batch_goes_first_and_pays_for_it() -> None:
    """It starts at once in the middle of a turn, is served for seconds, and in the long run gets its share."""
    policy = Policy()
    large, small = claim("large", "one", size=10_000), claim("small", "two", size=40)
    warm(policy, [large], 1_000.0)
    serve(policy, [large], 10)

    assert serve(policy, [large, small], 20) == ["small"] * 20
    assert serve(policy, [large, small], 2000).count(small.batch_id) == pytest.approx(1000, abs=40)


def test_small_batches_of_one_tenant_do_not_keep_others_out() -> None:
    """An endless stream of small batches is given a tenant's share."""
    policy = Policy()
    large = claim("large", "one", size=10_000)
    warm(policy, [large], 1_000.0)
    chosen: list[BatchId] = []
    for number in range(200):
        small = claim(f"small{number}", "two", size=10)
        chosen += serve(policy, [large, small], 10)
        policy.forget(small.batch_id)

    assert chosen.count(large.batch_id) == pytest.approx(1000, abs=60)


def test_who_is_late_goes_first_and_the_others_keep_a_part() -> None:
    """Half a day of work due in half a day: it gets nearly all turns; the others are not stopped."""
    policy = Policy()
    due = claim("due", "one", size=40_000, expires=NOW + 12 * HOUR)
    calm, small = claim("calm", "two", size=1000), claim("small", "three", size=20)
    warm(policy, [due], 1_000.0)
    outlook = policy.outlook([due, calm, small], NOW)
    chosen = Counter(serve(policy, [due, calm], 1000))

    assert outlook[due.batch_id].is_urgent
    assert outlook[due.batch_id].pressure > 0.9
    assert not outlook[calm.batch_id].will_miss
    assert 900 < chosen[due.batch_id] < 975
    assert set(serve(policy, [due, calm, small], 20)) == {"small"}, "a small one need not wait"
    assert policy.push > 0


def test_what_cannot_be_done_does_not_take_others_with_it() -> None:
    """A batch of three weeks' work that is due tomorrow is given its share and no more; one that can be done is."""
    policy = Policy()
    hopeless = claim("hopeless", "one", size=2_000_000, expires=NOW + DAY - HOUR)
    due = claim("due", "two", size=60_000)
    warm(policy, [hopeless, due], 1_000.0)
    outlook = policy.outlook([hopeless, due], NOW)
    chosen = Counter(serve(policy, [hopeless, due], 1000))

    assert outlook[hopeless.batch_id].will_miss
    assert not outlook[hopeless.batch_id].is_urgent
    assert outlook[due.batch_id].is_urgent
    assert chosen[due.batch_id] > 900


def test_equal_tenants_share_even_when_urgent() -> None:
    """Three batches due at nearly the same time, all of which can be done: none waits for another one."""
    policy = Policy()
    claims = [claim(f"b{number}", f"w{number}", size=9_000, expires=NOW + DAY + number) for number in range(3)]
    warm(policy, claims, 1_000.0)
    policy.outlook(claims, NOW)
    chosen = Counter(serve(policy, claims, 900))

    assert max(chosen.values()) - min(chosen.values()) <= 4


def test_an_item_that_cannot_be_done_in_time_is_not_started() -> None:
    """Neither started nor leased, once it is known how long items take; the batch says why it waits."""
    policy = Policy()
    late, early = claim("late", expires=NOW + 20 * SECOND), claim("early")
    policy.started(late, 1000)
    policy.settled(late.batch_id, late.workspace_id, 1000, 1000, took_us=30 * SECOND)

    assert policy.turn([late], NOW) is None
    assert policy.turn([late, early], NOW) == "early"
    assert policy.lease([late], {}, NOW) is None
    assert policy.outlook([late], NOW)[late.batch_id].waits is Waits.TOO_LATE
    assert policy.turn([claim("gone", expires=NOW)], NOW) is None


def test_every_batch_is_leased_before_one_is_leased_twice() -> None:
    """Then the tenant that holds fewest; the small batches of a tenant count on their own."""
    policy = Policy()
    claims = [claim("a1", "one"), claim("a2", "one"), claim("b1", "two"), claim("s", "one", size=5)]
    held: Counter[BatchId] = Counter()
    order = []
    for _ in range(6):
        chosen = policy.lease(claims, held, NOW)
        assert chosen is not None
        held[chosen] += 1
        order.append(chosen)

    assert sorted(order[:4]) == ["a1", "a2", "b1", "s"]
    assert order[0] == "s"
    assert order[4:] == ["s", "b1"]
    assert policy.lease([], {}, NOW) is None


def test_why_a_batch_waits_is_said() -> None:
    """It is worked on, or it is others' turn, or deadlines go first, or nothing is served at all."""
    policy = Policy()
    due, calm = claim("due", "one", size=60_000), claim("calm", "two", expires=NOW + 2 * DAY)
    warm(policy, [calm], 1_000.0)
    assert policy.outlook([calm], NOW)[calm.batch_id].waits is Waits.TURN

    waits = policy.outlook([due, calm], NOW)
    assert waits[calm.batch_id].waits is Waits.DEADLINES
    assert policy.turn([due, calm], NOW) == "due"
    policy.started(due, 1000)
    assert policy.outlook([due, calm], NOW)[due.batch_id].waits is Waits.NOT

    later = policy.outlook([due, calm], NOW + 10 * MINUTE)
    assert later[due.batch_id].waits is Waits.SUPPLY


def test_etas_follow_shares_and_what_items_really_cost() -> None:
    """Alone a batch of 3,600,000 at 1,000 a second takes an hour, beside an equal one two; cheap items halve it."""
    policy = Policy()
    one, two = claim("a", "one", size=3600), claim("b", "two", size=3600)
    assert Policy().outlook([one], NOW)[one.batch_id].eta_us is None
    warm(policy, [one], 1_000.0, minutes=50)

    early, likely, late = policy.outlook([one], NOW)[one.batch_id].eta_us or (0, 0, 0)
    assert early <= likely <= late <= one.expires_us
    assert likely == pytest.approx(NOW + HOUR, abs=2 * MINUTE)

    _, shared, _ = policy.outlook([one, two], NOW)[one.batch_id].eta_us or (0, 0, 0)
    assert shared == pytest.approx(NOW + 2 * HOUR, abs=4 * MINUTE)

    for _ in range(600):
        policy.started(one, 1000)
        policy.settled(one.batch_id, one.workspace_id, 1000, 500)
    _, cheaper, _ = policy.outlook([one], NOW)[one.batch_id].eta_us or (0, 0, 0)
    assert cheaper == pytest.approx(NOW + 0.5 * HOUR * 3000 / 3600, abs=3 * MINUTE)


def test_what_is_forgotten_is_gone() -> None:
    """Nothing grows with the batches that were; late news of them is taken without harm."""
    policy = Policy()
    for number in range(500):
        one = claim(f"b{number}", f"w{number}", size=10 if number % 2 else 1000)
        serve(policy, [one], 2)
        policy.forget(one.batch_id)
        policy.settled(one.batch_id, one.workspace_id, 1000, 900)
    policy.forget(BatchId("never seen"))

    assert not policy._seen
    assert not policy._tenants
    assert not policy._small
    assert len(policy._root) == 0
    assert len(policy._root._away) < 500
