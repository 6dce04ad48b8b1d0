"""The adaptive controller: what it never does, how it settles, and how it takes engines that lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.engines.base import Signals
from standby.records import SECOND, Load
from standby.scheduler.admission import Adaptive, Aims, Seen
from standby.scheduler.slowdown import Slowdown

TICK_US = SECOND // 4
START_US = 1_000 * SECOND


@dataclass
class Machine:
    """An engine that takes `base + each * n` for a step of n requests, filled as the controller allows.

    Items end after `life_s`, and the gap is that of the last second, as it is measured.
    """

    slots: int = 128
    base_s: float = 0.010
    each_s: float = 0.0002
    life_s: float = 8.0
    says: Callable[[Machine], Signals | None] = lambda _: None
    tells_gaps: bool = True
    others: int = 0
    live: int = 0
    now_us: int = START_US
    items: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    made: float = 0.0
    aborted: int = 0

    @property
    def load(self) -> Load:
        """What is ours."""
        return Load(live=self.live, batch=len(self.items), slots=self.slots)

    @property
    def step_s(self) -> float:
        """The time of a token now."""
        return self.base_s + self.each_s * (self.live + len(self.items) + self.others)

    def run(self, controller: Adaptive, seconds: float) -> list[int]:
        """Tick after tick; return the batch items in flight at each."""
        trace = []
        for _ in range(int(seconds * SECOND / TICK_US)):
            self.now_us += TICK_US
            self.items = [ends_us for ends_us in self.items if ends_us > self.now_us]
            busy = self.live + len(self.items)
            self.gaps = [*self.gaps[-3:], self.step_s] if busy else []
            gap_s = sum(self.gaps) / len(self.gaps) if self.gaps and self.tells_gaps else None
            controller.see(Seen(now_us=self.now_us, load=self.load, gap_s=gap_s, signals=self.says(self)))
            made = len(self.items) * TICK_US / SECOND / self.step_s
            self.made += made
            controller.produced(int(made))
            for _ in range(controller.surplus(self.load)):
                self.items.pop()
                self.aborted += 1
                controller.wasted(50)
            while len(self.items) < controller.allowed(self.load):
                self.items.append(self.now_us + int(self.life_s * SECOND) + len(self.items) * 37_000)
            trace.append(len(self.items))
        return trace


def true_signals(machine: Machine) -> Signals:
    """Tell the truth."""
    return Signals(
        running=machine.live + len(machine.items) + machine.others,
        waiting=0,
        kv_used=0.2,
        output_tokens=machine.made + machine.others * (machine.now_us - START_US) / SECOND,
    )


def zero(_: Machine) -> Signals:
    """Be stuck at nothing."""
    return Signals(running=0, waiting=0, kv_used=0.0, output_tokens=0)


def full(machine: Machine) -> Signals:
    """Say that all seats are taken and the cache is full, whatever runs."""
    return Signals(running=machine.slots, waiting=3, kv_used=1.0, output_tokens=machine.made)


def frozen(_: Machine) -> Signals:
    """Tell what was true long ago."""
    return Signals(running=60, waiting=5, kv_used=0.9, output_tokens=12_345)


LIES = {"missing": lambda _: None, "zero": zero, "full": full, "stale": frozen, "true": true_signals}

loads = st.builds(Load, live=st.integers(0, 200), batch=st.integers(0, 200), slots=st.integers(1, 128))
gaps = st.none() | st.floats(0.0001, 100)
told = st.none() | st.builds(
    Signals,
    running=st.none() | st.floats(0, 300),
    waiting=st.none() | st.floats(0, 300),
    kv_used=st.none() | st.floats(0, 1),
    output_tokens=st.none() | st.floats(0, 1e9),
)
ticks = st.lists(st.tuples(loads, gaps, told, st.integers(0, 3), st.floats(0, 1)), max_size=40)


@settings(max_examples=200)
@given(ticks, st.integers(0, 8), st.integers(1, 128), st.integers(0, 16))
def test_whatever_it_saw_it_keeps_within_its_bounds(
    seen: list[tuple[Load, float | None, Signals | None, int, float]], live_slots: int, slots: int, most: int
) -> None:
    """Live slots stay free, fewer items run beside more live requests, and an idle endpoint always gets some work."""
    controller = Adaptive(Aims(live_slots=live_slots, most=most))
    for number, (load, gap_s, signals, rejected, push) in enumerate(seen):
        now_us = START_US + number * TICK_US
        controller.see(Seen(now_us=now_us, load=load, gap_s=gap_s, signals=signals, rejected=rejected, push=push))

    allowed = [controller.allowed(Load(live=live, slots=slots)) for live in range(slots + 2)]

    kept = min(live_slots, slots - 1)
    assert all(0 <= cap <= max(0, slots - live - kept) for live, cap in enumerate(allowed))
    assert not most or max(allowed) <= most
    assert allowed == sorted(allowed, reverse=True)
    assert allowed[0] >= (1 if slots > kept else 0)
    for live in (0, slots // 2):
        load = Load(live=live, batch=slots, slots=slots)
        assert 0 <= controller.surplus(load) <= load.batch
        assert live or not controller.surplus(load)


def test_the_same_is_decided_again() -> None:
    """From the same that was seen, the same."""
    assert Machine().run(Adaptive(Aims()), 60) == Machine().run(Adaptive(Aims()), 60)


def test_an_idle_engine_gives_the_share_that_was_asked_for() -> None:
    """At least three quarters of what all slots would give, within half a minute, and nearly still from then on."""
    machine = Machine()
    trace = machine.run(Adaptive(Aims()), 60)

    settled = trace[120:]
    rate = (n := sum(settled) / len(settled)) / (machine.base_s + machine.each_s * n)
    most = machine.slots / (machine.base_s + machine.each_s * machine.slots)
    assert 0.75 <= rate / most <= 0.95
    assert max(trace) <= 1.25 * n
    assert max(settled) - min(settled) <= 0.1 * n


def test_an_engine_that_is_no_slower_when_full_is_filled() -> None:
    """All but the live slots, as with an API that has room for all."""
    assert Machine(each_s=0.0).run(Adaptive(Aims(live_slots=2)), 60)[-1] == 126


def test_an_operator_s_target_is_kept() -> None:
    """The time between tokens settles below it, and near it."""
    machine = Machine()
    machine.run(Adaptive(Aims(target_s=0.016)), 60)
    assert 0.014 <= machine.step_s <= 0.016 * 1.05


def test_a_burst_gets_its_room_at_once_and_batches_come_back_after_it() -> None:
    """The newest items give way within a second, few tokens are lost, and three quarters are back ten seconds later."""
    machine, controller = Machine(), Adaptive(Aims())
    before = machine.run(controller, 120)[-1]

    machine.live = 60
    burst = machine.run(controller, 5)
    after_burst = machine.aborted
    machine.run(controller, 55)
    machine.live = 0
    after = machine.run(controller, 10)[-1]

    assert burst[3] <= before / 2
    assert 50 * machine.aborted <= 0.05 * machine.made
    assert machine.aborted <= after_burst + 2
    assert after >= 0.75 * before


def test_others_who_use_the_engine_are_counted() -> None:
    """What their requests take is not given to batches."""
    alone = Machine(says=true_signals).run(Adaptive(Aims()), 60)[-1]
    beside = Machine(says=true_signals, others=40).run(Adaptive(Aims()), 60)[-1]
    assert beside <= alone - 30


@pytest.mark.parametrize("lie", sorted(LIES))
def test_lying_metrics_neither_stop_nor_open_it(lie: str) -> None:
    """After a minute and a half at most they are found out: batches get what the gaps allow, with or without live."""
    machine, controller = Machine(says=LIES[lie]), Adaptive(Aims())
    trace = machine.run(controller, 120)
    assert min(trace[4:]) >= 1
    assert 40 <= trace[-1] <= 110

    machine.live = 60
    assert machine.run(controller, 20)[-1] <= 30


@pytest.mark.parametrize("lie", sorted(LIES))
def test_without_gaps_little_is_admitted_and_never_nothing(lie: str) -> None:
    """An eighth of the slots, unless the engine's own metrics are there and make sense."""
    trace = Machine(says=LIES[lie], tells_gaps=False).run(Adaptive(Aims()), 60)
    assert trace[-1] >= 1
    assert lie == "true" or trace[-1] <= 128 // 8


