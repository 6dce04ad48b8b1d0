"""Where the breakpoints of a prompt lie, and what usage they make (contract 9)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidParams
from standby.records import Rules
from standby.wire.caching import (
    MEDIA_BYTES,
    UNMARKED,
    Layout,
    Scale,
    Split,
    Ttl,
    account,
    fitted,
    is_marked,
    layout,
    usage_parts,
)
from standby.wire.messages import MessageParams, Usage, decode_params

HOUR = {"type": "ephemeral", "ttl": "1h"}
SHORT = {"type": "ephemeral"}
TOOL = {"name": "look_up", "input_schema": {"type": "object"}}
OTHER_TOOL = {"name": "add_up", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
PIXEL: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF: dict[str, Any] = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
}


def text(words: str, control: dict[str, str] | None = None) -> dict[str, Any]:
    """A block of text."""
    block: dict[str, Any] = {"type": "text", "text": words}
    return block if control is None else {**block, "cache_control": control}


def user(*blocks: str | dict[str, Any]) -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: str | dict[str, Any]) -> dict[str, Any]:
    """An assistant's turn."""
    return {**user(*blocks), "role": "assistant"}


def use(number: int, **more: Any) -> dict[str, Any]:
    """A call."""
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "look_up", "input": {"n": number}, **more}


def result(number: int, content: Any = "found", **more: Any) -> dict[str, Any]:
    """Its result."""
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, **more}


def params(**fields: Any) -> MessageParams:
    """Params as an engine gets them."""
    whole = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [user("go on")], **fields}
    return decode_params(json.dumps(whole).encode(), rules=Rules(), batch=False)


def laid(**fields: Any) -> Layout:
    """The layout of such params."""
    return layout(params(**fields))


def marked(whole: Layout) -> list[tuple[int, str | None]]:
    """Which blocks carry which breakpoints."""
    return [(number, whole.blocks[number].marker) for number in whole.markers]


def test_a_prompt_without_breakpoints_is_not_looked_at() -> None:
    """Most requests have none, and pay nothing for caching."""
    whole = params(system="be brief", tools=[TOOL])
    assert layout(whole) is UNMARKED
    assert not is_marked(whole)


def test_blocks_stand_in_the_order_of_the_prompt() -> None:
    """Tools, then system, then messages, whatever the order of the keys."""
    whole = laid(
        messages=[user("a", text("b", SHORT)), assistant("c"), user("d")],
        system=[text("s", HOUR)],
        tools=[{**TOOL, "cache_control": HOUR}, OTHER_TOOL],
    )
    assert marked(whole) == [(0, "1h"), (2, "1h"), (4, "5m")]
    assert [block.position for block in whole.blocks] == list(range(7))
    ends = [block.end for block in whole.blocks]
    assert ends == sorted(ends)
    assert ends[-1] == whole.size


def test_the_automatic_breakpoint_takes_the_last_block_that_can_carry_one() -> None:
    """It walks back over thinking, which cannot be marked; a string is a block of text."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    whole = laid(messages=[user("a"), assistant("b", thought)], cache_control=HOUR)
    assert marked(whole) == [(1, "1h")]
    whole = laid(messages=[{"role": "user", "content": "a"}], system="s", cache_control=SHORT)
    assert marked(whole) == [(1, "5m")]
    whole = laid(messages=[user("a"), {"role": "assistant", "content": ""}], cache_control=SHORT)
    assert marked(whole) == [(0, "5m")]


def test_the_automatic_breakpoint_walks_back_into_the_system_prompt_and_the_tools() -> None:
    """Where no block of the messages can carry it; where none can at all, nothing is cached."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    only_thought = [assistant(thought)]
    assert marked(laid(messages=only_thought, system=[text("s")], tools=[TOOL], cache_control=SHORT)) == [(1, "5m")]
    assert marked(laid(messages=only_thought, tools=[TOOL], cache_control=SHORT)) == [(0, "5m")]
    assert marked(laid(messages=only_thought, cache_control=SHORT)) == []
    with pytest.raises(InvalidParams, match="cache_control"):
        params(messages=only_thought, system=[text("s", HOUR)], cache_control=SHORT)


