"""An engine's own metrics, by the names that its kind gives them; nonsense is nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from standby.engines.base import Signals
from standby.engines.chat.signals import NAMES, read_signals
from standby.wire.chat.dialect import GENERIC, HOST, LLAMACPP, SGLANG, VLLM, Dialect
from tests.engines.chat.scripted import Connect, Script

PAGES = {
    VLLM.name: """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a/b"} 3.0
vllm:num_requests_running{engine="1",model_name="a/b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a/b"} 2.0
vllm:num_requests_waiting{engine="1",model_name="a/b"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="a/b"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a/b"} 0.5
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a/b"} 1000.0
vllm:prompt_tokens_created{engine="0",model_name="a/b"} 1.7e+09
vllm:prefix_cache_queries_total{engine="0",model_name="a/b"} 990.0
vllm:prefix_cache_hits_total{engine="0",model_name="a/b"} 600.0
vllm:generation_tokens_total{engine="0",model_name="a/b"} 50.0
vllm:time_to_first_token_seconds_bucket{le="0.001",engine="0",model_name="a/b"} 0.0
""",
    SGLANG.name: """\
sglang:num_running_reqs{model_name="m",tp_rank="0"} 4.0
sglang:num_running_reqs{model_name="m",tp_rank="1"} 4.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 2.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.5
sglang:prompt_tokens_total{model_name="m"} 1000.0
sglang:cached_tokens_total{model_name="m",cache_source="device"} 500.0
sglang:cached_tokens_total{model_name="m",cache_source="host"} 100.0
sglang:generation_tokens_total{model_name="m"} 50.0
sglang:cache_hit_rate{model_name="m"} 0.6
""",
    LLAMACPP.name: """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 400
llamacpp:prompt_tokens_cached_total 600
llamacpp:tokens_predicted_total 50
llamacpp:requests_processing 4
llamacpp:requests_deferred 2
llamacpp:kv_cache_usage_ratio 0.5
""",
    HOST.name: """\
standby_host_sequences{class="live",state="running"} 1.0
standby_host_sequences{class="batch",state="running"} 3.0
standby_host_sequences{class="live",state="waiting"} 0.0
standby_host_sequences{class="batch",state="waiting"} 1.0
standby_host_sequences{class="batch",state="paused"} 1.0
standby_host_kv_blocks{state="total"} 200.0
standby_host_kv_blocks{state="used"} 100.0
standby_host_prompt_tokens_total{class="live"} 400.0
standby_host_prompt_tokens_total{class="batch"} 600.0
standby_host_cached_tokens_total{class="batch"} 600.0
standby_host_generated_tokens_total{class="batch"} 50.0
""",
}
SEEN = Signals(running=4, waiting=2, kv_used=0.5, prompt_tokens=1000, cached_tokens=600, output_tokens=50)


@pytest.mark.parametrize("kind", PAGES)
def test_each_kind_of_engine_says_the_same_in_its_own_names(kind: str) -> None:
    """Summed over an engine's parts, but not over workers that tell the same number."""
    assert read_signals(PAGES[kind].encode(), NAMES[kind]) == SEEN


def test_older_names_are_understood() -> None:
    """VLLM has renamed its KV gauge."""
    found = read_signals(b'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n', NAMES["vllm"])
    assert found == Signals(kv_used=0.5)


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "many", ""])
def test_nonsense_is_nothing(value: str) -> None:
    """Alone it is no answer at all; beside numbers that make sense only it is missing."""
    line = f"llamacpp:requests_processing {value}\n"
    assert read_signals(line.encode(), NAMES["llamacpp"]) is None
    both = read_signals(f"{line}llamacpp:requests_deferred 2\n".encode(), NAMES["llamacpp"])
    assert both == Signals(waiting=2)


@pytest.mark.parametrize(
    "text", [b"", b"<html>no</html>", b"\xff\xfe\x00", b"{}", b"llamacpp:requests_processing{ 3\n"]
)
def test_what_is_no_metrics_is_nothing(text: bytes) -> None:
    """A page of something else, garbage, a broken line."""
    assert read_signals(text, NAMES["llamacpp"]) is None


def test_a_share_above_one_is_nonsense() -> None:
    """Rather no number than a wrong one."""
    assert read_signals(b"vllm:kv_cache_usage_perc 37.5\n", NAMES["vllm"]) is None


@pytest.mark.parametrize("dialect", [VLLM, SGLANG, LLAMACPP, HOST])
async def test_the_endpoint_reads_them(script: Script, connect: Connect, dialect: Dialect) -> None:
    """From `/metrics`, at the root of the server whatever the path of its API."""
    script.pages["/metrics"] = PAGES[dialect.name].encode()
    assert await (await connect(dialect)).signals() == SEEN


async def test_a_kind_without_metrics_is_not_asked(script: Script, connect: Connect) -> None:
    """There is nothing to know the names of."""
    script.pages["/metrics"] = PAGES["vllm"].encode()
    assert await (await connect(GENERIC)).signals() is None
    assert "/metrics" not in [path for path, _ in script.asked]


async def test_an_engine_is_not_asked_by_everybody(script: Script, connect: Connect) -> None:
    """Whoever asks within a quarter of a second gets the same numbers."""
    script.pages["/metrics"] = PAGES["llamacpp"].encode()
    engine = await connect(LLAMACPP)
    found = await asyncio.gather(*(engine.signals() for _ in range(20)))
    assert found == [SEEN] * 20
    assert [path for path, _ in script.asked].count("/metrics") == 1


async def test_metrics_that_cannot_be_read_are_none(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, silent, or without end; and again when they are back."""
    monkeypatch.setattr("standby.engines.chat.signals.FRESH_S", 0.0)
    monkeypatch.setattr("standby.engines.chat.signals.WITHIN_S", 0.2)
    engine = await connect(LLAMACPP)
    assert await engine.signals() is None
    script.pages["/metrics"] = _silent
    assert await engine.signals() is None
    script.pages["/metrics"] = b"llamacpp:requests_processing 1\n" * 200_000
    assert await engine.signals() is None
    script.pages["/metrics"] = PAGES["llamacpp"].encode()
    assert await engine.signals() == SEEN


async def _silent(_: web.Request, __: Any) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError
