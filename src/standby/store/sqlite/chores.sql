-- What the sweeper asks for.

-- name: batches_to_close
SELECT b.id, b.workspace_id
FROM batches AS b INDEXED BY batches_open
WHERE b.state <> 'ended'
  AND CASE
      WHEN b.state = 'in_progress' AND b.expires_us > :now_us
      THEN
          NOT EXISTS (
              SELECT 1 FROM runs AS r INDEXED BY runs_pending
              WHERE r.batch_id = b.id AND r.state = 'pending'
          )
          AND NOT EXISTS (
              SELECT 1 FROM runs AS r INDEXED BY runs_leased
              WHERE r.batch_id = b.id AND r.state = 'leased'
          )
      ELSE
          min(coalesce(b.cancel_initiated_us, b.expires_us), b.expires_us) + :grace_us <= :now_us
          OR NOT EXISTS (
              SELECT 1 FROM runs AS r INDEXED BY runs_leased
              WHERE r.batch_id = b.id AND r.state = 'leased' AND r.until_us > :now_us
          )
      END
ORDER BY b.created_us, b.id;

-- name: is_open
SELECT 1
FROM batches
WHERE id = :batch_id
  AND state <> 'ended';

-- name: close_runs
UPDATE runs
SET state = 'done',
    epoch = epoch + 1,
    holder = NULL,
    until_us = NULL
WHERE batch_id = :batch_id;

-- name: batch_to_seal
SELECT
    workspace_id, size, succeeded, errored, canceled, expired,
    EXISTS (SELECT 1 FROM runs AS r WHERE r.batch_id = c.id AND r.state <> 'done') AS has_open_runs
FROM counted_batches AS c
WHERE id = :batch_id
  AND state <> 'ended';

-- name: end_batch
UPDATE batches
SET state = 'ended',
    ended_us = :now_us,
    succeeded = :succeeded,
    errored = :errored,
    canceled = :canceled,
    expired = :expired
WHERE id = :batch_id
  AND state <> 'ended';

-- name: archive_due
UPDATE batches INDEXED BY batches_kept
SET archived_us = :now_us
WHERE state = 'ended'
  AND archived_us IS NULL
  AND is_deleted = 0
  AND created_us <= :before_us
RETURNING id;

-- name: erasures
SELECT batch_id
FROM erasures
ORDER BY batch_id;

-- name: forget_erasure
DELETE FROM erasures
WHERE batch_id = :batch_id;

-- name: forget_segments
DELETE FROM segments
WHERE batch_id = :batch_id;

-- name: forget_runs
DELETE FROM runs
WHERE batch_id = :batch_id;

-- name: forget_deleted_batch
DELETE FROM batches
WHERE id = :batch_id
  AND is_deleted = 1;

-- name: known_batches
SELECT b.id
FROM json_each(:batch_ids) AS asked
JOIN batches AS b ON b.id = asked.value;
