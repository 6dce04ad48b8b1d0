"""Marks for all tests. Lanes are chosen with `-m`; see `markers` in pyproject.toml."""

from __future__ import annotations

pytest_plugins = ["tests.engines.features"]
