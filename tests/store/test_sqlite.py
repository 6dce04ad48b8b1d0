"""What only the SQLite store promises: its schema, its plans, its doors and its errors."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from standby import doors
from standby.errors import StandbyError, StartError, StoreError
from standby.records import DAY, BatchId, OwnLimits, PlanFacts, Reuse, Rules, Seal
from standby.states import BATCH_MOVES, RUN_MOVES, BatchState, RunState
from standby.store.sqlite import SqliteStore, faults, statements
from standby.store.sqlite.migrate import APPLICATION_ID
from tests.store.build import LEASE_US, NOW, commit, created, ended, items_in, leased, new_batch, seal_of, work_off

NOUNS = ("bills", "batches", "runs", "chores", "tenants", "reports", "checks")
ROOM = Path(str(statements._ROOM))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    return tmp_path / "data" / "standby.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """A store on that file."""
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def raw(store: SqliteStore, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside the store, for looking and for damage."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def structure(db: sqlite3.Connection) -> dict[str, object]:
    """Describe tables, columns, keys, indexes and views as SQLite understands them, whatever the layout of the text."""
    described: dict[str, object] = {}
    for kind, name, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall():
        parts = [kind, table, " ".join(re.sub(r"--.*", "", sql or "").split())]
        for pragma in ("table_xinfo", "foreign_key_list", "index_xinfo"):
            parts += [tuple(row) for row in db.execute(f"PRAGMA {pragma}({name})")]
        described[name] = parts
    return described


def content(path: Path) -> bytes:
    """Read a small file."""
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Write a small file."""
    path.write_bytes(data)


def python_of_the_room() -> str:
    """All Python of the SQLite store."""
    return "".join(file.read_text(encoding="utf-8") for file in ROOM.glob("*.py"))


def test_migrations_add_up_to_the_schema() -> None:
    """All migrations in order give exactly what schema.sql gives."""
    migrated, fresh = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    for script in statements.migrations():
        for statement in statements.split(script):
            migrated.execute(statement)
    fresh.executescript((ROOM / "schema.sql").read_text(encoding="utf-8"))

    assert structure(migrated) == structure(fresh)
    assert len(structure(fresh)) > 20
    migrated.close()
    fresh.close()


def test_migrations_are_numbered_without_gaps() -> None:
    """The n-th file begins with n."""
    numbers = [int(place.name[:4]) for place in statements._migration_files()]

    assert numbers == list(range(1, len(numbers) + 1))


def test_every_statement_is_used_and_every_used_statement_exists() -> None:
    """Names in Python and names in SQL files are the same."""
    named = {name for noun in NOUNS for name in statements.load(noun)}
    used = set(re.findall(r'"(\w+)"', python_of_the_room()))

    assert named <= used
    assert {file.stem for file in ROOM.glob("*.sql")} == {*NOUNS, "schema"}


async def test_a_new_file_has_the_version_of_its_last_migration(raw: sqlite3.Connection) -> None:
    """`user_version` counts the migrations; the file is in WAL mode."""
    assert raw.execute("PRAGMA user_version").fetchone()[0] == len(statements.migrations())
    assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize("version", range(1, len(statements.migrations())))
async def test_a_file_of_an_older_version_goes_on(path: Path, version: int) -> None:
    """Batches that an older schema keeps are read, leased and listed by this program, whatever they lack by default."""
    await older_file(path, version)

    store = SqliteStore(path)
    await store.open()
    workspace = (await store.list_workspaces())[0]
    batch = (await store.list_batches(workspace.id, limit=10, after=None, before=None)).batches[0]
    (backlog,) = await store.backlogs(now_us=NOW)
    facts = await store.plan_of(batch.id)
    lease = await leased(store, batch.id)
    before = await store.reuse_of(batch.id)
    assert await store.commit_segments([commit(lease, [0], reuse=Reuse(prompt=9, reused=5))], now_us=NOW) == [True]
    after = await store.reuse_of(batch.id)
    old = (await store.tokens_of(BatchId("msgbatch_0")))["input"], await store.reuse_of(BatchId("msgbatch_0"))
    await store.close()

    assert batch.size == lease.count == 2
    assert (before, after, old) == (Reuse(), Reuse(prompt=9, reused=5), (7, Reuse()))
    assert (backlog.left_items, backlog.left_cost, facts) == (2, 0, PlanFacts())
    assert lease.rules == Rules(version="2023-06-01", betas=("b-1",), user_profile_id="profile_1")


