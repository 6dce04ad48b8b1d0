"""The prompt cache of the simulated Claude, against a slow reading of the rules, sentence by sentence (contract 9)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from standby.engines.simulated.cache import TOKENS, PromptCache
from standby.engines.simulated.tokens import PROMPT, count_prompt
from standby.records import SECOND, Rules
from standby.wire.caching import Block, Layout, Split, Ttl, layout
from standby.wire.messages import MessageParams, decode_params

MINUTE = 60 * SECOND
LIFETIMES: dict[Ttl, int] = {"5m": 5 * MINUTE, "1h": 60 * MINUTE}
ME, OTHER = "wrkspc_me", "wrkspc_other"


@dataclass
class Clock:
    """A clock that a test moves."""

    now_us: int = 1_000 * SECOND

    def __call__(self) -> int:
        """Say the time."""
        return self.now_us


@dataclass
class World:
    """A cache on such a clock."""

    clock: Clock = field(default_factory=Clock)
    cache: PromptCache = field(init=False)

    def __post_init__(self) -> None:
        """Begin empty."""
        self.cache = PromptCache(self.clock)

    def ask(
        self, layout: Layout, *, who: str = ME, model: str = "claude", minimum: int = 0, begins: bool = True
    ) -> Split:
        """One request from its start to its first token."""
        asked = self.cache.ask(who, model, layout, total=layout.size, minimum=minimum)
        if begins:
            asked.began()
        return asked.split


def prompt(words: str, markers: dict[int, Ttl], *, tail: int = 5, runs: str = "") -> Layout:
    """A prompt with a block a letter, 10 tokens each; equal neighbours out of `runs` share a position."""
    blocks, position = [], -1
    for number, letter in enumerate(words):
        position += not (number and letter in runs and words[number - 1] == letter)
        blocks.append(Block(words[: number + 1].encode(), 10 * (number + 1), position, markers.get(number)))
    return Layout(blocks=tuple(blocks), size=10 * len(words) + tail)


def test_what_one_request_wrote_the_next_one_reads() -> None:
    """Up to the same block; what comes behind it is new."""
    world = World()
    assert world.ask(prompt("abc", {1: "5m"})) == Split(write_5m=20, input=15)
    assert world.ask(prompt("abxyz", {1: "5m"})) == Split(read=20, input=35)


def test_a_growing_conversation_reads_what_it_had_and_writes_what_is_new() -> None:
    """The breakpoint at the end moves on, and the entry of the last turn is found behind it."""
    world = World()
    assert world.ask(prompt("ab", {1: "5m"})) == Split(write_5m=20, input=5)
    assert world.ask(prompt("abcd", {3: "5m"})) == Split(read=20, write_5m=20, input=5)
    assert world.ask(prompt("abcdef", {5: "1h"})) == Split(read=40, write_1h=20, input=5)


def test_requests_that_begin_together_all_write() -> None:
    """An entry can be read once the request that writes it has begun to answer, and not before."""
    world, layout = World(), prompt("abc", {2: "5m"})
    asked = [world.cache.ask(ME, "claude", layout, total=35, minimum=0) for _ in range(3)]
    assert {one.split for one in asked} == {Split(write_5m=30, input=5)}
    asked[0].began()
    assert world.ask(layout) == Split(read=30, input=5)


def test_a_request_that_never_began_to_answer_wrote_nothing() -> None:
    """It failed, or its client went away."""
    world, layout = World(), prompt("abc", {2: "5m"})
    world.ask(layout, begins=False)
    assert world.ask(layout) == Split(write_5m=30, input=5)


def test_nobody_reads_what_another_workspace_or_model_wrote() -> None:
    """Entries are kept apart."""
    world, layout = World(), prompt("abc", {2: "5m"})
    for who, model in ((ME, "claude"), (OTHER, "claude"), (ME, "claude-2")):
        assert world.ask(layout, who=who, model=model).read == 0
    assert world.ask(layout, who=OTHER).read == 30


def test_a_breakpoint_looks_back_over_20_positions_and_no_more() -> None:
    """Its own is the first, so an entry 19 blocks before it is found and one 20 blocks before it is not."""
    for distance, read in ((19, 10), (20, 0)):
        world = World()
        world.ask(prompt("a", {0: "5m"}))
        assert world.ask(prompt("a" + "bcdefghijklmnopqrstuvwxyz"[:distance], {distance: "5m"})).read == read


def test_a_run_of_calls_is_one_step_back() -> None:
    """However many calls a turn makes, the entry before them is in sight."""
    world = World()
    world.ask(prompt("a", {0: "5m"}))
    many = "a" + "u" * 30 + "r" * 30 + "z"
    assert world.ask(prompt(many, {len(many) - 1: "5m"}, runs="ur")).read == 10


def test_every_breakpoint_looks_for_itself_and_the_longest_hit_wins() -> None:
    """An early one finds what the last one is too far away from."""
    world = World()
    world.ask(prompt("a", {0: "1h"}))
    long = "abcdefghijklmnopqrstuvwxyz"
    assert world.ask(prompt(long, {25: "5m"})).read == 0
    world = World()
    world.ask(prompt("a", {0: "1h"}))
    assert world.ask(prompt(long, {10: "1h", 25: "5m"})) == Split(read=10, write_1h=100, write_5m=150, input=5)


def test_a_change_loses_all_behind_it() -> None:
    """What stands before it is found, if something was written there."""
    world = World()
    world.ask(prompt("abcd", {1: "5m", 3: "5m"}))
    assert world.ask(prompt("abXd", {1: "5m", 3: "5m"})) == Split(read=20, write_5m=20, input=5)
    assert world.ask(prompt("Xbcd", {1: "5m", 3: "5m"})) == Split(write_5m=40, input=5)


def test_only_breakpoints_are_written() -> None:
    """A block in between is no place to read from."""
    world = World()
    world.ask(prompt("abcd", {3: "5m"}))
    assert world.ask(prompt("abcX", {3: "5m"})) == Split(write_5m=40, input=5)


def test_a_breakpoint_inside_what_is_read_writes_nothing() -> None:
    """Nothing is written there, so nothing is to be read from there afterwards."""
    world = World()
    world.ask(prompt("abc", {2: "1h"}))
    assert world.ask(prompt("abc", {0: "1h", 2: "1h"})) == Split(read=30, input=5)
    assert world.ask(prompt("aX", {0: "1h"})).read == 0


def test_an_entry_lives_five_minutes_or_an_hour_after_it_was_last_used() -> None:
    """Counted from the start of the request that wrote or read it; a read costs nothing more and starts anew."""
    for ttl, lifetime in LIFETIMES.items():
        world = World()
        layout = prompt("abc", {2: ttl})
        world.ask(layout)
        for _ in range(3):
            world.clock.now_us += lifetime - 1
            assert world.ask(layout).read == 30
        world.clock.now_us += lifetime
        assert world.ask(layout).read == 0


def test_the_life_of_an_entry_begins_with_its_request_not_with_its_answer() -> None:
    """A request that waits for its first token for longer than that writes nothing that anybody can read."""
    world, layout = World(), prompt("abc", {2: "5m"})
    asked = world.cache.ask(ME, "claude", layout, total=35, minimum=0)
    world.clock.now_us += 4 * MINUTE
    asked.began()
    world.clock.now_us += MINUTE - 1
    assert world.ask(layout, begins=False).read == 30
    asked = world.cache.ask(OTHER, "claude", layout, total=35, minimum=0)
    world.clock.now_us += 5 * MINUTE
    asked.began()
    assert world.ask(layout, who=OTHER).read == 0


def test_below_the_minimum_nothing_is_cached() -> None:
    """Silently: both counters are 0; one token more and it is."""
    world, layout = World(), prompt("abc", {1: "5m"})
    assert world.ask(layout, minimum=21) == Split(input=35)
    assert world.ask(layout, minimum=21) == Split(input=35)
    assert world.ask(layout, minimum=20) == Split(write_5m=20, input=15)


def test_an_early_breakpoint_below_the_minimum_does_not_disturb_a_later_one() -> None:
    """The later one writes the whole prefix."""
    world, layout = World(), prompt("abcd", {0: "1h", 2: "5m"})
    assert world.ask(layout, minimum=20) == Split(write_5m=30, input=15)


def test_memory_is_bounded() -> None:
    """What was not used for longest makes room."""
    cache = PromptCache(Clock(), capacity=2)
    for words in ("a", "b", "a", "c"):
        cache.ask(ME, "claude", prompt(words, {0: "1h"}), total=15, minimum=0).began()
    assert len(cache) == 2
    reads = [cache.ask(ME, "claude", prompt(words, {0: "1h"}), total=15, minimum=0).split.read for words in "abc"]
    assert reads == [10, 0, 10]


def test_it_can_begin_anew() -> None:
    """One test of a client does not read what another one wrote."""
    world, layout = World(), prompt("abc", {2: "1h"})
    world.ask(layout)
    world.cache.forget()
    assert len(world.cache) == 0
    assert world.ask(layout) == Split(write_1h=30, input=5)


# As a request asks


def params(**fields: object) -> MessageParams:
    """Params as the simulator gets them."""
    whole = {"model": "claude-haiku-4-5", "max_tokens": 9, **fields}
    return decode_params(json.dumps(whole).encode(), rules=Rules(), batch=False)


MARK = {"cache_control": {"type": "ephemeral"}}
RICH = params(
    tools=[
        {"name": "look_up", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    system=[{"type": "text", "text": "be brief " * 99}],
    messages=[
        {"role": "user", "content": "where is it?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"n": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": "here"},
                        {"type": "image", "source": {"type": "url", "url": "https://example.com/here.png"}},
                    ],
                },
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "a map " * 99},
                    **MARK,
                },
            ],
        },
    ],
)


def test_blocks_weigh_what_the_simulator_counts() -> None:
    """All but what every prompt has: that is what comes after a breakpoint on the last block, as in the API."""
    whole = layout(RICH, scale=TOKENS)
    assert whole.size == whole.blocks[-1].end == count_prompt(RICH) - PROMPT
    asked = PromptCache(Clock()).look_up(RICH, workspace=ME, model="claude-opus-5", total=count_prompt(RICH))
    assert asked.split == Split(write_5m=whole.size, input=PROMPT)


def look_up(cache: PromptCache, asked: MessageParams, model: str = "claude-opus-5") -> Split:
    """One request that begins to answer."""
    found = cache.look_up(asked, workspace=ME, model=model, total=count_prompt(asked))
    found.began()
    return found.split


def test_the_minimum_is_that_of_the_model() -> None:
    """600 tokens are enough for the newer ones only; a model that is not known is taken for one of the older."""
    system = [{"type": "text", "text": "word " * 600, **MARK}]
    asked = params(system=system, messages=[{"role": "user", "content": "go"}])
    models = ("claude-opus-5", "claude-opus-4-8", "claude-someday")
    assert [look_up(PromptCache(Clock()), asked, model).write_5m for model in models] == [600, 0, 0]


def test_what_is_left_out_means_what_it_means_to_the_model() -> None:
    """To ask a model for thinking that thinks unasked is the same prompt; to ask another one is not."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "word " * 1200, **MARK}]}]
    plain, thinks = params(messages=turns), params(messages=turns, thinking={"type": "adaptive"})
    for model, is_same in (("claude-opus-5", True), ("claude-opus-4-8", False)):
        cache = PromptCache(Clock())
        written = look_up(cache, plain, model).write_5m
        assert look_up(cache, thinks, model).read == (written if is_same else 0)


