-- What a create asked of the simulator, for every item of its batch.

ALTER TABLE batches ADD COLUMN simulate TEXT NOT NULL DEFAULT '';
