-- What single workspaces may do, and what their queue holds in tokens.

-- NULL: as everybody, by the settings `[limits]`; 0: any amount. Spending is in pico-dollars.
CREATE TABLE limits (
    workspace_id    TEXT PRIMARY KEY REFERENCES workspaces (id),
    spend_per_day   INTEGER CHECK (spend_per_day >= 0),
    spend_per_month INTEGER CHECK (spend_per_month >= 0),
    enqueued_items  INTEGER CHECK (enqueued_items >= 0),
    enqueued_tokens INTEGER CHECK (enqueued_tokens >= 0)
) STRICT, WITHOUT ROWID;

DROP INDEX batches_open;
CREATE INDEX batches_open
    ON batches (created_us, id, state, workspace_id, size, expires_us, cancel_initiated_us, prompt_tokens)
    WHERE state <> 'ended';