def test_the_automatic_breakpoint_changes_nothing_where_one_stands_already() -> None:
    """Four explicit ones, the last on the last block, are not too many then."""
    blocks = [text(str(n), SHORT) for n in range(4)]
    assert laid(messages=[user(*blocks)], cache_control=SHORT) == laid(messages=[user(*blocks)])


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [user(text("a", SHORT))], "cache_control": HOUR},
        {"messages": [user(text("a", HOUR)), {"role": "assistant", "content": ""}], "cache_control": SHORT},
        {"messages": [user(*[text(str(n), SHORT) for n in range(4)], "last")], "cache_control": SHORT},
    ],
)
def test_the_automatic_breakpoint_is_refused_where_it_contradicts(fields: dict[str, Any]) -> None:
    """Another lifetime on the same block, or a fifth breakpoint (contract 9.1, rule 4)."""
    with pytest.raises(InvalidParams, match="cache_control"):
        params(**fields)


def test_runs_of_calls_and_of_results_are_one_position_each() -> None:
    """Other blocks count one by one."""
    whole = laid(
        messages=[
            user("a"),
            assistant("b", use(1), use(2), use(3)),
            user(result(1), result(2), result(3), text("c", SHORT)),
        ]
    )
    assert [block.position for block in whole.blocks] == [0, 1, 2, 2, 2, 3, 3, 3, 4]


def test_parts_of_a_result_can_carry_breakpoints() -> None:
    """Each part has a place of its own before the end of its result, at the position of the result."""
    parts = [text("one", HOUR), text("two")]
    whole = laid(messages=[user("a"), assistant(use(1)), user(result(1, parts), text("b", SHORT))])
    assert marked(whole) == [(2, "1h"), (5, "5m")]
    assert [block.position for block in whole.blocks] == [0, 1, 2, 2, 2, 3]
    plain = laid(messages=[user("a"), assistant(use(1)), user(result(1, [text("one"), text("two")]), text("b", SHORT))])
    assert [block.digest for block in plain.blocks] == [block.digest for block in whole.blocks]


def test_turns_of_one_role_are_one_turn() -> None:
    """The API merges them, so they are the same prompt; the same words in another role are not."""
    once = laid(messages=[user("a", text("b", SHORT))])
    twice = laid(messages=[user("a"), user(text("b", SHORT))])
    assert once.blocks == twice.blocks
    assert laid(messages=[user("a"), assistant(text("b", SHORT))]).blocks[1].digest != once.blocks[1].digest


def test_a_string_is_a_block_of_text() -> None:
    """Clients that mark a block they sent as a string before find it again."""
    blocks = laid(system=[text("s")], messages=[user("a"), user(text("b", SHORT))])
    strings = laid(system="s", messages=[{"role": "user", "content": "a"}, user(text("b", SHORT))])
    assert blocks.blocks == strings.blocks


BASE: dict[str, Any] = {
    "tools": [TOOL],
    "system": [text("s")],
    "messages": [user("a"), assistant("b"), user(text("c", SHORT))],
}
LEVELS = ("tools", "system", "messages")
KEPT = {
    "the breakpoints themselves": ({"system": [text("s", HOUR)]}, 3),
    "max_tokens": ({"max_tokens": 77}, 3),
    "a stop sequence": ({"stop_sequences": ["x"]}, 3),
    "the default effort": ({"output_config": {"effort": "high"}}, 3),
    "the default choice of tools": ({"tool_choice": {"type": "auto"}}, 3),
    "the default choice, in many words": ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}}, 3),
    "the default thinking": ({"thinking": {"type": "disabled"}}, 3),
    "the default speed": ({"speed": "standard"}, 3),
    "one call at a time": ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, 2),
    "no tools now": ({"tool_choice": {"type": "none"}}, 2),
    "a forced tool": ({"tool_choice": {"type": "any"}}, 2),
    "thinking": ({"thinking": {"type": "adaptive"}}, 2),
    "effort": ({"output_config": {"effort": "low"}}, 2),
    "an image at the end": ({"messages": [*BASE["messages"][:2], user(text("c", SHORT), PIXEL)]}, 2),
    "speed": ({"speed": "fast"}, 1),
    "web search": ({"tools": [TOOL, SEARCH]}, 1),
    "the form of the answer": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        1,
    ),
    "citations": (
        {"messages": [*BASE["messages"][:2], user(text("c", SHORT), {**PDF, "citations": {"enabled": True}})]},
        1,
    ),
    "another system prompt": ({"system": [text("S")]}, 1),
    "another tool": ({"tools": [OTHER_TOOL]}, 0),
    "the order of the tools": ({"tools": [OTHER_TOOL, TOOL]}, 0),
}