async def older_file(path: Path, version: int) -> None:
    """Write a file as that version left it, with one batch that runs."""
    path.parent.mkdir()
    with sqlite3.connect(path) as raw:
        for script in statements.migrations()[:version]:
            for statement in statements.split(script):
                raw.execute(statement)
        raw.execute("INSERT INTO workspaces VALUES ('wrkspc_1', 'default', 1)")
        raw.execute(
            "INSERT INTO batches (id, workspace_id, state, size, created_us, expires_us, credential, body_digest, "
            "version, betas, user_profile_id) VALUES ('msgbatch_1', 'wrkspc_1', 'in_progress', 2, ?, ?, 'key-1', "
            "x'00', '2023-06-01', '[\"b-1\"]', 'profile_1')",
            (NOW, NOW + DAY),
        )
        raw.execute("INSERT INTO runs (batch_id, number, first, count) VALUES ('msgbatch_1', 0, 0, 2)")
        raw.execute(
            "INSERT INTO ledger (batch_id, run, epoch, day, workspace_id, succeeded, errored, canceled, expired, "
            "input_tokens, write_5m_tokens, write_1h_tokens, read_tokens, output_tokens) "
            "VALUES ('msgbatch_0', 0, 1, 20000, 'wrkspc_1', 1, 0, 0, 0, 7, 0, 0, 0, 1)"
        )
        raw.execute(f"PRAGMA user_version = {version}")
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    raw.close()


async def test_every_commit_is_synced(store: SqliteStore) -> None:
    """The writer runs with synchronous=FULL and foreign keys on."""
    writer = store._database._writer
    assert writer is not None
    assert writer.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert writer.execute("PRAGMA foreign_keys").fetchone()[0] == 1


async def test_a_newer_schema_is_refused_and_left_alone(store: SqliteStore, path: Path) -> None:
    """A file of a newer program stops the start with words that say what to do, and stays as it was."""
    await store.close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(statements.migrations()) + 1}")
    raw.close()
    before = content(path)

    with pytest.raises(StartError, match="newer Standby"):
        await SqliteStore(path).open()

    assert content(path) == before


async def test_a_database_of_another_program_is_refused(path: Path) -> None:
    """A file with foreign tables stops the start and keeps its tables."""
    path.parent.mkdir()
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE songs (title)")
    raw.close()

    with pytest.raises(StartError, match="another program"):
        await SqliteStore(path).open()


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """Something else under our name stops the start with words that say what to do."""
    path.parent.mkdir()
    write(path, b"not a database at all" * 100)

    with pytest.raises(StartError, match="not a database of Standby"):
        await SqliteStore(path).open()

    assert content(path) == b"not a database at all" * 100


async def test_a_folder_that_cannot_be_made_is_refused(path: Path) -> None:
    """A file where the data folder should be stops the start."""
    path.parent.write_text("in the way")

    with pytest.raises(StartError):
        await SqliteStore(path).open()


async def test_two_openings_at_once_make_one_store(path: Path) -> None:
    """Two processes that find no file agree on one default workspace."""
    stores = [SqliteStore(path) for _ in range(2)]
    await asyncio.gather(*(store.open() for store in stores))

    workspaces = [await store.list_workspaces() for store in stores]

    assert workspaces[0] == workspaces[1]
    assert len(workspaces[0]) == 1
    for store in stores:
        await store.close()


HOT = {
    ("runs", "backlogs"): True,
    ("runs", "lease_run"): False,
    ("runs", "run_to_commit"): False,
    ("runs", "renew_leases"): False,
    ("runs", "release_runs"): False,
    ("chores", "batches_to_close"): True,
    ("chores", "archive_due"): False,
    ("batches", "get_batch"): False,
    ("batches", "list_newest"): False,
    ("batches", "list_older"): False,
    ("batches", "list_newer"): False,
    ("batches", "find_by_digest"): False,
    ("batches", "find_by_idempotency_key"): False,
    ("reports", "queue_of"): True,
    ("bills", "spent"): False,
    ("tenants", "limits_of"): False,
    ("reports", "tokens_of"): False,
    ("reports", "reuse_of"): False,
    ("reports", "plan_of"): False,
    ("tenants", "find_key"): False,
}


@pytest.mark.parametrize(("noun", "name"), HOT)
async def test_hot_queries_use_their_indexes(raw: sqlite3.Connection, noun: str, name: str) -> None:
    """No hot query scans a table or sorts; those over all open batches read nothing but covering indexes."""
    statement = statements.load(noun)[name]
    values = dict.fromkeys(re.findall(r":(\w+)", statement), 0)
    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    steps = [step for step in plan if step.startswith(("SCAN", "SEARCH")) and "(subquery" not in step]

    assert steps
    assert not any("TEMP B-TREE" in step for step in plan)
    for step in steps:
        if HOT[noun, name]:
            assert "COVERING INDEX" in step
        else:
            assert re.search(r"SEARCH .* USING (COVERING )?(INDEX|PRIMARY KEY)", step)


