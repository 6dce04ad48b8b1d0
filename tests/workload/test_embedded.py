from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import duckdb
import pytest

from standby import workload
from tests.harness import ServerProcess
from tests.workload.conftest import MODEL, quick, read

pytestmark = pytest.mark.real
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["good", "bad"]}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[workload.Service]:
    """A server with the embedded model."""
    with ServerProcess(tmp_path_factory.mktemp("embedded") / "data", engine="local") as server:
        yield workload.Service(anthropic.Anthropic(base_url=server.url, api_key="any"))


def ran(service: workload.Service, folder: Path, output: str, source: workload.Source, **spec: Any) -> dict[str, Any]:
    """Run a workload to its end; return its report."""
    wanted = workload.Spec(source=source, output=str(folder / output), **spec)
    with workload.opened_job(wanted, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        return workload.run_job(job, service, pace=quick(first_poll_s=0.2))


def test_a_model_answers_by_a_schema(embedded: workload.Service, tmp_path: Path) -> None:
    """Rows of Parquet in; every answer is valid, and its properties are typed columns."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY (SELECT 'text ' || i AS text FROM range(3) r(i)) TO '{tmp_path}/in.parquet'")
    source = workload.Source(kind="file", where=str(tmp_path / "in.parquet"))
    report = ran(
        embedded, tmp_path, "out.parquet", source, model=MODEL, prompt="Judge: {{ text }}", schema=SCHEMA, max_tokens=60
    )
    rows = read(tmp_path / "out.parquet")
    assert (report["succeeded"], [row["status"] for row in rows]) == (3, ["succeeded"] * 3)
    for row in rows:
        assert (row["label"] in {"good", "bad"}, isinstance(row["score"], int)) == (True, True)
        assert json.loads(row["answer"]) == {"label": row["label"], "score": row["score"]}


def test_a_model_without_eyes_refuses_an_image_by_name(embedded: workload.Service, tmp_path: Path) -> None:
    """The row says which field it was, and costs nothing; its neighbour is answered."""
    (tmp_path / "a.png").write_bytes(PNG)
    source = tmp_path / "in.csv"
    source.write_text(f"path,text\n{tmp_path}/a.png,What is it?\n,Say a word.\n")
    given = workload.Source(kind="file", where=str(source))
    ran(
        embedded,
        tmp_path,
        "out.csv",
        given,
        model=MODEL,
        prompt="{{ text }}",
        attachments=("{{ path }}",),
        max_tokens=8,
    )
    seen, said = read(tmp_path / "out.csv")
    assert seen["status"] == "errored"
    assert "messages.0.content.0.type" in seen["error"]
    assert (seen["cost_usd"], said["answer"] is not None) == (None, True)


@pytest.mark.parametrize("dialect", ["claude", "openai"])
def test_a_conversation_is_answered(embedded: workload.Service, tmp_path: Path, dialect: str) -> None:
    """Several turns, in lines of both dialects, come back in their own."""
    turns = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    body = {"model": MODEL, "max_tokens": 40, "messages": turns}
    line = {"params": body} if dialect == "claude" else {"method": "POST", "url": "/v1/chat/completions", "body": body}
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"custom_id": "a", **line}) + "\n")
    ran(embedded, tmp_path, "out.jsonl", workload.Source(kind="native", where=str(source)))
    found = json.loads((tmp_path / "out.jsonl").read_text())
    answer = found["result"]["message"] if dialect == "claude" else found["response"]["body"]
    said = answer["content"][0]["text"] if dialect == "claude" else answer["choices"][0]["message"]["content"]
    asked = answer["usage"]["input_tokens" if dialect == "claude" else "prompt_tokens"]
    assert (found["custom_id"], bool(said.strip()), asked > 25) == ("a", True, True), "all turns are read"