@pytest.mark.parametrize(("change", "levels"), KEPT.values(), ids=KEPT)
def test_a_change_loses_the_levels_that_it_loses_in_the_api(change: dict[str, Any], levels: int) -> None:
    """What stays the same are the first levels of tools, system, messages."""
    before, after = laid(**BASE), laid(**{**BASE, **change})
    kept = {block.digest for block in before.blocks} & {block.digest for block in after.blocks}
    last = [before.blocks[number].digest for number in (0, 1, 4)]
    assert [digest in kept for digest in last] == [number < levels for number in range(3)]


def test_the_defaults_are_those_of_the_model() -> None:
    """On a model that thinks unasked, asking for it changes nothing, and forbidding it does."""
    whole, asked, off = (
        params(**{**BASE, **more})
        for more in ({}, {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "disabled"}})
    )
    assert layout(whole, thinking="adaptive") == layout(asked, thinking="adaptive")
    assert layout(whole, thinking="adaptive") != layout(off, thinking="adaptive")
    medium = params(**{**BASE, "output_config": {"effort": "medium"}})
    assert layout(whole, effort="medium") == layout(medium, effort="medium")
    assert layout(whole) != layout(medium)


def test_another_budget_of_thinking_is_other_messages() -> None:
    """The system prompt stays."""
    small, large = (
        laid(**BASE, max_tokens=4096, thinking={"type": "enabled", "budget_tokens": budget}) for budget in (1024, 2048)
    )
    assert [a.digest == b.digest for a, b in zip(small.blocks, large.blocks, strict=True)] == [True, True] + [False] * 3


@given(st.integers(0, 4), st.text(min_size=1, max_size=5))
def test_a_change_in_the_prompt_loses_all_that_follows_and_nothing_before(at: int, other: str) -> None:
    """A digest stands for the whole prompt up to its block."""
    words = ["a", "b", "c", "d", "e"]
    if words[at] == other:
        return
    changed = [*words[:at], other, *words[at + 1 :]]
    before, after = (laid(messages=[user(*part), user(text("end", SHORT))]) for part in (words, changed))
    same = [a.digest == b.digest for a, b in zip(before.blocks, after.blocks, strict=True)]
    assert same == [number < at for number in range(6)]


def test_media_weigh_the_same_whatever_their_size() -> None:
    """A picture of a megabyte is not a million characters of text."""
    big = {**PIXEL, "source": {**PIXEL["source"], "data": "A" * 100_000}}
    small, large = (laid(messages=[user(image, text("b", SHORT))]).size for image in (PIXEL, big))
    assert small == large
    assert MEDIA_BYTES < small < MEDIA_BYTES + 300


def test_a_scale_weighs_block_by_block() -> None:
    """Tools and turns weigh something of their own."""
    whole = layout(
        params(tools=[TOOL], system="s", messages=[user("a"), assistant("b"), user(text("c", SHORT))]),
        scale=Scale(block=lambda _: 10, tools=300, turn=3),
    )
    assert [block.end for block in whole.blocks] == [310, 320, 333, 346, 359]


# Accounting


def test_the_worked_example() -> None:
    """Contract 9.2: 15,050 tokens, a hit at 10,000, then 1 h to 12,000 and 5 min to 15,000."""
    split = account(total=15_050, hit=10_000, markers=[(10_000, "1h"), (12_000, "1h"), (15_000, "5m")])
    assert split == Split(read=10_000, write_1h=2_000, write_5m=3_000, input=50)
    usage = split.usage(400)
    assert usage.cache_creation_input_tokens == 5_000
    assert usage.cache_creation.ephemeral_1h_input_tokens == 2_000
    assert usage.cache_creation.ephemeral_5m_input_tokens == 3_000
    assert (usage.cache_read_input_tokens, usage.input_tokens, usage.output_tokens) == (10_000, 50, 400)


