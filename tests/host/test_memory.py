"""How the memory of KV caches is shared out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.host.gguf import Header
from standby.host.llamacpp import fits_apart

SMALL = Header(name="small", context=8192, layers=30, kv_heads=3, key_length=64, value_length=64)
"""SmolLM2-135M: 23,040 bytes a token."""


@pytest.mark.parametrize(
    ("slots", "context", "megabytes", "fits"),
    [(4, 8192, 512, False), (4, 4096, 512, True), (12, 2048, 512, False), (12, 2048, 544, True), (1, 8192, 180, True)],
)
def test_slots_get_caches_of_their_own_if_their_whole_contexts_fit(
    slots: int, context: int, megabytes: int, *, fits: bool
) -> None:
    """4 contexts of 8192 tokens take 720 MB, 4 of 4096 half of that."""
    assert fits_apart(SMALL, slots=slots, context=context, megabytes=megabytes) is fits


@given(st.integers(1, 64), st.integers(128, 131_072), st.integers(16, 4096), st.integers(1, 80))
def test_less_of_anything_never_fits_worse(slots: int, context: int, megabytes: int, layers: int) -> None:
    """What fits goes on to fit with fewer slots, a shorter context, fewer layers and more memory."""
    header = replace(SMALL, layers=layers)
    if fits_apart(header, slots=slots, context=context, megabytes=megabytes):
        assert fits_apart(header, slots=max(1, slots - 1), context=context, megabytes=megabytes)
        assert fits_apart(header, slots=slots, context=context // 2, megabytes=megabytes)
        assert fits_apart(header, slots=slots, context=context, megabytes=2 * megabytes)
        assert fits_apart(replace(header, layers=max(1, layers - 1)), slots=slots, context=context, megabytes=megabytes)
