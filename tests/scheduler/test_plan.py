from __future__ import annotations

import io
import itertools
import json
import os.path
import random
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.engines.simulated.chains import chain_of
from standby.engines.simulated.prefixes import Shared
from standby.engines.simulated.tokens import count_prompt
from standby.records import PlanFacts
from standby.scheduler import plan as planning
from standby.scheduler.plan import Asked, Plan, arrange, runs_of
from standby.scheduler.prompts import read_prompt
from standby.scheduler.sharing import Chains, common_bytes, in_submit_order, sorted_by_prefix
from standby.scheduler.split import Found, find_items, plan_of
from standby.wire.messages import MessageParams

Params = dict[str, Any]


def ask(text: str, **more: Any) -> Params:
    """Make the params of a question."""
    return {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": text}], **more}


def planned(items: Sequence[object], *, order: str = "shared") -> tuple[Found, Plan]:
    """Plan a batch of these params."""
    requests = [{"custom_id": f"i{number}", "params": params} for number, params in enumerate(items)]
    body = io.BytesIO(json.dumps({"requests": requests}).encode())
    found = find_items(body, max_items=len(items))
    return found, plan_of(found, body, order=order)


def texts_of(items: Sequence[object]) -> list[bytes]:
    """Return the prompts of these params as a plan sees them."""
    return [read_prompt(json.dumps(params).encode()).text for params in items]


def radix_bound(texts: Sequence[bytes]) -> int:
    """Count the bytes that any order could share at most: all of them less the nodes of their trie."""
    trie: dict[int, Any] = {}
    nodes = 0
    for text in texts:
        place = trie
        for byte in text:
            if byte not in place:
                place[byte] = {}
                nodes += 1
            place = place[byte]
    return sum(map(len, texts)) - nodes


def words(seed: object, count: int) -> str:
    """Write words that hardly come again, about 1.3 tokens each."""
    source = random.Random(str(seed))
    return " ".join(f"w{source.randrange(10**4)}" for _ in range(count))


def grouped() -> list[Params]:
    """W1: 10 groups of 30 with a long common beginning, mixed."""
    items = [ask(words((group, n), 48), system=words(group, 384)) for group in range(10) for n in range(30)]
    return random.Random(1).sample(items, len(items))


def tree() -> list[Params]:
    """W2: 4 templates, 3 documents each, 25 questions to each, mixed; the document and the question are one text."""
    items = [
        ask(words((a, b), 300) + words((a, b, n), 40), system=words(a, 200))
        for a, b, n in itertools.product(range(4), range(3), range(25))
    ]
    return random.Random(2).sample(items, len(items))


def unique() -> list[Params]:
    """W3: 300 prompts that share nothing."""
    return [ask(words(n, 96), max_tokens=16 + n % 5) for n in range(300)]


def shared_bytes(texts: Sequence[bytes], order: Sequence[int]) -> list[int]:
    """Count what each prompt shares with the one before it in an order, byte by byte."""
    pairs = ([texts[a], texts[b]] for a, b in itertools.pairwise(order))
    return [0, *(len(os.path.commonprefix(pair)) for pair in pairs)]  # noqa: RUF071 - prompts, no paths


@pytest.mark.parametrize("workload", [grouped, tree], ids=["groups", "tree"])
def test_a_plan_reaches_the_bound_of_the_radix_tree(workload: Any) -> None:
    """However the items are mixed, at least 99 % of all that any order could share is shared."""
    items = workload()
    texts = texts_of(items)

    _, plan = planned(items)

    bound = radix_bound(texts)
    assert sum(shared_bytes(texts, plan.items)) >= 0.99 * bound
    assert 0.99 * bound / 4 - len(items) <= plan.facts.shared_tokens <= bound / 4


def test_what_is_promised_is_what_a_prefix_cache_reuses() -> None:
    """The simulator's shared cache, asked in the order of the plan, reuses what `shared` says, within 3 points."""
    for items in (grouped(), tree()):
        _, plan = planned(items)
        cache, reused, prompts = Shared(capacity=5_000, at_once=False), 0, 0
        for item in plan.items:
            params = msgspec.convert(items[item], MessageParams)
            tokens = count_prompt(params)
            admitted = cache.admit(chain_of(params, 16), tokens)
            assert admitted is not None
            cache.read(admitted[0])
            cache.release(admitted[0])
            reused, prompts = reused + admitted[1], prompts + tokens

        assert reused / prompts == pytest.approx(plan.facts.shared_tokens / plan.facts.prompt_tokens, abs=0.03)


def test_groups_are_the_level_that_saves_most() -> None:
    """Ten systems make ten groups; in the tree the twelve documents do, for two levels would save less as one."""
    for items, groups, size in ((grouped(), 10, 30), (tree(), 12, 25)):
        _, plan = planned(items)

        assert plan.facts.groups == groups
        assert [len(list(members)) for _, members in itertools.groupby(plan.groups)] == [size] * groups
        assert list(dict.fromkeys(plan.groups)) == list(range(1, groups + 1))


def test_a_few_more_common_words_make_no_group_of_their_own() -> None:
    """All items share a long system prompt and some pairs a little more: that is one group."""
    items = [ask(words(n // 2, 12) + words(n, 100), system=words("s", 400)) for n in range(60)]

    _, plan = planned(items)

    assert set(plan.groups) == {1}
    assert plan.facts.groups == 1


def test_nothing_shared_is_said_of_a_batch_of_unique_prompts() -> None:
    """There is no group, nothing is shared, and the longest answers go first, else as submitted."""
    items = unique()

    _, plan = planned(items)

    assert plan.facts.groups == plan.facts.shared_tokens == 0
    assert list(plan.items) == sorted(range(300), key=lambda item: -items[item]["max_tokens"])


def test_a_large_batch_of_unique_prompts_goes_longest_first_too() -> None:
    """Where no locality is at stake the size does not matter."""
    items = [ask(words(n, 12), max_tokens=16 + n % 3) for n in range(planning.SMALL + 10)]

    _, plan = planned(items)

    assert [items[item]["max_tokens"] for item in plan.items] == sorted((16 + n % 3 for n in range(522)), reverse=True)


def test_groups_of_a_large_batch_with_long_answers_to_short_prompts_go_first() -> None:
    """Where much is decoded for what is read a group goes first, and groups alike stay as they were submitted."""
    reading = [ask(words((g, n), 300), system=words(g, 200)) for g in range(3) for n in range(60)]
    writing = [ask(words((g, n), 10), system=words(g, 200), max_tokens=256) for g in "abcdef" for n in range(60)]

    _, plan = planned(reading + writing)

    assert [group for group, _ in itertools.groupby(item // 60 for item in plan.items)] == [3, 4, 5, 6, 7, 8, 0, 1, 2]


def test_the_longest_answers_of_a_group_go_first_in_a_small_batch() -> None:
    """Inside a group an item may go first without any loss."""
    items = [ask(words(n, 20), system=words("s", 200), max_tokens=16 * (1 + n % 4)) for n in range(40)]

    _, plan = planned(items)

    longest = [items[item]["max_tokens"] for item in plan.items]
    assert longest == sorted(longest, reverse=True)
    assert plan.facts.groups == 1


def test_costs_count_what_is_computed_what_is_cached_and_what_is_written() -> None:
    """Uncached prompt tokens, a tenth of the cached ones, twice the expected answer, at most 256 tokens."""
    items = [ask("a" * 4000 + f"{n}", max_tokens=64 if n else 9999) for n in range(2)]
    prompt = len(texts_of(items)[0]) // 4
    shared = (len(texts_of(items)[0]) - len('1"}]') - 0) // 4

    _, plan = planned(items)

    assert list(plan.shared) == [0, shared]
    assert list(plan.costs) == [prompt + 2 * 256, prompt - shared + shared // 10 + 2 * 64]
    assert plan.facts == PlanFacts(prompt_tokens=2 * prompt, shared_tokens=shared, groups=1)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"model": "m"},
        {"messages": []},
        {"model": 7, "messages": [1] * 600},
        {"model": "m", "messages": "x" * 2000},
        {"model": "m", "messages": {"role": "x" * 2000}},
        {"model": "m", "messages": None, "system": "s" * 2000},
        {"model": "m", "messages": 5, "tools": [[]] * 999, "max_tokens": "many"},
    ],
)
def test_malformed_params_are_planned_alone(params: Params) -> None:
    """An item that will be errored is in the plan, in no group, and shares nothing, even with its like."""
    items: list[Params] = [params, ask("x" * 900), params, ask("x" * 900)]

    _, plan = planned(items)

    at = {item: place for place, item in enumerate(plan.items)}
    assert sorted(plan.items) == [0, 1, 2, 3]
    assert [plan.groups[at[item]] for item in range(4)] == [0, 1, 0, 1]
    assert [plan.costs[at[item]] for item in (0, 2)] == [0, 0]
    assert [plan.shared[at[item]] for item in (0, 2)] == [0, 0]


@pytest.mark.parametrize("tokens", [-5, 2**70, 1.5, None, True, "7", [1]])
def test_any_max_tokens_is_taken(tokens: object) -> None:
    """What is no count will be errored later; here it only must not break the plan."""
    _, plan = planned([ask("hello", max_tokens=tokens), ask("hello")])

    assert sorted(plan.items) == [0, 1]
    assert all(0 <= cost < 2**32 for cost in plan.costs)


def test_cache_breakpoints_change_no_prompt() -> None:
    """Wherever a breakpoint stands, first or last in its block, the prompt is the same without it."""
    marker = {"type": "ephemeral", "ttl": "1h"}
    plain: Params = {"type": "text", "text": 'said "cache_control": {} ' + words(1, 50)}
    marked = [plain, {**plain, "cache_control": marker}, {"cache_control": marker, **plain}]

    texts = texts_of([{"model": "m", "messages": [{"role": "user", "content": [block]}]} for block in marked])

    assert texts[0] == texts[1] == texts[2]
    assert b"cache_control" in texts[0]


def test_an_image_weighs_the_same_whatever_its_size_and_equals_only_itself() -> None:
    """Megabytes of base 64 are some 1,500 tokens, and two different images share nothing of them."""

    def image(data: str) -> Params:
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return {"model": "m", "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}

    one, large, same = texts_of([image("A" * 8_000), image("A" * 400_000), image("A" * 8_000)])

    assert one == same
    assert len(one) == len(large) < 7_000
    assert common_bytes(one, large) < 200


def test_what_changes_the_render_keeps_prompts_apart() -> None:
    """Another model, tool choice or thinking shares nothing, however equal the texts."""
    same = "x" * 3000
    items = [ask(same), ask(same, model="n"), ask(same, tool_choice={"type": "any"}), ask(same, thinking={"type": "x"})]

    _, plan = planned(items)

    assert plan.facts.groups == plan.facts.shared_tokens == 0


def test_tools_come_before_the_system_prompt() -> None:
    """Prompts are compared in the order in which engines render them, whatever the order of the fields."""
    tools = [{"name": "t", "description": words("t", 200)}]
    items = [{"system": f"{n}", "tools": tools, **ask("hello")} for n in range(4)]

    _, plan = planned(items)

    assert plan.facts.groups == 1
    assert min(plan.shared[1:]) >= len(json.dumps(tools)) // 4


pieces = st.sampled_from(["a" * 70, "b" * 300, "c" * 700, "c" * 701, "d" * 1100, "é" * 40, "x", "y", "tail"])
many = st.lists(
    st.tuples(st.lists(pieces, max_size=6).map("".join), st.integers(0, 300), st.sampled_from(["m", "n"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(many)
def test_every_plan_is_a_permutation_that_tells_the_truth(found: list[tuple[str, int, str]]) -> None:
    """Every item once; groups together; what is shared is a common beginning and no more than the prompt."""
    items = [ask(text, max_tokens=most, model=model) for text, most, model in found]
    texts = texts_of(items)
    items_found, plan = planned(items)

    assert sorted(plan.items) == list(range(len(items)))
    true = shared_bytes(texts, plan.items)
    assert all(4 * shared <= common for shared, common in zip(plan.shared, true, strict=True))
    models = [items[item]["model"] for item in plan.items]
    assert all(not plan.shared[n] or models[n] == models[n - 1] for n in range(len(items)))
    named = [group for group, _ in itertools.groupby(plan.groups) if group]
    assert len(named) == len(set(named)) == plan.facts.groups
    for group in named:
        members = [texts[item] for item, its in zip(plan.items, plan.groups, strict=True) if its == group]
        assert len(members) > 1
        assert min(common_bytes(members[0], other) for other in members) >= planning.GROUP_BYTES
    assert plan.facts.prompt_tokens == sum(length // 4 for length in items_found.prompts)
    assert plan.facts.shared_tokens == sum(plan.shared)


@settings(max_examples=200, deadline=None)
@given(many)
def test_the_sorted_order_shares_all_that_can_be_shared(found: list[tuple[str, int, str]]) -> None:
    """Prompts of one kind with equal first bytes, once sorted, share exactly what the radix tree of all allows."""
    texts = [("z" * 64 + text).encode() for text, _, _ in found]
    chains = Chains()
    for text in texts:
        chains.add(text, 0)

    order, shared = sorted_by_prefix(chains, texts.__getitem__)

    assert sum(shared) == radix_bound(texts)
    assert list(shared) == shared_bytes(texts, order)
    assert list(in_submit_order(chains, texts.__getitem__)[1]) == shared_bytes(texts, range(len(texts)))


@settings(max_examples=100, deadline=None)
@given(many)
def test_moving_what_may_move_loses_almost_nothing(found: list[tuple[str, int, str]]) -> None:
    """Beside the bound a plan may lose what folded nodes would have saved: a few bytes an item, or 1 %."""
    items = [ask(text, max_tokens=most) for text, most, _ in found]
    texts = texts_of(items)
    _, plan = planned(items)

    loss = radix_bound(texts) - sum(shared_bytes(texts, plan.items))
    assert loss <= 64 * len(items) + 0.01 * sum(map(len, texts))


def test_long_conversations_each_a_turn_longer_than_the_last_are_planned() -> None:
    """A tree as deep as it has items needs no deep stack, and each item shares all of the one before it."""
    turn = "t" * 300
    chains = Chains()
    texts = [(turn * n).encode() for n in range(1, 1500)]
    for text in texts:
        chains.add(text, 0)

    order, shared = sorted_by_prefix(chains, texts.__getitem__)
    plan = arrange(order, shared, Asked(prompts=[len(text) for text in texts], max_tokens=[1] * len(texts)))

    assert list(order) == sorted(plan.items) == list(range(len(texts)))
    assert plan.facts.shared_tokens == sum(shared) // 4 == sum(len(text) // 4 for text in texts[:-1])


def test_what_is_held_of_an_item_is_less_than_100_bytes() -> None:
    """The columns that grow with the body hold at most 100 bytes an item of 2,400 bytes."""
    found = Found()
    text = words(1, 400)[:2350]
    for number in range(1000):
        found.add(f"i{number}", 0, json.dumps(ask(f"{number}: {text}")).encode())

    columns = [found.offsets, found.lengths, found.crcs, found.prompts, found.max_tokens, *found.chains.columns()]
    held = sum(column.itemsize * len(column) for column in columns)
    assert held <= 100 * 1000


lengths = st.lists(st.integers(min_value=1, max_value=3 << 20), min_size=1, max_size=300)


def plain(lengths: Sequence[int], groups: Sequence[int] | None = None) -> Plan:
    """Make a plan of items in submit order, a cost token each."""
    size = len(lengths)
    return Plan(
        items=array("I", range(size)),
        groups=array("I", groups or [0] * size),
        shared=array("I", [0] * size),
        costs=array("I", [1] * size),
        facts=PlanFacts(),
    )


@given(lengths, st.lists(st.integers(1, 80), max_size=20))
def test_runs_cover_the_plan_without_gaps_and_stay_small(lengths: list[int], sizes: list[int]) -> None:
    """Runs follow each other, hold at most 256 items and 2 MiB unless one item alone is larger, and know their cost."""
    groups = [group for group, size in enumerate(sizes, start=1) for _ in range(size)][: len(lengths)]
    groups += [0] * (len(lengths) - len(groups))
    runs = list(runs_of(plain(lengths, groups), lengths))

    assert [run.first for run in runs] == [sum(run.count for run in runs[:n]) for n in range(len(runs))]
    assert sum(run.count for run in runs) == len(lengths)
    assert all(run.count == 1 or sum(lengths[run.first : run.first + run.count]) <= planning.RUN_BYTES for run in runs)
    assert all(run.count == run.cost <= planning.RUN_ITEMS_MAX for run in runs)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([30] * 10, [30] * 10),
        ([10] * 6, [20, 20, 20]),
        ([17, 62, 1], [17, 62, 1]),
        ([100, 5], [16, 16, 16, 52, 5]),
        ([15, 60], [16, 59]),
    ],
)
def test_a_run_ends_beside_a_group_rather_than_in_it(sizes: list[int], expected: list[int]) -> None:
    """A run grows to the end of a group, or ends before it, as long as it stays between 16 and four times its size."""
    groups = [group for group, size in enumerate(sizes, start=1) for _ in range(size)]

    assert [run.count for run in runs_of(plain([100] * len(groups), groups), [100] * len(groups))] == expected


def test_a_full_batch_has_about_400_runs() -> None:
    """100,000 items make 400 runs (design 3: 400 to 1,600), also where groups of 30 are kept whole."""
    lengths = [2_500] * 100_000

    assert len(list(runs_of(plain(lengths), lengths))) == 400
    assert 400 <= len(list(runs_of(plain(lengths, [1 + n // 30 for n in range(100_000)]), lengths))) <= 450
