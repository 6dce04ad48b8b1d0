from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import StoreError
from standby.records import DAY, BatchId, Bill, Counts, LiveBill, Tokens, UsageRow, Workspace
from standby.store.base import By, Store
from tests.store.build import NOW, commit, created, ended, leased

BIG = 9 * 10**18
"""Pico-dollars just below what 64 bits hold: two of them together do not fit."""


def bill(model: str = "m", requests: int = 1, *, charge: int = 5, unpriced: int = 0) -> Bill:
    """Make a bill whose other sums follow from the charge."""
    used = Tokens(input=3 * requests, write_5m=1, write_1h=2, read=4, output=requests)
    sums = {"plain_pico": 2 * charge, "batch_pico": charge, "charge_pico": charge}
    return Bill(model=model, requests=requests, tokens=used, unpriced=unpriced, **sums)


def live(workspace: Workspace, *, credential: str = "key-1", of: Bill | None = None) -> LiveBill:
    """Bill a live request to somebody."""
    return LiveBill(workspace_id=workspace.id, credential=credential, bill=of or bill())


async def total(store: Store) -> list[Bill]:
    """Sum up everything."""
    return [row.bill for row in await store.usage(by=())]


async def test_a_charge_is_committed_with_its_results_and_only_once(store: Store) -> None:
    """What a commit names is on the bill as soon as its results exist, and a stale commit charges nothing."""
    batch = await created(store, (4,))
    run = await leased(store, batch.id)
    first = commit(run, [0, 1], bills=(bill("a", charge=7), bill("b", charge=11)))
    assert await store.commit_segments([first], now_us=NOW) == [True]
    assert await store.commit_segments([first], now_us=NOW) == [False]
    again = commit(run, [2], start=20, bills=(bill("a", charge=13),))
    assert await store.commit_segments([again], now_us=NOW + DAY) == [True]

    found = {one.model: (one.requests, one.charge_pico) for one in await store.bills_of(batch.id)}
    assert found == {"a": (2, 20), "b": (1, 11)}


async def test_only_what_succeeded_is_on_a_bill(store: Store) -> None:
    """Bills for more or fewer results than succeeded are refused, and nothing of the commit stays."""
    batch = await created(store, (4,))
    run = await leased(store, batch.id)
    errored = Counts(succeeded=1, errored=1)
    for wrong in ((), (bill(requests=2),)):
        with pytest.raises(StoreError, match="succeeded"):
            await store.commit_segments([commit(run, [0, 1], counts=errored, bills=wrong)], now_us=NOW)
    assert await store.bills_of(batch.id) == []
    assert await store.commit_segments([commit(run, [0, 1], counts=errored, bills=(bill(),))], now_us=NOW) == [True]


async def test_a_bill_outlives_its_batch(store: Store) -> None:
    """Deletion and erasure take results, not what they cost."""
    batch = await ended(store, (3,))
    before = await store.bills_of(batch.id)
    assert before[0].requests == 3
    await store.delete_batch(batch.workspace_id, batch.id)
    await store.finish_erasure(batch.id)
    assert await store.bills_of(batch.id) == before
    assert await store.check() == []


async def test_an_unknown_batch_cost_nothing(store: Store, workspace: Workspace) -> None:
    """Live requests are nobody's batch."""
    await store.charge_live([live(workspace)], now_us=NOW)
    assert await store.bills_of(BatchId("msgbatch_none")) == []
    assert await store.bills_of(BatchId("")) == []


async def test_usage_is_grouped_as_asked(store: Store, workspace: Workspace) -> None:
    """By workspace, key, model, day and kind, in any mixture; what is not asked for is None."""
    other = await store.create_workspace("other", now_us=NOW)
    batch = await created(store, (2,))
    run = await leased(store, batch.id)
    await store.commit_segments([commit(run, [0], bills=(bill("a", charge=1),))], now_us=NOW)
    await store.charge_live(
        [live(workspace, of=bill("a", charge=10)), live(other, of=bill("b", charge=100))], now_us=NOW
    )
    await store.charge_live([live(workspace, credential="key-2", of=bill("a", charge=1000))], now_us=NOW + DAY)

    async def by(*what: By) -> list[tuple[object, ...]]:
        rows = await store.usage(by=what)
        return sorted(
            (
                *(getattr(row, one.value if one is not By.WORKSPACE else "workspace_id") for one in what),
                row.bill.charge_pico,
            )
            for row in rows
        )

    assert await by() == [(1111,)]
    assert await by(By.MODEL) == [("a", 1011), ("b", 100)]
    assert await by(By.KIND) == [("batch", 1), ("live", 1110)]
    assert await by(By.CREDENTIAL) == [("key-1", 111), ("key-2", 1000)]
    assert await by(By.DAY) == [(NOW // DAY, 111), (NOW // DAY + 1, 1000)]
    assert sorted(await by(By.WORKSPACE)) == sorted([(workspace.id, 1011), (other.id, 100)])
    (row,) = await store.usage(by=(), workspace_id=other.id)
    assert row == UsageRow(bill=replace(bill("b", charge=100), model=""))


async def test_usage_is_cut_by_days(store: Store, workspace: Workspace) -> None:
    """From a day on, up to but without another."""
    for day in range(4):
        await store.charge_live([live(workspace, of=bill(charge=10**day))], now_us=NOW + day * DAY)
    first = NOW // DAY
    (found,) = await store.usage(by=(), since_day=first + 1, until_day=first + 3)
    assert found.bill.charge_pico == 110
    assert await store.usage(by=(), since_day=first + 9) == []


async def test_unknown_prices_are_counted_and_not_summed(store: Store, workspace: Workspace) -> None:
    """A request without a price stands beside the sum, never in it."""
    await store.charge_live([live(workspace), live(workspace, of=bill(charge=0, unpriced=1))], now_us=NOW)
    (found,) = await total(store)
    assert (found.requests, found.unpriced, found.charge_pico) == (2, 1, 5)


async def test_large_sums_of_money_do_not_overflow(store: Store, workspace: Workspace) -> None:
    """Sums beyond 64 bits of pico-dollars come out exactly."""
    other = await store.create_workspace("other", now_us=NOW)
    huge = Bill(model="m", requests=1, tokens=Tokens(), plain_pico=BIG, batch_pico=BIG, charge_pico=BIG - 1)
    await store.charge_live([live(workspace, of=huge), live(other, of=huge)], now_us=NOW)
    (found,) = await total(store)
    assert (found.plain_pico, found.charge_pico) == (2 * BIG, 2 * BIG - 2)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**12), st.booleans()), max_size=12))
def test_bills_of_one_model_add_up(parts: list[tuple[str, int, bool]]) -> None:
    """Adding bills adds every column."""
    bills = [bill(charge=0, unpriced=1) if unpriced else bill(charge=charge) for _, charge, unpriced in parts]
    whole = sum(bills[1:], bills[0]) if bills else bill()
    for column in ("requests", "charge_pico", "plain_pico", "unpriced"):
        assert getattr(whole, column) == sum(getattr(one, column) for one in bills or [bill()])
