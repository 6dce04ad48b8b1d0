"""OpenVINO GenAI, as little of it as the step loop needs. Only this file knows the library.

Traps it takes care of: usage statistics are kept from loading; every handle is kept (dropping one drops the
request); tokens are read before a cancel; the KV cache has a fixed size.
"""

from __future__ import annotations

import logging
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standby.host.ask import Sampling, Turn
from standby.host.gguf import Header
from standby.host.pieces import Pieces

BLOCK = 32
"""Tokens of a KV block on the CPU; checked against the library at start."""
BYTES_A_VALUE = 1.1875
"""Bytes of a cached value: 8 bits, plus its share of the scales of keys (by channel) and values (by token)."""
log = logging.getLogger("standby.host")


def silence_telemetry() -> None:
    """Keep `openvino-telemetry` from being imported: OpenVINO then takes its own stub and sends nothing."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@dataclass(slots=True, kw_only=True)
class Read:
    """What one sequence gave in a step."""

    tokens: list[int]
    finish: str | None
    """`stop`, `length`, `failed`, or None while it goes on."""


class Pipeline:
    """A loaded model with its tokenizer, its template and its KV cache."""

    def __init__(
        self, model: Path, header: Header, *, threads: int, kv_cache_mb: int, slots: int, context: int
    ) -> None:
        """Load the model: seconds. Raises `RuntimeError` if the library refuses the file."""
        silence_telemetry()
        import numpy  # noqa: ICN001, PLC0415 - heavy and only needed in the child
        import openvino  # noqa: PLC0415
        import openvino_genai  # noqa: PLC0415

        self._np, self._ov, self._genai = numpy, openvino, openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.num_kv_blocks = self.blocks = blocks_in(kv_cache_mb, header)
        scheduler.max_num_seqs = 2 * slots
        properties = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)
        self._tokenizer = self._pipeline.get_tokenizer()
        self.pieces = Pieces(self._tokenizer)
        self.eos = int(self._tokenizer.get_eos_token_id())
        self.context = min(context or header.context, header.context, (self.blocks - 1) * BLOCK)
        self._next = 0
        self._reasons = {
            openvino_genai.GenerationFinishReason.NONE: None,
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }

    def prompt(self, turns: tuple[Turn, ...]) -> list[int]:
        """Write the conversation in the model's template; a last assistant turn is a beginning that it goes on with."""
        prefill = turns[-1].text if turns[-1].role == "assistant" else ""
        history = [{"role": t.role, "content": t.text} for t in (turns[:-1] if prefill else turns)]
        text = self._tokenizer.apply_chat_template(history, add_generation_prompt=True) if history else ""
        return self.encode(text + prefill)

    def encode(self, text: str) -> list[int]:
        """Turn text with its special tokens into ids."""
        tensor = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        ids: list[int] = tensor.data[0].tolist()
        return ids

    def add(self, tokens: list[int], *, limit: int, sampling: Sampling, grammar: str | None, kept: int) -> Any:
        """Hand a sequence to the library; it joins at the next step. Returns its handle, which must be kept."""
        self._next += 1
        tensor = self._ov.Tensor(self._np.array([tokens], dtype=self._np.int64))
        return self._pipeline.add_request(self._next, tensor, self._config(limit, sampling, grammar, kept))

    def _config(self, limit: int, sampling: Sampling, grammar: str | None, kept: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = limit
        config.eos_token_id = self.eos
        config.stop_token_ids = {self.eos}
        config.ignore_eos = sampling.ignore_eos
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p or 1e-6
            if sampling.top_k > 0:
                config.top_k = sampling.top_k
            seed = random.getrandbits(31) if sampling.seed is None else sampling.seed + kept
            config.rng_seed = seed % 2**31
        if grammar is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(grammar=grammar)
        return config

    def step(self) -> None:
        """Compute one step for all sequences; holds the GIL."""
        self._pipeline.step()

    def busy(self) -> bool:
        """Whether the library has anything left to do, cancelled sequences included."""
        return bool(self._pipeline.has_non_finished_requests())

    def read(self, handle: Any) -> Read:
        """Take what a sequence gave since the last read."""
        found = Read(tokens=[], finish=None)
        while handle.can_read():
            for output in handle.read().values():
                found.tokens.extend(output.generated_ids)
                found.finish = self._reasons.get(output.finish_reason, "failed")
        if found.finish is None and handle.get_status() != self._genai.GenerationStatus.RUNNING:
            found.finish = "stop" if handle.get_status() == self._genai.GenerationStatus.FINISHED else "failed"
        return found

    def usage(self) -> float:
        """Return the share of the KV cache in use at the last step, 0 to 1."""
        return float(self._pipeline.get_metrics().cache_usage) / 100

    def check_block(self) -> None:
        """Compare the block size with the library's, by what a one-token run after 2 blocks + 1 token takes."""
        tokens = [self.eos] * (2 * BLOCK + 1)
        handle = self.add(tokens, limit=1, sampling=Sampling(temperature=0), grammar=None, kept=0)
        while self.busy():
            self.step()
        taken = round(self.usage() * self.blocks)
        self.read(handle)
        if taken != 3:
            log.warning("kv blocks: expected 3 for %d tokens, the library took %d; cached tokens may be off", 65, taken)


def blocks_in(megabytes: int, header: Header) -> int:
    """Return how many KV blocks fit into the memory; at least enough for a short conversation."""
    return max(64, int(megabytes * 2**20 // (header.kv_values * BYTES_A_VALUE * BLOCK)))
