"""The suite itself: a declared lack has to be true, and a refusal has to name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from standby.errors import EngineError, Failure, invalid
from tests.engines.features import Feature, Lack, refused, shows
from tools.write_docs import RESULTS, engine_features

pytest_plugins = ["pytester"]
REFUSED = Lack(field="messages.0.content.0")
SUITE = """
import pytest
from tests.engines.features import Feature, Lack, shows

class TestOne:
    key, title = "one", "One"
    lacks = {Feature.IMAGES: Lack(why="it is blind")}

    @staticmethod
    def version():
        return "1.0"

    @shows(Feature.TEXT)
    async def test_text(self):
        pass

    @shows(Feature.STOP)
    async def test_stop(self):
        assert False

    @shows(Feature.IMAGES)
    async def test_images(self):
        assert False
"""


class Engine:
    """Stands where a test class of the suite stands."""

    lacks: ClassVar[Mapping[Feature, Lack]] = {Feature.IMAGES: REFUSED, Feature.THINKING: Lack(why="it does not")}

    @shows(Feature.IMAGES)
    async def see(self, error: Exception | None) -> None:
        """Raise what it is told to."""
        if error is not None:
            raise error

    @shows(Feature.THINKING)
    async def think(self, *, thinks: bool) -> None:
        """Show thinking, or not."""
        assert thinks


@pytest.mark.parametrize(
    "error", [invalid("messages.0.content.0: no"), EngineError(Failure.INVALID, "messages.0.content.0.type: no")]
)
async def test_a_refusal_that_names_the_field_is_what_a_lack_shows(error: Exception) -> None:
    """By the adapter itself, or by the engine behind it."""
    await Engine().see(error)


@pytest.mark.parametrize(
    "error", [None, invalid("tools: no"), EngineError(Failure.BROKEN, "messages.0.content.0"), ZeroDivisionError()]
)
async def test_anything_else_fails(error: Exception | None) -> None:
    """An answer, another field, a failure that is not the request's fault, an error of ours."""
    with pytest.raises((AssertionError, ZeroDivisionError)):
        await Engine().see(error)


async def test_a_lack_that_is_no_longer_true_fails() -> None:
    """So that the table cannot fall behind."""
    await Engine().think(thinks=False)
    with pytest.raises(pytest.fail.Exception):
        await Engine().think(thinks=True)


def test_a_block_that_refuses_nothing_fails() -> None:
    """The block has to end in a refusal."""
    with pytest.raises(AssertionError), refused("speed"):
        pass


def test_a_run_is_written_down(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """One file an engine: passed, failed and declared features, and those that nothing tried."""
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(SUITE)
    done = pytester.runpytest_inprocess("-p", "tests.engines.features", f"--feature-report={tmp_path}")
    done.assert_outcomes(passed=2, failed=1)
    report: dict[str, Any] = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    found = {name: feature["outcome"] for name, feature in report["features"].items()}
    assert (report["engine"], report["version"]) == ("One", "1.0")
    assert [found[name] for name in ("TEXT", "STOP", "IMAGES", "TOP_K")] == ["yes", "failed", "no", "untested"]


def test_every_committed_result_is_in_the_docs_and_none_failed() -> None:
    """What stands in the table was seen to work, or was declared."""
    table = engine_features()
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json")]
    assert reports
    for report in reports:
        assert report["engine"] in table
        assert report["version"] in table
        assert set(report["features"]) == set(Feature.__members__)
        outcomes = {feature["outcome"] for feature in report["features"].values()}
        assert outcomes <= {"yes", "refused", "no"}, report["engine"]
