-- What engines said of the prompts that they answered: their tokens, and how many of these came out of the cache.
-- 0 where an engine does not tell, and for results of earlier versions.

ALTER TABLE ledger ADD COLUMN told_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN reused_tokens INTEGER NOT NULL DEFAULT 0;
