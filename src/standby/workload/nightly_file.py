"""A workload as a TOML file, for a timer: what is read, asked, written, and what it may cost.

    id = "id"
    output = "labels.parquet"
    model = "claude-haiku-4-5"
    prompt = "@prompt.md"

    [source]
    sql = "select id, body as text from wh.docs"

    [attach]
    wh = "postgresql://reader:${PGPASSWORD}@db/warehouse"

    [budget]
    run = 5.00
    month = 60.00

Paths are relative to the file. `${NAME}` stands for a variable of the environment, in addresses only: a prompt may hold
any text. A key that is not known is an error, never ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from standby.workload.faults import BadInput
from standby.workload.native import dialect_of
from standby.workload.prompts import schema_of, text_of
from standby.workload.spec import Cache, Source, Spec
from standby.workload.states import FIRST_WAIT_S
from standby.workload.tables import is_table

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
OUTPUTS = frozenset({".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"})
"""Forms of files that can be added to."""
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Rows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[source]`: one of `file`, `files` and `sql`."""

    file: str = ""
    files: str = ""
    """A folder."""
    glob: str = "**/*"
    sql: str = ""
    format: str = ""
    limit: int | None = None


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[budget]`: what may be spent, in dollars; no key, no bound."""

    run: float | None = None
    month: float | None = None
    """Of a calendar month in UTC, all runs together."""


class Pacing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[pace]`: what is tried again, and how long is waited."""

    retries: int = 3
    more_room: bool = False
    wait: str = ""
    """Such as `20h`: give up waiting then; the next run goes on with the batches."""
    poll: float = FIRST_WAIT_S
    settle: float = 60.0


class _Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as it is written."""

    source: Rows
    output: str
    id: str = ""
    model: str = ""
    prompt: str = ""
    system: str = ""
    attach_files: tuple[str, ...] = ()
    schema: str | dict[str, Any] | None = None
    max_tokens: int = 1024
    cache: Cache = "off"
    params: dict[str, Any] = {}
    attach: dict[str, str] = {}
    budget: Budget = Budget()
    pace: Pacing = Pacing()
    base_url: str = ""


TABLES: Mapping[str, type[msgspec.Struct]] = {"source": Rows, "budget": Budget, "pace": Pacing}


