-- What a plan knows: the cost of each run, and of a batch how much of its prompts repeats. 0 for batches made before.

ALTER TABLE batches ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN shared_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN prefix_groups INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN cost INTEGER NOT NULL DEFAULT 0;

DROP INDEX runs_pending;
DROP INDEX runs_leased;
CREATE INDEX runs_pending ON runs (batch_id, state, number, count, cost) WHERE state = 'pending';
CREATE INDEX runs_leased ON runs (batch_id, state, until_us, number, count, cost) WHERE state = 'leased';