async def test_every_move_of_a_state_is_legal(store: SqliteStore, raw: sqlite3.Connection) -> None:
    """In a life with everything in it, each change of a state column stands in the tables of states.py."""
    raw.executescript(
        """
        CREATE TABLE moves (noun TEXT, before TEXT, after TEXT, epochs INTEGER);
        CREATE TRIGGER batch_moves AFTER UPDATE OF state ON batches
        BEGIN INSERT INTO moves VALUES ('batch', old.state, new.state, 0); END;
        CREATE TRIGGER run_moves AFTER UPDATE OF state ON runs
        BEGIN INSERT INTO moves VALUES ('run', old.state, new.state, new.epoch - old.epoch); END;
        """
    )
    await _a_life_with_everything(store)

    moves = set(raw.execute("SELECT noun, before, after, epochs FROM moves"))
    run_moves = {(RunState(b), RunState(a)) for noun, b, a, _ in moves if noun == "run"}
    batch_moves = {(BatchState(b), BatchState(a)) for noun, b, a, _ in moves if noun == "batch"}
    fenced_again = {(RunState.DONE, RunState.DONE)}
    assert batch_moves == {(b, a) for b, after in BATCH_MOVES.items() for a in after}
    assert run_moves - fenced_again == {(b, a) for b, after in RUN_MOVES.items() for a in after}
    assert {epochs for noun, _, after, epochs in moves if (noun, after) == ("run", "leased")} == {1}
    assert {epochs for noun, _, after, epochs in moves if (noun, after) == ("run", "pending")} == {0}


async def _a_life_with_everything(store: SqliteStore) -> None:
    await ended(store)
    canceled = await created(store, (1, 1, 1))
    await leased(store, canceled.id)
    await leased(store, canceled.id, now_us=NOW + LEASE_US)
    run = await leased(store, canceled.id, now_us=NOW + LEASE_US)
    await store.release_runs(holder=None)
    await leased(store, canceled.id)
    await store.commit_segments([commit(run, [run.first], is_last=True)], now_us=NOW)
    await store.cancel_batch(canceled.workspace_id, canceled.id, now_us=NOW)
    await store.cancel_batch(canceled.workspace_id, canceled.id, now_us=NOW)
    await store.close_runs(canceled.id)
    await store.seal_batch(await seal_of(store, canceled), now_us=NOW)
    await store.seal_batch(await seal_of(store, canceled), now_us=NOW)
    await store.delete_batch(canceled.workspace_id, canceled.id)
    await store.finish_erasure(canceled.id)


