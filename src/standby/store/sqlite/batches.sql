-- What the API asks for.

-- name: find_by_idempotency_key
SELECT id, body_digest
FROM batches
WHERE workspace_id = :workspace_id
  AND credential = :credential
  AND idempotency_key = :idempotency_key
  AND created_us > :since_us
  AND is_deleted = 0
ORDER BY created_us DESC, id DESC
LIMIT 1;

-- name: find_by_digest
SELECT id
FROM batches
WHERE workspace_id = :workspace_id
  AND credential = :credential
  AND body_digest = :body_digest
  AND created_us > :since_us
  AND is_deleted = 0
ORDER BY created_us DESC, id DESC
LIMIT 1;

-- name: insert_batch
INSERT INTO batches (
    id, workspace_id, state, size, created_us, expires_us,
    credential, body_digest, idempotency_key, version, betas, user_profile_id, simulate,
    prompt_tokens, shared_tokens, prefix_groups
)
VALUES (
    :id, :workspace_id, 'in_progress', :size, :created_us, :expires_us,
    :credential, :body_digest, :idempotency_key, :version, :betas, :user_profile_id, :simulate,
    :prompt_tokens, :shared_tokens, :prefix_groups
);

-- name: insert_run
INSERT INTO runs (batch_id, number, first, count, cost)
VALUES (:batch_id, :number, :first, :count, :cost);

-- name: get_batch
SELECT *
FROM counted_batches
WHERE id = :batch_id
  AND workspace_id = :workspace_id
  AND is_deleted = 0;

-- name: list_newest
SELECT *
FROM counted_batches
WHERE workspace_id = :workspace_id
  AND is_deleted = 0
ORDER BY id DESC
LIMIT :limit;

-- name: list_older
SELECT *
FROM counted_batches
WHERE workspace_id = :workspace_id
  AND is_deleted = 0
  AND id < :cursor
ORDER BY id DESC
LIMIT :limit;

-- name: list_newer
SELECT *
FROM counted_batches
WHERE workspace_id = :workspace_id
  AND is_deleted = 0
  AND id > :cursor
ORDER BY id
LIMIT :limit;

-- name: cancel_batch
UPDATE batches
SET state = 'canceling',
    cancel_initiated_us = :now_us
WHERE id = :batch_id
  AND state = 'in_progress';

-- name: delete_batch
UPDATE batches
SET is_deleted = 1
WHERE id = :batch_id
  AND state = 'ended';

-- name: owe_erasure
INSERT INTO erasures (batch_id)
VALUES (:batch_id)
ON CONFLICT DO NOTHING;

-- name: manifest
SELECT run, epoch, key, length, records
FROM segments
WHERE batch_id = :batch_id
ORDER BY run < 0, run, epoch;