def test_an_engine_that_stands_still_gets_no_more() -> None:
    """As its gap grows and grows, what is in flight goes down to the floor."""
    machine, controller = Machine(life_s=1.0), Adaptive(Aims())
    machine.run(controller, 30)
    machine.base_s = 5.0
    machine.gaps = []
    assert machine.run(controller, 30)[-1] <= 4


def test_refusals_cut_the_budget_once_a_flight() -> None:
    """Several of one moment count once; later ones count again; then it grows back step by step."""
    controller, machine = Adaptive(Aims()), Machine(each_s=0.0)
    before = machine.run(controller, 60)[-1]
    for number in range(4):
        now_us = machine.now_us + (number + 1) * TICK_US
        controller.see(Seen(now_us=now_us, load=machine.load, gap_s=0.01, rejected=2))
    once = controller.allowed(machine.load)
    assert 0.6 * before <= once <= 0.75 * before
    machine.now_us += 4 * TICK_US
    machine.items = machine.items[:once]
    grown = machine.run(controller, 5)
    assert once < grown[-1] <= once + 15


def test_deadlines_raise_the_floor() -> None:
    """With live traffic that leaves nothing else, batches in danger keep their share, but no live slot."""
    controller, machine = Adaptive(Aims(live_slots=4)), Machine(live=100)
    machine.run(controller, 30)
    calm = controller.allowed(machine.load)
    controller.see(Seen(now_us=machine.now_us + TICK_US, load=machine.load, gap_s=machine.step_s, push=1.0))
    pressed = controller.allowed(machine.load)
    assert calm < pressed <= 128 - 100 - 4


