"""Three kinds of workload, for tests and for measurements: rows that are alike, a long tail, ready requests."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

from standby import workload

MODEL = "claude-haiku-4-5"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOL = {"name": "find", "description": "Finds things by their names", "input_schema": SCHEMA}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" * 900).decode()


def short_rows(folder: Path, rows: int = 600) -> workload.Spec:
    """Reviews of some words, all alike."""
    dice = random.Random(1)
    where = written(folder, [{"text": "word " * dice.randint(5, 40)} for _ in range(rows)])
    source = workload.Source(kind="file", where=where)
    return workload.Spec(source=source, output=_out(folder), model=MODEL, prompt="Label: {{ text }}", max_tokens=60)


def long_tail(folder: Path, rows: int = 500) -> workload.Spec:
    """Documents of very different lengths behind one long system prompt, which is cached."""
    dice = random.Random(2)
    where = written(folder, [{"text": "clause " * int(dice.paretovariate(1.2) * 40)} for _ in range(rows)])
    return workload.Spec(
        source=workload.Source(kind="file", where=where),
        output=_out(folder),
        model="claude-sonnet-5-5",
        system="You know the law of trade. " * 300,
        prompt="Summarize: {{ text }}",
        cache="1h",
        max_tokens=90,
    )


def ready_requests(folder: Path, rows: int = 300) -> workload.Spec:
    """Several turns, images in some, a schema, tools, two models."""
    dice = random.Random(3)
    lines = [{"custom_id": f"r{number}", "params": _request(number, dice)} for number in range(rows)]
    return workload.Spec(source=workload.Source(kind="native", where=written(folder, lines)), output=_out(folder))


KINDS = (short_rows, long_tail, ready_requests)


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as lines of JSON; return where."""
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _request(number: int, dice: random.Random) -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    text = {"type": "text", "text": "so it went on " * dice.randint(3, 80)}
    params: dict[str, Any] = {
        "model": MODEL if number % 3 else "claude-haiku-5-5",
        "max_tokens": dice.randint(20, 200),
        "messages": [
            {"role": "user", "content": "Hello, who are you?"},
            {"role": "assistant", "content": "A model."},
            {"role": "user", "content": [text, image] if number % 4 == 0 else [text]},
        ],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    return {**params, "tools": [TOOL]} if number % 2 else params


def _out(folder: Path) -> str:
    return str(folder / "out.jsonl")
