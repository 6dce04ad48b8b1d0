"""What an engine may be able to do, feature by feature, and how a run of the suite is written down.

A test of the suite says which feature it shows. An engine that lacks the feature declares so, and then the same
test must see a refusal that names the field; a declaration that is no longer true fails.
`--feature-report FOLDER` writes one JSON file an engine: the input of the table in docs/engines.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from standby.errors import EngineError, Failure, InvalidParams

Test = Callable[..., Coroutine[Any, Any, None]]


class Feature(Enum):
    """One row of the table: the words of the table, by the name that tests and JSON files use."""

    TEXT = "text, streamed and whole"
    TURNS = "several turns, blocks, consecutive turns of one role"
    SYSTEM = "`system`, as text and as blocks"
    PREFILL = "a last assistant turn is gone on with"
    UNICODE = "text beyond ASCII, in and out"
    MAX_TOKENS = "`max_tokens`"
    STOP = "`stop_sequences`, and which one hit"
    SAMPLING = "`temperature`, `top_p`"
    TOP_K = "`top_k`"
    SCHEMA = "`output_config.format`: JSON Schema (nested, enums, lists)"
    TOOL_AUTO = "`tools` with `tool_choice` auto and none"
    TOOL_FORCED = "`tool_choice` any and tool: always a valid call"
    TOOL_RESULTS = "`tool_use` and `tool_result` turns, ids kept"
    TOOL_SERIAL = "`disable_parallel_tool_use`"
    THINKING = "`thinking` enabled"
    IMAGES = "images in base64"
    DOCUMENTS = "documents as plain text"
    COUNT = "`count_tokens` equals the tokens that are charged"
    CONTEXT = "a prompt that is too long is refused as such; one at the edge is answered"
    CACHE_READS = "cached tokens are reported"
    CANCEL = "a cancelled request frees its place, while it reads and while it writes"
    PRIORITY = "the engine itself puts live requests before batches"
    FIELDS = "what cannot be expressed is refused by the field's name"
    MODELS = "models are listed and resolved"
    LOAD = "more requests than places; deadlines; load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A feature that an engine does not have, and how that shows."""

    field: str = ""
    """The refusal begins with it; empty: nothing is refused, it just is not so."""
    why: str = ""
    """In words, for the table."""
    is_by_chance: bool = False
    """It may look as if it were so: who comes first is luck. Then nothing but a clean end is asked of the test."""


def shows(feature: Feature) -> Callable[[Test], Test]:
    """Mark a test of the suite; on an engine that lacks the feature it must fail in the declared way."""

    def mark(test: Test) -> Test:
        @functools.wraps(test)
        async def run(self: Any, *given: Any, **named: Any) -> None:
            lack = self.lacks.get(feature)
            if lack is None:
                await _tried(test, self, given, named)
            elif lack.field:
                with refused(lack.field):
                    await test(self, *given, **named)
            elif lack.is_by_chance:
                with suppress(AssertionError):
                    await test(self, *given, **named)
            else:
                with pytest.raises((AssertionError, TimeoutError)):
                    await test(self, *given, **named)

        run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]  # pytest reads the fixtures there
        marked: Test = pytest.mark.feature(feature.name)(run)
        return marked

    return mark


async def _tried(test: Test, case: Any, given: Any, named: Any) -> None:
    """Run a test; again, twice at most, on an engine whose greedy answer also depends on what else it works on."""
    for left in reversed(range(1 if getattr(case, "is_exact", True) else 3)):
        try:
            await test(case, *given, **named)
        except AssertionError:
            if not left:
                raise
        else:
            return


class refused:  # noqa: N801 - reads as pytest.raises does
    """A block that must end in a refusal, the request's own fault, whose words begin with a field's path."""

    def __init__(self, beginning: str) -> None:
        """Keep the path."""
        self._beginning = beginning
        self.words = ""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        """Look at what was raised."""
        if isinstance(error, InvalidParams):
            self.words = error.message
        elif isinstance(error, EngineError):
            assert error.failure is Failure.INVALID, error
            self.words = error.message
        elif kind is not None:
            return False
        assert error is not None, f"nothing was refused; expected {self._beginning}"
        assert self.words.startswith(self._beginning), self.words
        return True


@dataclass
class Seen:
    """What the suite saw of one engine."""

    cls: Any
    outcomes: dict[str, list[str]] = field(default_factory=dict)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of these tests."""
    parser.addoption("--feature-report", metavar="FOLDER", help="write what each engine can do, one JSON file each")
    parser.addoption("--engine-url", metavar="URL", help="the engine that tests/engines/real talk to")


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark; write reports if they were asked for."""
    config.addinivalue_line(
        "markers", "engines: needs a heavy engine that `make test-engines` starts; in no other lane"
    )
    config.addinivalue_line("markers", "feature(name): which feature of an engine this test shows")
    folder = config.getoption("--feature-report")
    if folder:
        config.pluginmanager.register(Reporter(Path(folder)), "feature-report")


class Reporter:
    """Gathers the outcomes of marked tests, by engine and feature."""

    def __init__(self, folder: Path) -> None:
        """Keep where to write."""
        self._folder = folder
        self._seen: dict[str, Seen] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[Any]:
        """Take note of a marked test."""
        report: pytest.TestReport = yield  # type: ignore[assignment]  # a wrapper's yield gives the result
        mark = item.get_closest_marker("feature")
        cls = getattr(item, "cls", None)
        key = getattr(cls, "key", "")
        if mark is not None and key and (report.when == "call" or report.outcome != "passed"):
            seen = self._seen.setdefault(key, Seen(cls))
            seen.outcomes.setdefault(mark.args[0], []).append(report.outcome)
        return report  # type: ignore[return-value]

    def pytest_sessionfinish(self) -> None:
        """Write one file an engine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for key, seen in sorted(self._seen.items()):
            text = msgspec.json.format(msgspec.json.encode(_report(seen)), indent=1) + b"\n"
            (self._folder / f"{key}.json").write_bytes(text)


def _report(seen: Seen) -> dict[str, Any]:
    lacks = {feature.name: lack for feature, lack in seen.cls.lacks.items()}
    return {
        "engine": seen.cls.title,
        "version": seen.cls.version(),
        "date": datetime.now(UTC).date().isoformat(),
        "features": {
            name: {"words": feature.value, **_outcome(seen.outcomes.get(name, []), lacks.get(name))}
            for name, feature in Feature.__members__.items()
        },
    }


def _outcome(outcomes: list[str], lack: Lack | None) -> dict[str, Any]:
    if not outcomes:
        return {"outcome": "untested"}
    if any(outcome != "passed" for outcome in outcomes):
        return {"outcome": "failed", "tests": len(outcomes)}
    if lack is None:
        return {"outcome": "yes", "tests": len(outcomes)}
    told = {name: value for name, value in (("field", lack.field), ("why", lack.why)) if value}
    return {"outcome": "refused" if lack.field else "no", "tests": len(outcomes), **told}
