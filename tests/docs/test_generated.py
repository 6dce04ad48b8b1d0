"""The generated parts of the docs are what the program says today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.write_docs import DOCS, PART, PARTS, bring_up_to_date


@pytest.mark.parametrize("file", sorted(DOCS.rglob("*.md")), ids=lambda file: str(file.relative_to(DOCS)))
def test_generated_parts_are_up_to_date(file: Path) -> None:
    """Settings, commands, states and metrics stand in the docs as the program knows them; `make docs` writes them."""
    assert not bring_up_to_date(file, write=False)


def test_every_generated_part_is_used() -> None:
    """Nothing that can be generated is left out of the docs."""
    used = {part[2] for file in DOCS.rglob("*.md") for part in PART.finditer(file.read_text(encoding="utf-8"))}
    assert used == set(PARTS)


def test_a_stale_part_is_noticed(tmp_path: Path) -> None:
    """A part that was edited by hand counts as out of date, and writing mends it."""
    file = tmp_path / "states.md"
    file.write_text(
        re.sub("in_progress", "running", (DOCS / "states.md").read_text(encoding="utf-8")), encoding="utf-8"
    )
    assert bring_up_to_date(file, write=True)
    assert not bring_up_to_date(file, write=False)
