from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.pricing.claude import claude_price
from standby.pricing.savings import break_even
from standby.workload.advice import Advice, Begin, Facts, advise
from standby.workload.estimate import Estimate, estimate
from standby.workload.history import Answers
from standby.workload.pieces import Piece, pieces_of
from standby.workload.steps import prices_of
from standby.workload.survey import Distinct, shared
from tests.workload.conftest import MODEL

PRICE = claude_price(MODEL, date(2026, 11, 22))
CENT = 10**10
FACTS = Facts(
    model=MODEL,
    rows=1_000,
    prompt_tokens=6_200_000,
    bytes_a_token=4.0,
    price=PRICE,
    least_cached=4_096,
    fixed=Begin(tokens=6_000, distinct=1),
    first=Begin(tokens=6_200, distinct=1_000),
)
Estimated = Callable[..., Estimate]


def told(**facts: Any) -> dict[str, Advice]:
    """Advise; name the sentences by their kind."""
    return {one.kind: one for one in advise(replace(FACTS, **facts))}


def test_a_marker_pays_by_the_published_hit_rates() -> None:
    """Contract 10.3: 6,000 shared tokens of 6,200; all but 2% read is $3.85 - $1.26, and 30% hits cost more."""
    found = told()["cache"]
    assert found.saves_pico == (3_000_000 * 10**6 - (300 * 6_000 * 50_000 + 700 * 6_000 * 10**6), 2_586 * 10**9)
    assert "`--cache 1h` saves $2.59 at 98% hits and costs $1.29 more at 30%; it pays from 53% on" in found.text


def test_break_evens_come_out_of_the_price_book() -> None:
    """Contract 10.3: 52.6% for an hour, 21.7% for five minutes at a tenth for reads; other models differ."""
    assert PRICE is not None
    shares = [break_even(PRICE.batch, prompt_tokens=9, ttl="1h"), break_even(PRICE.batch, prompt_tokens=9, ttl="5m")]
    assert [round(float(share or 0), 3) for share in shares] == [0.526, 0.217]
    sonnet = told(price=claude_price("claude-sonnet-5-5", date(2026, 11, 22)))["cache"]
    assert "it pays from 51% on" in sonnet.text


def test_a_batch_that_ends_soon_needs_no_hour() -> None:
    """By its history: five minutes cost less to write."""
    found = told(lasts_s=(20, 200))["cache"]
    assert "`--cache 5m`" in found.text
    assert "it pays from 22% on" in found.text


def test_a_prefix_below_the_least_of_the_model_is_not_recommended() -> None:
    """Contract 9.1, rule 9: it would be without effect, silently."""
    found = told(fixed=Begin(tokens=4_095, distinct=1))
    assert set(found) == {"cache_too_short"}
    assert "claude-haiku-4-5 caches from 4,096 on" in found["cache_too_short"].text
    assert "`--cache 1h` has no effect" in told(fixed=Begin(tokens=40, distinct=1), cache="1h")["cache_too_short"].text


def test_a_marker_that_loses_is_said_to_lose() -> None:
    """More forms than can hit: each is written at double price and not read often enough."""
    found = told(fixed=Begin(tokens=6_000, distinct=700), cache="1h")["cache_loses"]
    assert "700 forms for 1,000 requests, so that 30% at most can hit, and it pays from 53% on" in found.text
    assert found.saves_pico is not None
    assert found.saves_pico[0] == 129 * CENT
    assert "cache" not in told(fixed=Begin(tokens=6_000, distinct=700))


def test_five_minutes_are_short_for_a_batch() -> None:
    """A batch can outlast them; one that ends sooner does not."""
    assert "cache_lifetime" in told(cache="5m")
    assert told(cache="5m", lasts_s=(5, 60)) == {}
    assert told(cache="1h") == {}


def test_without_a_price_nothing_is_said_about_money() -> None:
    """A server of one's own."""
    assert all(one.saves_pico is None for one in advise(replace(FACTS, price=None, repeated=500)))


def test_equal_requests_are_paid_one_by_one() -> None:
    """With what asking each once would save, at both ends."""
    found = told(repeated=250, batch_pico=(400 * CENT, 800 * CENT))["repeated"]
    assert found.saves_pico == (100 * CENT, 200 * CENT)
    assert "repeated" not in told(repeated=9)


def test_room_that_no_answer_ever_needed_is_told() -> None:
    """Only after enough answers, and only if it is far more."""
    earlier = Answers(answers=500, mean=100.0, longest=200, hits=None)
    found = told(earlier=earlier, longest_answer=4_000, answer_tokens=4_000_000)["max_tokens"]
    assert "`--max-tokens 400` instead of 4000" in found.text
    assert "takes $9.00 off the dearest case" in found.text
    assert "max_tokens" not in told(earlier=earlier, longest_answer=700)
    assert "max_tokens" not in told(earlier=replace(earlier, answers=50), longest_answer=4_000)


def test_markers_of_ready_requests_are_left_alone() -> None:
    """Who places them knows more than their bytes tell."""
    assert told(is_marked=True, is_templated=False) == {}


