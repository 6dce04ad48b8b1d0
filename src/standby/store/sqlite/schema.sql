-- The whole schema as it stands: what the migrations add up to (a test compares them).
-- Times are microseconds since 1970. Ids are text that sorts by age.

CREATE TABLE workspaces (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    name         TEXT NOT NULL,
    digest       BLOB NOT NULL UNIQUE,
    hint         TEXT NOT NULL,
    created_us   INTEGER NOT NULL,
    revoked_us   INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_of_workspace ON keys (workspace_id);

-- What single workspaces may do. NULL: as everybody, by the settings `[limits]`; 0: any amount. Spending is in
-- pico-dollars.
CREATE TABLE limits (
    workspace_id    TEXT PRIMARY KEY REFERENCES workspaces (id),
    spend_per_day   INTEGER CHECK (spend_per_day >= 0),
    spend_per_month INTEGER CHECK (spend_per_month >= 0),
    enqueued_items  INTEGER CHECK (enqueued_items >= 0),
    enqueued_tokens INTEGER CHECK (enqueued_tokens >= 0)
) STRICT, WITHOUT ROWID;

-- The four counts are frozen when the batch ends; until then they are sums over its manifest.
CREATE TABLE batches (
    id                  TEXT PRIMARY KEY,
    workspace_id        TEXT NOT NULL REFERENCES workspaces (id),
    state               TEXT NOT NULL CHECK (state IN ('in_progress', 'canceling', 'ended')),
    size                INTEGER NOT NULL CHECK (size > 0),
    created_us          INTEGER NOT NULL,
    expires_us          INTEGER NOT NULL,
    cancel_initiated_us INTEGER,
    ended_us            INTEGER,
    archived_us         INTEGER,
    is_deleted          INTEGER NOT NULL DEFAULT 0 CHECK (is_deleted IN (0, 1)),
    succeeded           INTEGER NOT NULL DEFAULT 0,
    errored             INTEGER NOT NULL DEFAULT 0,
    canceled            INTEGER NOT NULL DEFAULT 0,
    expired             INTEGER NOT NULL DEFAULT 0,
    credential          TEXT NOT NULL,
    body_digest         BLOB NOT NULL,
    idempotency_key     TEXT,
    version             TEXT NOT NULL,
    betas               TEXT NOT NULL CHECK (json_valid(betas)),
    user_profile_id     TEXT,
    simulate            TEXT NOT NULL DEFAULT '',
    prompt_tokens       INTEGER NOT NULL DEFAULT 0,
    shared_tokens       INTEGER NOT NULL DEFAULT 0,
    prefix_groups       INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'ended') = (ended_us IS NOT NULL)),
    CHECK (state <> 'in_progress' OR cancel_initiated_us IS NULL),
    CHECK (state <> 'canceling' OR cancel_initiated_us IS NOT NULL),
    CHECK (state = 'ended' OR (archived_us IS NULL AND is_deleted = 0)),
    CHECK (succeeded + errored + canceled + expired = iif(state = 'ended', size, 0))
) STRICT, WITHOUT ROWID;

CREATE INDEX batches_listed ON batches (workspace_id, id) WHERE is_deleted = 0;
CREATE INDEX batches_by_state ON batches (is_deleted, state) WHERE is_deleted = 0;
CREATE INDEX batches_open
    ON batches (created_us, id, state, workspace_id, size, expires_us, cancel_initiated_us, prompt_tokens)
    WHERE state <> 'ended';