def burst(controller: Adaptive, machine: Machine, live: int, seconds: float) -> None:
    """Let so many live requests be there for a while."""
    machine.live = live
    machine.run(controller, seconds)


def test_a_burst_keeps_the_seats_of_its_peak() -> None:
    """A moment of fewer live requests gives batches no seat that the next ones want; after the burst they come back."""
    machine, controller = Machine(slots=8, base_s=0.008, each_s=0.002, life_s=1.5), Adaptive(Aims())
    machine.run(controller, 30)
    burst(controller, machine, 7, 5)
    machine.live = 2
    machine.run(controller, 1)

    assert controller.allowed(Load(live=2, batch=0, slots=8)) == 0

    machine.live = 0
    machine.run(controller, 40)
    assert len(machine.items) >= 4


def test_batches_are_not_starved_by_a_burst_without_end() -> None:
    """After a minute without a batch answer one item gets its seat, and deadlines that press get theirs."""
    machine, controller = Machine(slots=8, base_s=0.008, each_s=0.002, life_s=1.5), Adaptive(Aims())
    machine.run(controller, 30)
    burst(controller, machine, 7, 10)
    machine.items.clear()
    at = Load(live=5, batch=0, slots=8)
    assert controller.allowed(at) == 0
    for _ in range(4 * 61):
        machine.now_us += TICK_US
        controller.see(Seen(now_us=machine.now_us, load=at, gap_s=0.02))

    assert controller.allowed(at) == 1


def test_prompts_take_little_time_of_a_burst() -> None:
    """Each costs what prompts of its length took so far; the next one waits until that was paid off."""
    machine, controller = Machine(slots=128), Adaptive(Aims())
    machine.run(controller, 30)
    for _ in range(9):
        controller.was_read(1000, 1.0 + 1.5 * machine.step_s)  # a millisecond a token
    burst(controller, machine, 100, 5)
    load = Load(live=100, batch=0, slots=128)
    assert controller.takes_prompt(load, 0, 200)
    controller.sent(200)
    assert not controller.takes_prompt(load, 0, 200)
    seconds = 0
    while not controller.takes_prompt(load, 0, 200):
        machine.run(controller, 1)
        seconds += 1

    assert 60 <= seconds <= 100  # 200 ms, less what was left, at two thousandths of the time


def test_prompts_come_one_by_one_beside_live_traffic() -> None:
    """And many together where nobody waits for a token."""
    controller = Adaptive(Aims())
    busy, calm = Load(live=3, slots=64), Load(slots=64)
    controller.see(Seen(now_us=START_US, load=calm))
    assert controller.takes_prompt(calm, 4000, 4000)
    assert not controller.takes_prompt(calm, 8000, 4000)
    assert controller.takes_prompt(busy, 0, 100_000)
    assert not controller.takes_prompt(busy, 10, 10)


@given(st.floats(0.001, 1), st.floats(0.00001, 0.5), st.integers(4, 256))
def test_the_line_is_found(alone_s: float, share: float, slots: int) -> None:
    """From gaps at growing loads, the time alone, the time of one more, and the load that gives a share of all."""
    each_s, slowdown = alone_s * share, Slowdown()
    for load in range(1, slots + 1):
        slowdown.learn(load, alone_s + each_s * (load - 1), START_US)
    assert slowdown.alone_s == pytest.approx(alone_s, rel=0.01)
    assert slowdown.each_s == pytest.approx(each_s, rel=0.01)
    most = slowdown.most_for(0.8, slots)
    full = slots / (alone_s + each_s * (slots - 1))
    assert most / (alone_s + each_s * (most - 1)) == pytest.approx(0.8 * full, rel=0.03)
    assert slowdown.power(most, slots) == pytest.approx(0.8, rel=0.03)