@pytest.fixture
def estimated(service: workload.Service, tmp_path: Path) -> Estimated:
    """Estimate a job over the bodies that it writes."""

    def once(rows: list[dict[str, Any]], **spec: Any) -> Estimate:
        where = tmp_path / "in.jsonl"
        where.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = workload.Source(kind="file" if spec else "native", where=str(where))
        given = {"output": str(tmp_path / "out.jsonl"), **({"model": "claude-sonnet-5-5", **spec} if spec else {})}
        with workload.opened_job(workload.Spec(source=source, **given), endpoint=service.endpoint) as job:
            workload.prepare_job(job)
            return estimate(job, service, prices_of(job), past=())

    return once


def documents(count: int, each: int) -> list[dict[str, Any]]:
    """Questions about documents of 900 words."""
    dice = random.Random(4)
    texts = [" ".join(dice.choice(["party", "clause", "term", "sum"]) for _ in range(900)) for _ in range(count)]
    return [{"id": n, "document": texts[n % count], "question": f"What about {n}?"} for n in range(count * each)]


def test_an_order_that_keeps_requests_from_sharing_is_found(estimated: Estimated) -> None:
    """The id of a row before its document: nothing is shared, and all but one in twenty could be."""
    found = estimated(documents(5, 20), prompt="Row {{ id }}: {{ document }}\n{{ question }}")
    text = next(one.text for one in found.advice if one.kind == "order")
    assert text.startswith("The prompt puts {{ id }} before {{ document }}")
    assert "at 95% hits" in text


def test_an_order_that_is_right_needs_only_its_marker(estimated: Estimated) -> None:
    """The document first, in the prompt: it belongs into -s to be marked."""
    found = estimated(documents(5, 20), prompt="{{ document }}\n{{ id }} {{ question }}")
    assert [one.text[:26] for one in found.advice] == ["With {{ document }} in -s,"]


def test_no_order_helps_where_all_rows_differ(estimated: Estimated) -> None:
    """A document of its own for each row."""
    assert estimated(documents(40, 1), prompt="Row {{ id }}: {{ document }}").advice == ()


def test_forms_of_a_system_prompt_are_counted_over_the_bodies(estimated: Estimated) -> None:
    """A template in -s with five documents: five forms."""
    found = estimated(documents(5, 20), system="{{ document }}", prompt="{{ question }}")
    assert "one of 5 forms of tools and system prompt" in found.advice[0].text


def test_the_shared_beginning_of_ready_requests_is_found(estimated: Estimated) -> None:
    """The same document in a block of its own before each question."""
    text = documents(1, 1)[0]["document"]
    rows = [
        {
            "custom_id": f"a{n}",
            "params": {
                "model": "claude-sonnet-5-5",
                "max_tokens": 20,
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": t} for t in (text, f"And {n} now?")]}
                ],
            },
        }
        for n in range(60)
    ]
    found = estimated(rows)
    assert [one.kind for one in found.advice] == ["order"]
    assert "a cache_control marker of 1h saves" in found.advice[0].text


def test_equal_rows_are_found_over_the_bodies(estimated: Estimated) -> None:
    """Whatever their keys."""
    rows = [{"text": f"text {n % 30}"} for n in range(60)]
    assert estimated(rows, prompt="Say {{ text }}").advice[0].text.startswith("30 of 60 requests are the same")


def test_templates_are_taken_apart() -> None:
    """Text at both ends stands for itself; blocks make the order unknown."""
    found = pieces_of("Do it. {{ a }}, b: {{ b | upper }} end")
    assert found == [
        Piece(text_bytes=7, columns=frozenset()),
        Piece(text_bytes=0, columns=frozenset({"a"})),
        Piece(text_bytes=5, columns=frozenset({"b"})),
        Piece(text_bytes=4, columns=frozenset()),
    ]
    assert pieces_of("{% if a %}{{ b }}{% endif %}") is None


def test_many_values_are_counted_in_little_memory() -> None:
    """Exactly while they are few, to some percent when they are many."""
    few, many = Distinct(), Distinct()
    for number in range(2_000):
        few.add(hash(b"%d" % (number % 700)) % 2**64)
    for number in range(100_000):
        many.add(hash(b"%d" % (number % 50_000)) % 2**64)
    assert few.count == 700
    assert abs(many.count / 50_000 - 1) < 0.1


def test_what_two_texts_begin_with() -> None:
    """To the byte, also if one is the other's beginning."""
    assert shared(b"abcdef", b"abcxef") == b"abc"
    assert shared(b"abc", b"abcdef") == shared(b"abcdef", b"abc") == b"abc"
    assert shared(b"", b"abc") == shared(b"x", b"abc") == b""


def test_hits_are_no_higher_than_the_forms_allow() -> None:
    """Each form is written once: of 10 requests with 4 forms 6 can hit."""
    found = told(rows=10, prompt_tokens=62_000, fixed=Begin(tokens=6_000, distinct=4))["cache"]
    assert "at 60% hits" in found.text
    assert Fraction(6, 10) > Fraction(526, 1000)
