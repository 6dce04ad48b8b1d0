"""The simulator takes of each model what that model takes, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from standby.config import SimulatorSettings
from standby.engines.simulated import Simulated
from standby.errors import InvalidParams
from standby.wire.claude import CATALOGUE, CHECKED, Claude
from tests.engines.simulating import ask, started

SERVED = [claude for claude in CATALOGUE if claude.lifecycle(CHECKED) != "retired"]
TOOLS = [{"name": "clock", "input_schema": {"type": "object"}}]
PREFILLED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]
THINKING: list[dict[str, Any]] = [
    {"type": "enabled", "budget_tokens": 1024},
    {"type": "adaptive"},
    {"type": "disabled"},
    {"type": "between_tools"},
]
EVERYTHING: list[dict[str, Any]] = [
    {"messages": PREFILLED},
    {"temperature": 0.5},
    {"top_k": 5},
    {"output_config": {"effort": "low"}},
    {"tools": TOOLS, "tool_choice": {"type": "any"}},
    *({"thinking": one} for one in THINKING),
]


@pytest.fixture
async def engine() -> Simulated:
    """Take no time."""
    return await started(Simulated(SimulatorSettings()))


async def refusal(engine: Simulated, model: str, more: dict[str, Any]) -> str:
    """Return how a request is refused; empty if it is answered."""
    try:
        await engine.generate(ask(model=model, max_tokens=2000, **more))
    except InvalidParams as error:
        return f"{error.status} {error.type}: {error}"
    return ""


@pytest.mark.parametrize("claude", SERVED, ids=lambda claude: claude.id)
async def test_a_model_takes_what_the_catalogue_says(engine: Simulated, claude: Claude) -> None:
    """Beginning its answer, sampling, effort, tools that must be called, and each kind of thinking."""
    prefilled, warm, narrow, effort, forced, *thinking = [await refusal(engine, claude.id, more) for more in EVERYTHING]
    assert ("400 invalid_request_error: This model does not support assistant" in prefilled) is not claude.prefill
    assert (not warm, not narrow) == (claude.sampling, claude.sampling)
    assert (not effort) is bool(claude.effort)
    assert (not forced) is claude.forced_tools
    assert {one["type"] for one, refused in zip(THINKING, thinking, strict=True) if not refused} == claude.thinking


async def test_what_is_the_default_may_be_said(engine: Simulated) -> None:
    """A temperature of 1 asks for nothing."""
    assert not await refusal(engine, "claude-opus-5-5", {"temperature": 1, "top_p": 1, "top_k": 0})


@pytest.mark.parametrize("model", ["simulated", "claude-of-tomorrow"])
async def test_names_that_are_no_models_of_today_take_everything(engine: Simulated, model: str) -> None:
    """Nobody knows what they refuse."""
    assert not any([await refusal(engine, model, more) for more in EVERYTHING])


async def test_a_turn_that_ends_with_a_call_is_no_prefill(engine: Simulated) -> None:
    """Work of the service's own tools goes on from there."""
    call = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}]
    assert not await refusal(engine, "claude-opus-5-5", {"messages": turns})


@pytest.mark.parametrize("name", [name for c in CATALOGUE if c not in SERVED for name in (c.id, *c.aliases)])
async def test_retired_models_are_not_there(engine: Simulated, name: str) -> None:
    """Under none of their names: 404, as for a name that never was."""
    with pytest.raises(InvalidParams, match=f"model: {name}") as caught:
        await engine.generate(ask(model=name))
    assert (caught.value.status, caught.value.type) == (404, "not_found_error")
