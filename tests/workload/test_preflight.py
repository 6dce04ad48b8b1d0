from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.testing import Emulator
from standby.wire.claude import CATALOGUE
from standby.workload.claudes import least_cached, takes_sampling
from standby.workload.faults import BadInput
from standby.workload.preflight import Looked, check_lengths, flaws_of, preflight
from standby.workload.survey import Survey, survey
from tests.workload.conftest import MODEL, write_rows

Look = Callable[..., Looked]
NEW, OLD = "2026-10-21", "2023-06-01"


@pytest.fixture
def look(service: workload.Service, tmp_path: Path) -> Look:
    """Prepare a job of three rows and look at its models."""

    def once(lines: list[dict[str, Any]] | None = None, **spec: Any) -> Looked:
        where = write_rows(tmp_path / "in.jsonl", 3)
        if lines is not None:
            where.write_text("".join(json.dumps(line) + "\n" for line in lines))
            spec = {"prompt": "", "model": "", **spec}
        source = workload.Source(kind="native" if lines else "file", where=str(where))
        given = {"model": MODEL, "prompt": "Say {{ text }}", "output": str(tmp_path / "out.jsonl"), **spec}
        with workload.opened_job(workload.Spec(source=source, **given), endpoint=service.endpoint) as job:
            workload.prepare_job(job)
            return preflight(survey(job), service)

    return once


def asking(**params: Any) -> Survey:
    """Survey one request."""
    found = Survey()
    given = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **params}
    found.add((1, 0), json.dumps({"custom_id": "a", "params": given}).encode())
    return found


def flaws(info: dict[str, Any], version: str = NEW, betas: str = "", **params: Any) -> list[str]:
    """Hold one request against what a service says of its model."""
    return [flaw.text for flaw in flaws_of(asking(**params).most_asked, info, version=version, betas=betas)]


def test_a_model_that_is_fine_is_passed_in_silence(look: Look) -> None:
    """Nothing to say."""
    found = look()
    assert (found.warnings, found.is_reached) == ((), True)
    assert found.models[MODEL]["max_input_tokens"] == 200_000


def test_a_model_that_is_not_there_is_named_with_near_ones(look: Look) -> None:
    """Also if the service would have taken the batch and refused each row a day later."""
    with pytest.raises(BadInput, match=r"no model 'haiku-4-5'; near to it: .*claude-haiku-4-5"):
        look(model="haiku-4-5")


def test_a_model_that_is_served_but_not_listed_is_only_told(look: Look) -> None:
    """Some services answer to more names than they list."""
    assert "is not among the models" in look(model="claude-haiku-9").warnings[0]


def test_a_model_that_ends_soon_is_told_with_its_day(look: Look) -> None:
    """Deprecated is no reason to stop."""
    assert look(model="claude-sonnet-4-5").warnings == ("claude-sonnet-4-5 is deprecated and retires on 2026-11-30",)


def test_of_ready_requests_every_model_is_looked_at(look: Look) -> None:
    """What only some rows get wrong comes back as errors, and is told before."""
    turns = [{"role": "user", "content": "Hi"}]
    lines = [
        {"custom_id": "a", "params": {"model": MODEL, "max_tokens": 5, "messages": turns}},
        {"custom_id": "b", "params": {"model": "opus", "max_tokens": 5, "messages": turns}},
        {"custom_id": "c", "params": {"model": MODEL, "max_tokens": 5, "messages": turns, "temperature": 0.5}},
    ]
    told = look(lines).warnings
    assert any("no model 'opus'" in text and "1 of 3 rows" in text for text in told)
    assert any(text.startswith("temperature:") and "1 of 3 rows" in text for text in told)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"params": {"temperature": 0.2}}, "temperature: is refused under API version 2026-10-21; leave it out"),
        ({"max_tokens": 64_001}, "max_tokens: 64,001 is more than 64,000"),
    ],
)
def test_what_every_row_gets_wrong_stops_the_job(look: Look, spec: dict[str, Any], words: str) -> None:
    """Nothing is sent that would come back as errors only."""
    with pytest.raises(BadInput, match=f"{words}.*nothing was sent"):
        look(**spec)


