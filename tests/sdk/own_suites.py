"""Which of the SDK's own test files speak over the wire, and how many of their tests pass."""

from __future__ import annotations

FILES = (
    "tests/api_resources/messages/test_batches.py",
    "tests/api_resources/beta/messages/test_batches.py",
    "tests/api_resources/test_messages.py",
    "tests/api_resources/beta/test_messages.py",
    "tests/api_resources/test_models.py",
    "tests/api_resources/beta/test_models.py",
)
MEASURED = {"0.121.0": (439, 7), "2.12.0": (462, 0)}
"""Tests that passed and were skipped when this was written: together all there are, and the SDK itself skips them."""
