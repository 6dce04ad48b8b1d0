"""What real engines said on the wire is read as it was read then: no engine needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.replaying import FOLDER, SCENES, Player, adapter, outcome, served

RECORDINGS = sorted(path for path in FOLDER.glob("*/*.json") if path.stem != "pages")
ENGINES = sorted(path.parent.name for path in FOLDER.glob("*/pages.json"))


def load(path: Path) -> Any:
    """Read a recording."""
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_recording_is_read_as_it_was_read_then(path: Path) -> None:
    """The same events, counts and failures come out of the same bytes."""
    recording = load(path)
    player = Player(load(path.parent / "pages.json")["pages"])
    async with served(player.answer) as url, adapter(url) as engine:
        player.answers = list(recording["answers"])
        assert await outcome(engine, SCENES[path.stem]) == recording["outcome"]
        assert not player.answers


@pytest.mark.parametrize("name", ENGINES)
async def test_recorded_pages_are_read(name: str) -> None:
    """Models with their context, and the numbers of the metrics page."""
    recorded = load(FOLDER / name / "pages.json")
    player = Player(recorded["pages"])
    async with served(player.answer) as url, adapter(url) as engine:
        (model,) = await engine.models()
        signals = await engine.signals()
    assert [model.id, model.max_input_tokens] == recorded["model"]
    assert (signals is not None) == recorded["signals"]


def test_every_engine_has_every_recording() -> None:
    """Nothing that can be recorded is missing."""
    assert ENGINES
    for name in ENGINES:
        assert {path.stem for path in (FOLDER / name).glob("*.json")} == {*SCENES, "pages"}


def test_no_recording_tells_of_the_machine() -> None:
    """No paths, no users."""
    for path in FOLDER.glob("*/*.json"):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("/home/", "/root/", "/tmp/", "/Users/", str(FOLDER.parents[2])) if word in text]
