"""Reuse is measured of batches that come to an end."""

from __future__ import annotations

from bench.reuse import Cell, measure


def test_an_engine_that_reads_prompts_first_gets_on_with_a_cache_too_small_for_all_its_seats() -> None:
    """64 requests of 2,900 tokens in room for 60,000: without a reserve each is put off and read again, for ever.

    600 items of 16 to 64 tokens take the simulated SGLang a minute at most, of its own time.
    """
    found = measure(Cell(profile="sglang", kv_tokens=60_000), items=600, orders=["submit"])[0]
    assert 0 < found.seconds < 60
    assert 0 < found.of_bound <= 1
