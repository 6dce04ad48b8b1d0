"""The catalogue against what the SDK and the price book know."""

from __future__ import annotations

import datetime as dt
import typing

import pytest
from anthropic.resources.messages.messages import DEPRECATED_MODELS, MODELS_TO_WARN_WITH_THINKING_ENABLED
from anthropic.types.model import Model
from genai_prices.data import providers

from standby.wire.claude import CATALOGUE, CHECKED, find, served
from standby.wire.models import FEATURES

NAMES = [name for part in typing.get_args(Model) for name in typing.get_args(part)]
MONTHS = dict(zip(("January", "February", "June", "July", "November"), (1, 2, 6, 7, 11), strict=True))


def day_of(text: str) -> dt.date:
    """Read a day as the SDK writes it."""
    month, day, year = text.replace(",", "").split()
    return dt.date(int(year), MONTHS[month], int(day.removesuffix("th").removesuffix("st")))


@pytest.mark.parametrize("name", NAMES)
def test_every_model_that_the_sdk_names_is_known(name: str) -> None:
    """A client that takes a name from its SDK finds the model."""
    found = find(name)
    assert found is not None
    assert name in {found.id, *found.aliases}


@pytest.mark.parametrize("name", sorted(DEPRECATED_MODELS))
def test_retirements_are_those_that_the_sdk_warns_of(name: str) -> None:
    """Models so old that no list names them any more are not known at all."""
    found = find(name)
    if found is None:
        assert day_of(DEPRECATED_MODELS[name]) < dt.date(2026, 2, 1)
    else:
        assert found.retires == day_of(DEPRECATED_MODELS[name])


def test_only_models_that_the_sdk_warns_of_retire_before_long() -> None:
    """Opus 4.1 retired without a warning in this SDK."""
    unwarned = {c.id for c in CATALOGUE if c.retires and not {c.id, *c.aliases} & set(DEPRECATED_MODELS)}
    assert unwarned == {"claude-opus-4-1-20250805"}


def test_both_kinds_of_thinking_are_taken_where_the_sdk_warns_of_the_old_one() -> None:
    """A warning means that the old kind still works."""
    for name in MODELS_TO_WARN_WITH_THINKING_ENABLED:
        found = find(name)
        assert found is not None
        assert {"adaptive", "enabled"} <= found.thinking


@pytest.mark.parametrize("claude", [c for c in CATALOGUE if c.retires is None], ids=lambda c: c.id)
def test_context_lengths_are_those_of_the_price_list(claude: object) -> None:
    """Two independent lists agree."""
    assert isinstance(claude, type(CATALOGUE[0]))
    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    listed = {model.id: model.context_window for model in anthropic.models}
    known = [listed[name] for name in (claude.id, *claude.aliases) if listed.get(name)]
    assert set(known) <= {claude.max_input_tokens}


def test_models_are_listed_newest_first_and_once() -> None:
    """As the API lists them."""
    released = [claude.released for claude in CATALOGUE]
    names = [name for claude in CATALOGUE for name in (claude.id, *claude.aliases)]
    assert released == sorted(released, reverse=True)
    assert len(names) == len(set(names))


def test_what_a_model_does_unasked_is_something_that_it_takes() -> None:
    """No entry contradicts itself."""
    for claude in CATALOGUE:
        assert claude.thinks in claude.thinking
        assert claude.max_output_tokens <= claude.max_batch_tokens <= claude.max_input_tokens
        assert claude.features <= FEATURES


def test_a_model_is_deprecated_until_the_day_on_which_it_retires() -> None:
    """From that day on it is not served."""
    sonnet = find("claude-sonnet-4-5")
    assert sonnet is not None
    assert sonnet.lifecycle(CHECKED) == "deprecated"
    assert sonnet.lifecycle(dt.date(2026, 11, 30)) == "retired"
    assert sonnet in served(CHECKED)
    assert sonnet not in served(dt.date(2026, 11, 30))


def test_a_date_behind_a_name_without_one_is_not_looked_at() -> None:
    """Snapshots of a model that has none are the model; other names are nobody."""
    assert find("claude-opus-5-20260724") is find("claude-opus-5")
    assert find("claude-haiku-4-5-20990101") is None
    assert find("claude-nobody-1") is None
    assert find("smollm2") is None