def test_what_was_written_is_what_is_read_to_the_token() -> None:
    """Whatever comes behind it."""
    cache = PromptCache(Clock())
    system = [{"type": "text", "text": "naïve café — 東京 " * 300, **MARK}]
    written = look_up(cache, params(system=system, messages=[{"role": "user", "content": "go"}])).write_5m
    assert written > 512
    for words in ("do something " * 50, "東" * 999):
        asked = params(system=system, messages=[{"role": "user", "content": words}])
        split = look_up(cache, asked)
        assert split.read == written
        assert split.total == count_prompt(asked)


# Against a slow model


Written = tuple[str, bytes, int, Ttl]
"""Who, prefix, time of its last use, lifetime."""


@dataclass
class Slow:
    """The rules, one by one, over the list of everything that ever happened."""

    written: list[Written] = field(default_factory=list)

    def ask(self, who: str, layout: Layout, now_us: int, minimum: int) -> tuple[Split, list[Written]]:
        """Answer, and say what is to be written when the answer begins."""
        markers = [b for b in layout.blocks if b.marker and b.end >= minimum]
        found: dict[bytes, Block] = {}
        for marker in markers:
            seen = [b for b in layout.blocks if b.end <= marker.end and marker.position - b.position < 20]
            alive = [b for b in seen if self._lives(who, b.digest, now_us)]
            if alive:
                longest = max(alive, key=lambda b: b.end)
                found[longest.digest] = longest
        self.written = [
            (w, p, now_us if w == who and p in found and now_us < at + LIFETIMES[t] else at, t)
            for w, p, at, t in self.written
        ]
        hit = max((b.end for b in found.values()), default=0)
        last = max((b.end for b in markers), default=0)
        hours = max((b.end for b in markers if b.marker == "1h" and b.end > hit), default=hit)
        new = [(who, b.digest, now_us, b.marker or "5m") for b in markers if b.end > hit]
        split = Split(read=hit, write_1h=hours - hit, write_5m=last - hours, input=layout.size - last)
        return split, new

    def _lives(self, who: str, prefix: bytes, now_us: int) -> bool:
        return any(w == who and p == prefix and now_us < at + LIFETIMES[t] for w, p, at, t in self.written)


