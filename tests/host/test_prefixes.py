from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from standby.host.prefixes import Prefixes


def computed(prefixes: Prefixes, tokens: list[int]) -> None:
    """Let a sequence come and go."""
    keys = prefixes.keys(tokens)
    prefixes.hold(keys)
    prefixes.release(keys)


def cached(prefixes: Prefixes, tokens: list[int]) -> int:
    """Ask for a prompt."""
    return prefixes.cached(tokens, prefixes.keys(tokens))


def test_whole_blocks_of_a_known_prefix_are_cached() -> None:
    """A shared beginning counts by whole blocks."""
    prefixes = Prefixes(total=10, block=4)
    computed(prefixes, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cached(prefixes, [1, 2, 3, 4, 5, 6, 7, 8, 100, 101]) == 8
    assert cached(prefixes, [1, 2, 3, 4, 5, 0, 0, 0, 0]) == 4
    assert cached(prefixes, [0, 2, 3, 4, 5, 6, 7, 8]) == 0


def test_the_last_token_is_always_computed() -> None:
    """A prompt that is cached whole counts one token less."""
    prefixes = Prefixes(total=10, block=4)
    computed(prefixes, [1, 2, 3, 4])
    assert cached(prefixes, [1, 2, 3, 4]) == 3


def test_the_block_unused_for_longest_goes_first() -> None:
    """When memory is needed, and from the end of a prefix."""
    prefixes = Prefixes(total=3, block=2)
    computed(prefixes, [1, 1, 2, 2])
    computed(prefixes, [3, 3])
    computed(prefixes, [4, 4])
    assert cached(prefixes, [1, 1, 2, 2, 0]) == 2
    assert cached(prefixes, [3, 3, 0]) == 2
    prefixes.occupy(2)
    assert cached(prefixes, [4, 4, 0]) == 2
    assert cached(prefixes, [1, 1, 0]) == 0


def test_blocks_in_use_stay() -> None:
    """However much else is computed."""
    prefixes = Prefixes(total=2, block=2)
    prefixes.hold(prefixes.keys([1, 1]))
    for number in range(10, 20):
        computed(prefixes, [number, number])
    assert cached(prefixes, [1, 1, 0]) == 2


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=12), st.integers(1, 8))
def test_never_more_than_the_memory_and_never_the_whole_prompt(prompts: list[list[int]], total: int) -> None:
    """Whatever comes, the mirror stays inside its bounds."""
    prefixes = Prefixes(total=total, block=2)
    for prompt in prompts:
        assert 0 <= cached(prefixes, prompt) < len(prompt)
        computed(prefixes, prompt)
        assert cached(prefixes, prompt) <= total * 2
