"""Cues inside a whole server: what is held back must not hold others up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anthropic

from standby.testing import emulator

SCRIPT = "never-*=never; slow-*=slow:1h; bad-*=errored:permission_error; over-*=fail:overloaded_error:1"


def requests() -> list[Any]:
    """Make a batch in which more items are held back than the engine has slots."""
    kinds = ["never"] * 100 + ["slow"] * 70 + ["bad", "over"] + ["fine"] * 70
    return [
        {
            "custom_id": f"{kind}-{number}",
            "params": {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
        }
        for number, kind in enumerate(kinds)
    ]


def test_items_that_are_held_back_do_not_hold_others_up() -> None:
    """Behind more hanging items than there are slots, all others get their results in their own time."""
    with emulator() as emu:
        emu.script(SCRIPT)
        client = anthropic.Anthropic(base_url=emu.url, api_key="any", max_retries=0)
        batch = client.messages.batches.create(requests=requests())
        emu.advance(hours=2)
        assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        emu.advance(hours=23)
        assert client.messages.batches.retrieve(batch.id).processing_status == "ended"
        results = list(client.messages.batches.results(batch.id))
    found = Counter((row.custom_id.partition("-")[0], row.result.type) for row in results)
    assert found == {
        ("never", "expired"): 100,
        ("slow", "succeeded"): 70,
        ("bad", "errored"): 1,
        ("over", "succeeded"): 1,
        ("fine", "succeeded"): 70,
    }
