"""The same job as people write it with the SDK: `create(requests=[…])`, `results()`, a dictionary, a file.

`python -m bench.workload_plain rows.parquet out.jsonl URL CHUNK` says `idle`, waits for a line, runs, and prints its
phases as JSON. It survives no crash; it splits by rows, whose number a person has found by trying.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anthropic
import duckdb

from bench.workloads import ASK, MAX_TOKENS, MODEL


def main() -> int:
    """Run."""
    source, output, url, chunk = sys.argv[1:]
    client = anthropic.Anthropic(base_url=url, api_key="bench", timeout=600)
    print("idle", flush=True)
    sys.stdin.readline()
    submit, wait, collect = 0.0, 0.0, 0.0
    batches = []
    rows = duckdb.connect(":memory:").execute(f"SELECT id, text FROM '{source}'")  # noqa: S608 - a path of ours
    while some := rows.fetchmany(int(chunk)):
        began = time.perf_counter()
        batches.append((client.messages.batches.create(requests=[request(*row) for row in some]).id, some))
        submit += time.perf_counter() - began
    with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123 - as people write it
        for batch_id, some in batches:
            began = time.perf_counter()
            while client.messages.batches.retrieve(batch_id).processing_status != "ended":
                time.sleep(0.5)
            wait += time.perf_counter() - began
            began = time.perf_counter()
            answers = {one.custom_id: one.result for one in client.messages.batches.results(batch_id)}
            for number, text in some:
                result = answers[f"row-{number}"]
                assert result.type == "succeeded"
                block: Any = result.message.content[0]
                file.write(json.dumps({"id": number, "text": text, "answer": block.text}) + "\n")
            collect += time.perf_counter() - began
    print(json.dumps({"phases": {"submit": submit, "wait": wait, "collect": collect}}), flush=True)
    return 0


def request(number: int, text: str) -> Any:
    """Write one request."""
    params = {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": ASK + text}]}
    return {"custom_id": f"row-{number}", "params": params}


if __name__ == "__main__":
    sys.exit(main())