class Nightly(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that runs again and again; `spec` names all of its rows, each run answers the new ones."""

    file: Path
    spec: Spec
    attached: dict[str, str]
    budget: Budget
    pace: Pacing
    wait_s: float | None
    base_url: str | None

    @property
    def key(self) -> str:
        """The column, or the field of a line, that names a row."""
        return "custom_id" if self.spec.source.kind == "native" else self.spec.id_column

    @property
    def is_table(self) -> bool:
        """Whether the output is a table of an attached database."""
        return is_table(self.spec.output, self.attached)


def load(file: Path, *, environ: Mapping[str, str] = os.environ) -> Nightly:
    """Read a workload; the working folder has to be that of the file. `BadInput` names the key that is wrong."""
    given = _parsed(file)
    contents = _strict(file, given)
    try:
        return _nightly(file, contents, environ)
    except BadInput as error:
        raise BadInput(f"{file.name}: {str(error).removeprefix('--')}") from None


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file}: is no UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{file}: {error}") from None


def _strict(file: Path, given: dict[str, Any]) -> _Contents:
    for name, known in _unknown(given):
        near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise BadInput(f"{file.name}: {name}: there is no such key; {meant}")
    try:
        return msgspec.convert(given, _Contents)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        missing = re.fullmatch(r"Object missing required field `(\w+)`", words)
        at = place.strip("`").lstrip(".")
        said = f"{'.'.join(filter(None, [at, missing[1]]))}: is missing" if missing else f"{at}: {words.lower()}"
        raise BadInput(f"{file.name}: {said.replace('`', '')}") from None


def _unknown(given: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Walk over the keys that nobody reads, each with those that are known in its place."""
    top = list(_Contents.__struct_fields__)
    yield from ((name, top) for name in given if name not in top)
    for table, kind in TABLES.items():
        known, inner = list(kind.__struct_fields__), given.get(table)
        names = inner if isinstance(inner, dict) else ()
        yield from ((f"{table}.{name}", known) for name in names if name not in known)


def _nightly(file: Path, contents: _Contents, environ: Mapping[str, str]) -> Nightly:
    attached = {name: _filled(address, f"attach.{name}", environ) for name, address in contents.attach.items()}
    for name in attached:
        if not name.isidentifier():
            raise BadInput(f"attach.{name}: a name is one plain word")
    _check_numbers(contents)
    spec = Spec(
        source=_source(contents, attached),
        output=_output(contents.output, attached),
        model=contents.model,
        max_tokens=contents.max_tokens,
        system=text_of(contents.system),
        prompt=text_of(contents.prompt),
        attachments=contents.attach_files,
        schema=schema_of(contents.schema) if isinstance(contents.schema, str) else contents.schema,
        params=contents.params,
        id_column=contents.id,
        cache=contents.cache,
    )
    _check_ask(spec)
    return Nightly(
        file=file,
        spec=spec,
        attached=attached,
        budget=contents.budget,
        pace=contents.pace,
        wait_s=seconds_of(contents.pace.wait, "pace.wait"),
        base_url=_filled(contents.base_url, "base_url", environ) or None,
    )


def _source(contents: _Contents, attached: Mapping[str, str]) -> Source:
    rows = contents.source
    ways = [way for way in ("file", "files", "sql") if getattr(rows, way)]
    if len(ways) != 1:
        raise BadInput("source: say where the rows are with one of file, files and sql")
    common: dict[str, Any] = {"format": rows.format, "limit": rows.limit}
    if rows.sql:
        return Source(kind="sql", where=rows.sql, attached=tuple(sorted(attached)), **common)
    if rows.files:
        return Source(kind="files", where=str(Path(rows.files).absolute()), glob=rows.glob, **common)
    path = Path(rows.file).absolute()
    if not path.exists():
        raise BadInput(f"source.file: {path}: there is no such file")
    is_native = not contents.prompt and not contents.attach_files and dialect_of(path) is not None
    return Source(kind="native" if is_native else "file", where=str(path), **common)


def _output(output: str, attached: Mapping[str, str]) -> str:
    if is_table(output, attached):
        return output
    path = Path(output).absolute()
    if path.suffix.lower() not in OUTPUTS:
        raise BadInput(f"output: {output}: answers are added to Parquet, CSV, TSV, JSONL or NAME.TABLE of [attach]")
    return str(path)


def _check_ask(spec: Spec) -> None:
    if spec.source.kind == "native":
        if spec.id_column:
            raise BadInput("id: ready requests are named by their custom_id; leave id out")
        if not spec.output.endswith((".jsonl", ".ndjson")):
            raise BadInput("output: answers to ready requests go to JSONL")
        return
    if not spec.id_column:
        raise BadInput("id: name the column that tells rows apart; nobody could say otherwise which rows are new")
    if not (spec.prompt or spec.attachments):
        raise BadInput("prompt: is missing")
    if not spec.model:
        raise BadInput("model: is missing")


def _check_numbers(contents: _Contents) -> None:
    found = {
        "max_tokens": contents.max_tokens,
        "source.limit": contents.source.limit,
        "budget.run": contents.budget.run,
        "budget.month": contents.budget.month,
        "pace.poll": contents.pace.poll,
    }
    for name, value in found.items():
        if value is not None and not 0 < value < 1e12:
            raise BadInput(f"{name}: must be above 0")
    for name, value in {"pace.retries": contents.pace.retries, "pace.settle": contents.pace.settle}.items():
        if not 0 <= value < 1e6:
            raise BadInput(f"{name}: must be at least 0")


def _filled(text: str, name: str, environ: Mapping[str, str]) -> str:
    """Put variables of the environment in; what they hold is never shown."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in environ:
            raise BadInput(f"{name}: the variable {found[1]} is not set")
        return environ[found[1]]

    return VARIABLE.sub(value, text)


def seconds_of(text: str, name: str) -> float | None:
    """Read a duration such as `90s`, `45m`, `20h`; None if it is empty."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if found is None:
        raise BadInput(f"{name}: write a number and s, m, h or d, such as 20h")
    return float(found[1]) * UNITS_S[found[2]]