async def test_every_writing_verb_passes_its_two_doors(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb that writes passes before_commit and after_commit under its own name, in this order."""
    passed: list[str] = []
    monkeypatch.setattr(doors, "listener", passed.append)
    workspace = await store.create_workspace("w", now_us=NOW)
    key = await store.create_key(workspace.id, "k", digest=b"d", hint="h", now_us=NOW)
    await store.revoke_key(key.id, now_us=NOW)
    await _a_life_with_everything(store)
    await store.renew_leases(holder="a", now_us=NOW, until_us=NOW)
    await store.archive_due(now_us=NOW, retention_us=0)
    await store.charge_live([], now_us=NOW)
    await store.set_limits(workspace.id, OwnLimits(enqueued_items=1))

    verbs = {name.split(".")[1] for name in passed}
    assert verbs == set(re.findall(r'_database\.write\(\s*"(\w+)"', python_of_the_room()))
    assert passed[0::2] == [name.replace("after", "before") for name in passed[1::2]]
    assert all(name.endswith(".after_commit") for name in passed[1::2])


class Crash(BaseException):
    """The end of a process, as far as a transaction can tell."""


@pytest.mark.parametrize(("door", "is_there"), [("before", False), ("after", True)])
async def test_a_verb_that_dies_at_a_door_is_whole(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, door: str, *, is_there: bool
) -> None:
    """Before the commit nothing of a create is there, after it everything; the store goes on either way."""
    workspace = (await store.list_workspaces())[0]
    new = new_batch(workspace.id)

    def die(name: str) -> None:
        if name == f"store.create_batch.{door}_commit":
            raise Crash

    monkeypatch.setattr(doors, "listener", die)
    with pytest.raises(Crash):
        await store.create_batch(new, now_us=NOW)
    monkeypatch.setattr(doors, "listener", None)

    assert await store.known_batches([new.id]) == ({new.id} if is_there else set())
    await work_off(store, (await created(store)).id)
    assert await store.check() == []


async def test_a_full_database_is_reported_and_nothing_is_half_done(store: SqliteStore) -> None:
    """When no page can be added the verb fails in words, and once there is room the store goes on."""
    batch = await created(store)
    writer = store._database._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreError, match="full: free some space"):
        await _fill(store)
    run = await leased(store, batch.id)
    writer.execute("PRAGMA max_page_count = 100000")

    assert await store.commit_segments([commit(run, [0])], now_us=NOW) == [True]
    assert await store.check() == []


async def _fill(store: SqliteStore) -> None:
    for _ in range(100):
        await created(store, (1,) * 200)


async def test_another_process_that_writes_is_waited_for(store: SqliteStore, raw: sqlite3.Connection) -> None:
    """A verb that meets another writer waits for its end, and readers do not notice."""
    raw.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(created(store))
    before = await store.count_batches()
    assert not task.done()
    raw.execute("COMMIT")

    assert (await task).size == 5
    assert before["in_progress"] == 0


async def test_another_process_that_never_ends_is_reported(store: SqliteStore, raw: sqlite3.Connection) -> None:
    """When the wait is over the verb fails in words and has changed nothing."""
    writer = store._database._writer
    assert writer is not None
    writer.execute("PRAGMA busy_timeout = 0")
    raw.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match="another process"):
        await created(store)
    raw.execute("ROLLBACK")

    assert (await created(store)).size == 5


async def test_a_key_made_by_another_process_is_found_at_once(store: SqliteStore, path: Path) -> None:
    """What `standby keys` writes beside a running server is seen by the next read."""
    script = (
        "import asyncio, sys; from pathlib import Path; from standby.store.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(Path(sys.argv[1])); await store.open()\n"
        "    home = (await store.list_workspaces())[0]\n"
        "    await store.create_key(home.id, 'k', digest=b'digest', hint='h', now_us=1)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(path)], check=True)

    assert await store.find_key(b"digest") is not None


async def test_verbs_do_not_hold_up_the_event_loop(store: SqliteStore, raw: sqlite3.Connection) -> None:
    """While a verb waits for another process the loop goes on turning."""
    raw.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(created(store))
    turns = 0
    while turns < 1000:
        await asyncio.sleep(0)
        turns += 1
    assert not task.done()
    raw.execute("ROLLBACK")
    await task
    assert threading.current_thread() is threading.main_thread()


def test_every_kind_of_database_error_has_words() -> None:
    """Each primary code of SQLite that a running store can meet tells what to do; no other says nothing."""
    for code in faults.ADVICE:
        error = sqlite3.OperationalError("engine text")
        error.sqlite_errorcode = code | (4 << 8)
        error.sqlite_errorname = "SQLITE_X"
        said = faults.in_words(error, Path("/data/standby.db"))
        assert said
        assert "engine text" not in said or code == sqlite3.SQLITE_CONSTRAINT
    assert "engine text" in faults.in_words(sqlite3.DatabaseError("engine text"), Path("x"))


@pytest.mark.parametrize("error", [sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError])
def test_no_error_of_sqlite_leaves_the_room(error: type[sqlite3.Error]) -> None:
    """Whatever SQLite raises becomes an error of ours."""
    with pytest.raises(StandbyError), faults.translated(Path("x")):
        raise error("anything")


DAMAGE = {
    "several results": "UPDATE segments SET records = CAST(substr(records, 1, 12) || substr(records, 1, 12)"
    " || substr(records, 25) AS BLOB) WHERE run = 0",
    "does not have": "UPDATE segments SET records = CAST(x'ff0000000a0000000a000000' || substr(records, 13) AS BLOB)"
    " WHERE run = 0",
    "results for": "DELETE FROM segments WHERE run = 1",
    "the ledger has": "DELETE FROM ledger WHERE run = 0",
    "although the batch has ended": "UPDATE runs SET state = 'pending' WHERE number = 1",
    "its runs hold": "DELETE FROM runs WHERE batch_id = (SELECT id FROM batches WHERE state <> 'ended')",
    "missing row": "DELETE FROM workspaces",
}


@pytest.mark.parametrize("finding", DAMAGE)
async def test_a_check_finds_damage(store: SqliteStore, raw: sqlite3.Connection, finding: str) -> None:
    """Each kind of wrong row is found and named, and a sound store has no findings."""
    await ended(store)
    await created(store)
    assert await store.check() == []

    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute(DAMAGE[finding])

    assert any(finding in said for said in await store.check())


async def test_a_seal_row_grows_no_second_time(store: SqliteStore) -> None:
    """The row of the sealing holds what the seal brought, byte for byte, NUL bytes included."""
    batch = await created(store, (300,))
    await store.close_runs(batch.id)
    seal: Seal = await seal_of(store, batch)
    await store.seal_batch(seal, now_us=NOW)

    assert (await store.manifest(batch.id))[0].records == seal.records
    assert await items_in(store, batch.id) == list(range(300))