@pytest.mark.parametrize("fault", ["models=404", "models=503", "models=429+retry_after:0"])
def test_a_service_that_tells_nothing_of_models_stops_no_job(
    look: Look, standby_emulator: Emulator, fault: str
) -> None:
    """An unknown model may be a fine one."""
    standby_emulator.fault(fault)
    assert look().models == {}


def test_what_the_service_says_no_to_is_found() -> None:
    """Batches, schemas, images, PDFs, kinds of thinking; a model that is gone."""
    no, schema = {"supported": False}, {"format": {"type": "json_schema", "schema": {}}}
    info: dict[str, Any] = {"lifecycle": "retired", "retires_at": "2026-02-19T00:00:00Z", "max_tokens": 8}
    names = ("batch", "structured_outputs", "image_input", "pdf_input")
    info["capabilities"] = {**dict.fromkeys(names, no), "thinking": {"types": {"enabled": no, "adaptive": no}}}
    source = {"type": "base64", "data": "eA==", "media_type": "image/png"}
    content = [{"type": kind, "source": source} for kind in ("image", "document")]
    found = flaws(
        info,
        output_config=schema,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[{"role": "user", "content": content}],
    )
    wanted = ["retired since 2026-02-19", "batches", "structured", "images", "PDFs", "max_tokens: 9", "'enabled'"]
    assert all(any(word in text for text in found) for word in wanted), found
    assert len(found) == len(wanted)


@pytest.mark.parametrize("info", [{}, {"capabilities": None}, {"capabilities": {}, "max_tokens": None}])
def test_what_the_service_does_not_say_is_held_against_nobody(info: dict[str, Any]) -> None:
    """An unknown capability is no claim."""
    assert flaws(info, output_config={"format": {"type": "json_schema", "schema": {}}}, max_tokens=10**6) == []


def test_longer_answers_may_be_asked_for_by_a_beta() -> None:
    """Contract 3.3: up to 300,000 tokens in batches."""
    info = {"max_tokens": 128_000}
    assert flaws(info, max_tokens=200_000) != []
    assert flaws(info, max_tokens=200_000, betas="x,output-300k-2026-03-24") == []


def test_sampling_under_the_older_version_depends_on_the_model() -> None:
    """Later models take none; of an unknown one nothing is said."""
    assert flaws({}, version=OLD, temperature=0.5) == []
    assert flaws({}, version=OLD, temperature=0.5, model="claude-opus-5") != []
    assert flaws({}, version=OLD, temperature=0.5, model="qwen") == []


def test_what_no_batch_takes_is_found() -> None:
    """`stream` and `speed` (contract 3.3); a request without a model."""
    assert flaws({}, stream=True) == ["`stream: true` is not taken in batches"]
    assert flaws({}, speed="fast") == ["`speed: fast` is not taken in batches"]
    assert flaws({}, model=None) == ["the requests name no model"]
    assert flaws({}, stream=False, speed="standard", temperature=None) == []


def test_a_prompt_that_no_context_holds_is_told() -> None:
    """By the length that was reckoned."""
    looked = Looked(models={"m": {"max_input_tokens": 100}, "n": {"max_input_tokens": None}})
    assert check_lengths(looked, {"m": 100, "n": 10**9, "o": 5}) == ()
    assert "about 101 tokens and m takes 100" in check_lengths(looked, {"m": 101})[0]


def test_our_own_knowledge_of_claude_is_the_catalogues() -> None:
    """Every model of the catalogue is known by each of its names, and nothing is claimed of others."""
    for claude in CATALOGUE:
        for name in (claude.id, *claude.aliases):
            if not name.startswith("claude-3-7"):  # its least is presumed there
                assert least_cached(name) == claude.minimum, name
            assert takes_sampling(name) == claude.sampling, name
    assert (least_cached("qwen"), takes_sampling("qwen")) == (None, None)