@st.composite
def prompts(draw: st.DrawFn) -> Layout:
    """Prompts that often begin alike, long enough for the look-back to matter, with hours before minutes."""
    words = draw(st.sampled_from(["", "a" * 3, "abcdefgh" * 3, "uuuuu" * 6])) + draw(
        st.text("abu", min_size=1, max_size=9)
    )
    places = sorted(draw(st.sets(st.integers(0, len(words) - 1), max_size=4)))
    hours = draw(st.integers(0, 4))
    return prompt(words, {place: "1h" if n < hours else "5m" for n, place in enumerate(places)}, runs="u")


steps = st.tuples(
    prompts(),
    st.sampled_from([ME, OTHER]),
    st.sampled_from([0, 1, 4 * MINUTE, 5 * MINUTE - 1, 5 * MINUTE, 59 * MINUTE]),
    st.sampled_from(["at once", "later", "never"]),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=14), st.sampled_from([0, 30, 100]))
def test_it_agrees_with_a_slow_reading_of_the_rules(history: list[tuple[Layout, str, int, str]], minimum: int) -> None:
    """Over any history of requests that begin at once, later or never, in two workspaces, while time passes."""
    world, slow = World(), Slow()
    pending = []
    for whole, who, passes, begins in history:
        world.clock.now_us += passes
        asked = world.cache.ask(who, "claude", whole, total=whole.size, minimum=minimum)
        expected, new = slow.ask(who, whole, world.clock.now_us, minimum)
        assert asked.split == expected
        assert asked.split.total == whole.size
        if begins == "later":
            pending.append((asked, new))
            continue
        if begins == "at once":
            asked.began()
            slow.written += new
            while pending:
                late, later = pending.pop()
                late.began()
                slow.written += later
