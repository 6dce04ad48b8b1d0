"""The page about prompt caching tells the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from standby.wire.caching import MEDIA_BYTES
from standby.wire.claude import CHECKED, DEFAULT_MINIMUM, served
from tests.harness import ServerProcess

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "prompt-caching.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8378"


def test_its_example_runs(tmp_path: Path) -> None:
    """Its assertions hold against the simulator, clock and all."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(code) == 1
    names: dict[str, Any] = {}
    with ServerProcess(tmp_path / "data", engine="simulated", emulator=True) as server:
        exec(compile(code[0].replace(URL, server.url), "<docs>", "exec"), names)
        names["client"].close()
    assert names["late"].usage.cache_creation.ephemeral_1h_input_tokens == names["written"]


def test_its_minimums_are_those_of_the_catalogue() -> None:
    """Every model that is listed stands in the row of its minimum, by its shortest name."""
    rows = dict(re.findall(r"^\| ([\d,]+) \| (`claude-.*) \|$", PAGE, re.MULTILINE))
    told = {
        name: int(tokens.replace(",", "")) for tokens, names in rows.items() for name in re.findall(r"`(.+?)`", names)
    }
    assert told == {min((claude.id, *claude.aliases), key=len): claude.minimum for claude in served(CHECKED)}
    assert rows[f"{DEFAULT_MINIMUM:,}"].endswith("any other name")


def test_its_figures_are_those_of_the_code() -> None:
    """An image weighs what the page says."""
    assert f"an image counts as {MEDIA_BYTES:,} bytes" in PAGE