CREATE INDEX batches_kept ON batches (created_us) WHERE state = 'ended' AND archived_us IS NULL AND is_deleted = 0;
CREATE INDEX batches_by_digest ON batches (workspace_id, credential, body_digest, created_us);
CREATE INDEX batches_by_idempotency_key ON batches (workspace_id, credential, idempotency_key, created_us)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE runs (
    batch_id TEXT NOT NULL REFERENCES batches (id),
    number   INTEGER NOT NULL CHECK (number >= 0),
    first    INTEGER NOT NULL CHECK (first >= 0),
    count    INTEGER NOT NULL CHECK (count > 0),
    state    TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'leased', 'done')),
    epoch    INTEGER NOT NULL DEFAULT 0,
    holder   TEXT,
    until_us INTEGER,
    cost     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch_id, number),
    CHECK ((state = 'leased') = (holder IS NOT NULL)),
    CHECK ((state = 'leased') = (until_us IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_pending ON runs (batch_id, state, number, count, cost) WHERE state = 'pending';
CREATE INDEX runs_leased ON runs (batch_id, state, until_us, number, count, cost) WHERE state = 'leased';
CREATE INDEX runs_held ON runs (holder, state) WHERE state = 'leased';

-- The manifest. A row grows with every commit; the row that sealing adds has run -1.
-- `records` stands last, so that sums over the other columns need not read it.
CREATE TABLE segments (
    batch_id        TEXT NOT NULL REFERENCES batches (id),
    run             INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    length          INTEGER NOT NULL,
    succeeded       INTEGER NOT NULL,
    errored         INTEGER NOT NULL,
    canceled        INTEGER NOT NULL,
    expired         INTEGER NOT NULL,
    input_tokens    INTEGER NOT NULL,
    write_5m_tokens INTEGER NOT NULL,
    write_1h_tokens INTEGER NOT NULL,
    read_tokens     INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    records         BLOB NOT NULL,
    PRIMARY KEY (batch_id, run, epoch),
    CHECK (length(records) = 12 * (succeeded + errored + canceled + expired))
) STRICT;

CREATE INDEX segments_counted ON segments (batch_id, succeeded, errored, canceled, expired);

-- What was done for whom on which day (UTC, days since 1970). Outlives its batch, so it refers to no row of it.
-- `told_tokens` are those of prompts of which an engine told how much it reused, `reused_tokens` what it reused.
CREATE TABLE ledger (
    batch_id        TEXT NOT NULL,
    run             INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    day             INTEGER NOT NULL,
    workspace_id    TEXT NOT NULL REFERENCES workspaces (id),
    succeeded       INTEGER NOT NULL,
    errored         INTEGER NOT NULL,
    canceled        INTEGER NOT NULL,
    expired         INTEGER NOT NULL,
    input_tokens    INTEGER NOT NULL,
    write_5m_tokens INTEGER NOT NULL,
    write_1h_tokens INTEGER NOT NULL,
    read_tokens     INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    told_tokens     INTEGER NOT NULL DEFAULT 0,
    reused_tokens   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch_id, run, epoch, day)
) STRICT, WITHOUT ROWID;

-- What requests that succeeded cost, in pico-dollars, entered together with their results; live requests have no batch.
-- A request of unknown price counts in `unpriced` and adds nothing to the sums. Outlives its batch, as the ledger does.
CREATE TABLE bills (
    workspace_id    TEXT NOT NULL REFERENCES workspaces (id),
    day             INTEGER NOT NULL,
    batch_id        TEXT NOT NULL,
    run             INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    credential      TEXT NOT NULL,
    model           TEXT NOT NULL,
    requests        INTEGER NOT NULL CHECK (requests > 0),
    input_tokens    INTEGER NOT NULL,
    write_5m_tokens INTEGER NOT NULL,
    write_1h_tokens INTEGER NOT NULL,
    read_tokens     INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    plain_pico      INTEGER NOT NULL CHECK (plain_pico >= 0),
    batch_pico      INTEGER NOT NULL CHECK (batch_pico >= 0),
    charge_pico     INTEGER NOT NULL CHECK (charge_pico >= 0),
    unpriced        INTEGER NOT NULL CHECK (unpriced BETWEEN 0 AND requests),
    PRIMARY KEY (workspace_id, day, batch_id, run, epoch, credential, model)
) STRICT, WITHOUT ROWID;

CREATE INDEX bills_of_batch ON bills (batch_id) WHERE batch_id <> '';

CREATE TABLE erasures (
    batch_id TEXT PRIMARY KEY REFERENCES batches (id)
) STRICT, WITHOUT ROWID;

-- A batch as people see it. Counts of an open batch are summed from the manifest.
CREATE VIEW counted_batches AS
SELECT
    id, workspace_id, state, size, created_us, expires_us, ended_us, cancel_initiated_us, archived_us, is_deleted,
    iif(state = 'ended', succeeded,
        (SELECT coalesce(sum(s.succeeded), 0) FROM segments AS s WHERE s.batch_id = batches.id)) AS succeeded,
    iif(state = 'ended', errored,
        (SELECT coalesce(sum(s.errored), 0) FROM segments AS s WHERE s.batch_id = batches.id)) AS errored,
    iif(state = 'ended', canceled,
        (SELECT coalesce(sum(s.canceled), 0) FROM segments AS s WHERE s.batch_id = batches.id)) AS canceled,
    iif(state = 'ended', expired,
        (SELECT coalesce(sum(s.expired), 0) FROM segments AS s WHERE s.batch_id = batches.id)) AS expired
FROM batches;