@pytest.mark.parametrize(
    ("hit", "markers", "minimum", "expected"),
    [
        (0, [], 0, Split(input=100)),
        (0, [(100, "5m")], 0, Split(write_5m=100)),
        (0, [(60, "1h")], 0, Split(write_1h=60, input=40)),
        (0, [(30, "1h"), (60, "5m")], 0, Split(write_1h=30, write_5m=30, input=40)),
        (30, [(30, "1h"), (60, "5m")], 0, Split(read=30, write_5m=30, input=40)),
        (20, [(30, "1h"), (60, "1h")], 0, Split(read=20, write_1h=40, input=40)),
        (60, [(30, "1h"), (60, "5m")], 0, Split(read=60, input=40)),
        (0, [(30, "1h"), (60, "5m")], 61, Split(input=100)),
        (0, [(30, "1h"), (60, "5m")], 60, Split(write_5m=60, input=40)),
    ],
)
def test_tokens_are_split_at_the_hit_the_hours_and_the_last_breakpoint(
    hit: int, markers: list[tuple[int, Ttl]], minimum: int, expected: Split
) -> None:
    """Breakpoints that are too early to count have no part in it."""
    assert account(total=100, hit=hit, markers=markers, minimum=minimum) == expected


@given(
    st.lists(st.integers(0, 1000), max_size=4),
    st.integers(0, 4),
    st.integers(0, 1000),
    st.integers(0, 500),
    st.integers(0, 600),
)
def test_the_parts_add_up_to_the_prompt(places: list[int], hours: int, hit: int, rest: int, minimum: int) -> None:
    """And none of them is below nothing."""
    ordered = sorted(places)
    markers: list[tuple[int, Ttl]] = [(p, "1h" if number < hours else "5m") for number, p in enumerate(ordered)]
    last = ordered[-1] if ordered else 0
    split = account(total=last + rest, hit=min(hit, last), markers=markers, minimum=minimum)
    assert split.total == last + rest
    assert min(split.read, split.write_5m, split.write_1h, split.input) >= 0


# Real engines


@given(st.integers(0, 5000), st.integers(0, 6000), st.sampled_from(["system", "turn", "both", "none"]))
def test_what_a_real_engine_reused_fits_the_breakpoints(prompt: int, cached: int, where: str) -> None:
    """All parts add up; reads are never more than were reused, nor beyond the last breakpoint."""
    system = [text("s" * 900, HOUR if where in {"system", "both"} else None)]
    turn = user(text("t" * 300, SHORT if where in {"turn", "both"} else None), "q" * 100)
    whole = layout(params(system=system, messages=[turn]))
    split = fitted(whole, prompt=prompt, cached=cached)
    assert split.total == prompt
    last = prompt * whole.blocks[whole.markers[-1]].end // whole.size if whole.markers else 0
    assert split.read == min(cached, last)
    assert split.input == prompt - last
    assert split.write_1h == 0 or where in {"system", "both"}
    assert split.write_5m == 0 or where in {"turn", "both"}


def test_an_engine_that_reuses_what_nobody_marked_costs_plain_input() -> None:
    """No breakpoint, no caching in usage (contract 9.2)."""
    assert usage_parts(params(system="s"), prompt=50, cached=40, output=3) == Usage(input_tokens=50, output_tokens=3)


def test_an_engine_that_does_not_tell_is_not_said_to_have_written() -> None:
    """Nobody pays for a write that nobody saw."""
    whole = params(system=[text("s", HOUR)])
    assert usage_parts(whole, prompt=50, cached=None, output=3) == Usage(input_tokens=50, output_tokens=3)
    written = usage_parts(whole, prompt=50, cached=0, output=3)
    assert written.cache_creation.ephemeral_1h_input_tokens == written.cache_creation_input_tokens > 0
