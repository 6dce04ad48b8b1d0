"""What the user asked for: everything that makes a job what it is. Written into the job's file, without secrets."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

Cache = Literal["off", "5m", "1h"]
Kind = Literal["file", "files", "sql", "stdin", "native", "rows"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where rows come from."""

    kind: Kind
    where: str = ""
    """A path, a folder or a query, by kind; of rows of a program the fingerprint of what they hold."""
    glob: str = "**/*"
    """Of a folder: which files."""
    attached: tuple[str, ...] = ()
    """Names of databases that the query reads. Their addresses may hold passwords and are not kept."""
    format: str = ""
    """Of a file or standard input whose name does not say it: jsonl, csv, tsv, parquet or xlsx."""
    limit: int | None = None
    """Only so many rows."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One workload."""

    source: Source
    output: str
    """A file, or `NAME.TABLE` of an attached database."""
    model: str = ""
    """Native lines name their own."""
    max_tokens: int = 1024
    system: str = ""
    prompt: str = ""
    attachments: tuple[str, ...] = ()
    """Templates of paths or URLs of images and PDFs."""
    schema: dict[str, Any] | None = None
    params: dict[str, Any] = {}
    """Any other parameter of a Messages request."""
    id_column: str = ""
    cache: Cache = "off"
    """A cache marker behind the system prompt."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal workloads."""
        return hashlib.blake2b(msgspec.json.encode(self, order="sorted"), digest_size=16).hexdigest()


def encoded(spec: Spec) -> str:
    """Write a workload as JSON."""
    return msgspec.json.encode(spec).decode()


def decoded(text: str) -> Spec:
    """Read it again."""
    return msgspec.json.decode(text, type=Spec)
