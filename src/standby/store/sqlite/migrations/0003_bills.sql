-- What requests cost, by model and credential; what was done before has no price.

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

INSERT INTO bills
SELECT
    l.workspace_id, l.day, l.batch_id, l.run, l.epoch,
    coalesce((SELECT b.credential FROM batches AS b WHERE b.id = l.batch_id), ''), '',
    l.succeeded, l.input_tokens, l.write_5m_tokens, l.write_1h_tokens, l.read_tokens, l.output_tokens,
    0, 0, 0, l.succeeded
FROM ledger AS l
WHERE l.succeeded > 0;

ALTER TABLE ledger DROP COLUMN charge_pico;
