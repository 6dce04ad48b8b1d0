"""The report as a page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from standby.pricing.rates import dollars
from standby.testing import Emulator
from standby.workload.page import page_of, write_page
from tests.workload.conftest import Answer, small

VOID = {"meta"}
EVIL = "</code><script>alert(1)</script><img src=http://x onerror='y'>\"&"


class Parsed(HTMLParser):
    """A page as a strict reader sees it: what is opened is closed, in order."""

    def __init__(self, page: str) -> None:
        """Read it all."""
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element; no attribute stands twice."""
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what a person can read."""
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def report(answer: Answer, standby_emulator: Emulator) -> dict[str, Any]:
    """A job with failures of every kind, tries, a cache and several parts."""
    standby_emulator.script(
        "*~/text 1$/=errored:invalid_request_error:messages are too odd",
        "*~/text [23]$/=stop:refusal",
        "*~/text 4$/=fail:overloaded_error",
    )
    found, _ = answer(20, pace=small(7, retries=1), system="You are terse. " * 2000, cache="1h", id_column="id")
    return found


def test_the_page_tells_what_the_json_tells(report: dict[str, Any]) -> None:
    """Rows, money, tokens, causes and keys stand on it."""
    text = Parsed(page_of(report)).text
    cost, tokens = report["cost"], report["tokens"]
    money = [
        cost[name] for name in ("charged_pico", "real_time_pico", "batch_without_cache_pico", "saved_by_batch_pico")
    ]
    told = [dollars(pico) for pico in (*money, abs(cost["saved_by_cache_pico"]), report["dearest"][0]["charged_pico"])]
    told += [f"{count:,}" for count in (report["succeeded"], report["rows"], *filter(None, tokens.values()))]
    told += [*report["failed"], "messages are too odd", report["dearest"][0]["key"], report["endpoint"]]
    assert [one for one in told if one not in text] == []


def test_the_page_asks_for_nothing(report: dict[str, Any]) -> None:
    """No element, attribute or style of it points anywhere, and its policy forbids what it could ask for."""
    page = page_of(report)
    parsed = Parsed(page)
    assert {tag for tag, _ in parsed.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "a",
        "object",
        "image",
        "use",
    } == set()
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not [name for name in names if name in {"src", "href", "style", "srcset", "action"} or name.startswith("on")]
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|https?:|image-set", style)
    policies = [
        found["content"] for _, found in parsed.elements if found.get("http-equiv") == "Content-Security-Policy"
    ]
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policies == [f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"]


def test_nothing_of_the_job_becomes_a_tag(report: dict[str, Any]) -> None:
    """Keys, causes, words and names are text, whatever they contain."""
    evil: dict[str, Any] = json.loads(json.dumps(report))
    evil["output"] = f"/tmp/{EVIL.replace('/', '')}"
    evil["endpoint"] = evil["model"] = EVIL
    evil["models"][0]["model"] = EVIL
    for one in evil["failures"]:
        one["cause"] = one["why"] = one["todo"] = EVIL
        one["first"] = {"row": 1, "key": EVIL, "words": EVIL}
    for one in evil["dearest"]:
        one["key"] = EVIL
    parsed = Parsed(page_of(evil))
    assert {tag for tag, _ in parsed.elements} == {tag for tag, _ in Parsed(page_of(report)).elements}
    assert EVIL in parsed.text


def test_a_large_job_is_a_small_page(report: dict[str, Any]) -> None:
    """A thousand parts, many causes and endless keys stay under 100 KB."""
    large: dict[str, Any] = json.loads(json.dumps(report))
    part, cause, dear = large["parts"][0], large["failures"][0], large["dearest"][0]
    large["parts"] = [{**part, "number": number, "seconds": 1.0 + number} for number in range(1, 1001)]
    words = {"row": 1, "key": "k" * 5000, "words": "w" * 300}
    large["failures"] = [{**cause, "cause": f"cause_{number}", "first": words} for number in range(200)]
    large["dearest"] = [{**dear, "key": "é" * 5000}] * 10
    page = page_of(large)
    assert len(page.encode()) <= 100_000
    text = Parsed(page).text
    assert "part 1000" in text
    assert "940 quicker parts are not drawn" in text


def test_a_job_that_has_nothing_yet_has_a_page(report: dict[str, Any], answer: Answer) -> None:
    """Unknown is said, not drawn."""
    empty = dict.fromkeys(("canary", "answer_tokens", "cache", "predicted", "read_share", "written_at"))
    cost = dict.fromkeys(report["cost"]) | {"unpriced_answers": 0}
    time: dict[str, Any] = {
        "began_at": None,
        "ended_at": None,
        "seconds": None,
        "items_per_s": None,
        "slowest_parts": [],
    }
    lists: dict[str, Any] = {name: [] for name in ("parts", "failures", "rounds", "models", "dearest")}
    tokens = dict.fromkeys(report["tokens"], 0)
    page = page_of(
        {**report, **empty, **lists, "cost": cost, "time": time, "tokens": tokens, "open": 20, "is_done": False}
    )
    text = Parsed(page).text
    assert "20 rows, of which nothing was sent yet" in text
    assert "no price is known" in text


def test_the_page_is_its_owners_only(report: dict[str, Any], tmp_path: Path) -> None:
    """It holds keys of rows."""
    write_page(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_mode & 0o077 == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page_of(report)
