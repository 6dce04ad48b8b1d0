-- What workers ask for.

-- name: backlogs
SELECT
    b.id, b.workspace_id, b.size, b.created_us, b.expires_us,
    (
        SELECT count(*)
        FROM runs AS r INDEXED BY runs_leased
        WHERE r.batch_id = b.id AND r.state = 'leased' AND r.until_us > :now_us
    ) AS leased_runs,
    (
        SELECT coalesce(sum(r.count), 0) FROM runs AS r INDEXED BY runs_pending
        WHERE r.batch_id = b.id AND r.state = 'pending'
    ) + (
        SELECT coalesce(sum(r.count), 0) FROM runs AS r INDEXED BY runs_leased
        WHERE r.batch_id = b.id AND r.state = 'leased'
    ) AS left_items,
    (
        SELECT coalesce(sum(r.cost), 0) FROM runs AS r INDEXED BY runs_pending
        WHERE r.batch_id = b.id AND r.state = 'pending'
    ) + (
        SELECT coalesce(sum(r.cost), 0) FROM runs AS r INDEXED BY runs_leased
        WHERE r.batch_id = b.id AND r.state = 'leased'
    ) AS left_cost
FROM batches AS b INDEXED BY batches_open
WHERE b.state <> 'ended'
  AND b.state = 'in_progress'
  AND b.expires_us > :now_us
  AND (
      EXISTS (
          SELECT 1 FROM runs AS r INDEXED BY runs_pending
          WHERE r.batch_id = b.id AND r.state = 'pending'
      )
      OR EXISTS (
          SELECT 1 FROM runs AS r INDEXED BY runs_leased
          WHERE r.batch_id = b.id AND r.state = 'leased' AND r.until_us <= :now_us
      )
  )
ORDER BY b.created_us, b.id;

-- name: open_batch
SELECT workspace_id, expires_us, version, betas, user_profile_id, simulate
FROM batches
WHERE id = :batch_id
  AND state = 'in_progress'
  AND expires_us > :now_us;

-- name: lease_run
UPDATE runs
SET state = 'leased',
    epoch = epoch + 1,
    holder = :holder,
    until_us = :until_us
WHERE batch_id = :batch_id
  AND number = (
      SELECT min(number)
      FROM (
          SELECT min(number) AS number
          FROM runs INDEXED BY runs_pending
          WHERE batch_id = :batch_id AND state = 'pending'
          UNION ALL
          SELECT min(number) AS number
          FROM runs INDEXED BY runs_leased
          WHERE batch_id = :batch_id AND state = 'leased' AND until_us <= :now_us
      )
  )
RETURNING number, first, count, epoch;

-- name: records_of_run
SELECT records
FROM segments
WHERE batch_id = :batch_id
  AND run = :run;

-- name: renew_leases
UPDATE runs
SET until_us = max(until_us, :until_us)
WHERE holder = :holder
  AND state = 'leased'
RETURNING batch_id, number;

-- name: working_batches
SELECT b.id
FROM json_each(:batch_ids) AS asked
JOIN batches AS b ON b.id = asked.value
WHERE b.state = 'in_progress'
  AND b.expires_us > :now_us;

-- name: run_to_commit
SELECT b.workspace_id, b.credential, s.key, coalesce(s.length, 0) AS length
FROM runs AS r
JOIN batches AS b ON b.id = r.batch_id
LEFT JOIN segments AS s ON s.batch_id = r.batch_id AND s.run = r.number AND s.epoch = r.epoch
WHERE r.batch_id = :batch_id
  AND r.number = :run
  AND r.epoch = :epoch
  AND r.epoch > 0
  AND r.state IN ('leased', 'pending');

-- name: grow_segment
INSERT INTO segments (
    batch_id, run, epoch, key, length, succeeded, errored, canceled, expired,
    input_tokens, write_5m_tokens, write_1h_tokens, read_tokens, output_tokens, records
)
VALUES (
    :batch_id, :run, :epoch, :key, :length, :succeeded, :errored, :canceled, :expired,
    :input_tokens, :write_5m_tokens, :write_1h_tokens, :read_tokens, :output_tokens, :records
)
ON CONFLICT (batch_id, run, epoch) DO UPDATE
SET length = excluded.length,
    succeeded = succeeded + excluded.succeeded,
    errored = errored + excluded.errored,
    canceled = canceled + excluded.canceled,
    expired = expired + excluded.expired,
    input_tokens = input_tokens + excluded.input_tokens,
    write_5m_tokens = write_5m_tokens + excluded.write_5m_tokens,
    write_1h_tokens = write_1h_tokens + excluded.write_1h_tokens,
    read_tokens = read_tokens + excluded.read_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    records = CAST(records || excluded.records AS BLOB);

-- name: enter_ledger
INSERT INTO ledger (
    batch_id, run, epoch, day, workspace_id, succeeded, errored, canceled, expired,
    input_tokens, write_5m_tokens, write_1h_tokens, read_tokens, output_tokens, told_tokens, reused_tokens
)
VALUES (
    :batch_id, :run, :epoch, :day, :workspace_id, :succeeded, :errored, :canceled, :expired,
    :input_tokens, :write_5m_tokens, :write_1h_tokens, :read_tokens, :output_tokens, :told_tokens, :reused_tokens
)
ON CONFLICT (batch_id, run, epoch, day) DO UPDATE
SET succeeded = succeeded + excluded.succeeded,
    errored = errored + excluded.errored,
    canceled = canceled + excluded.canceled,
    expired = expired + excluded.expired,
    input_tokens = input_tokens + excluded.input_tokens,
    write_5m_tokens = write_5m_tokens + excluded.write_5m_tokens,
    write_1h_tokens = write_1h_tokens + excluded.write_1h_tokens,
    read_tokens = read_tokens + excluded.read_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    told_tokens = told_tokens + excluded.told_tokens,
    reused_tokens = reused_tokens + excluded.reused_tokens;

-- name: finish_run
UPDATE runs
SET state = 'done',
    holder = NULL,
    until_us = NULL
WHERE batch_id = :batch_id
  AND number = :run
  AND epoch = :epoch
  AND state IN ('leased', 'pending');

-- name: release_runs
UPDATE runs
SET state = 'pending',
    holder = NULL,
    until_us = NULL
WHERE holder = :holder
  AND state = 'leased';

-- name: release_all_runs
UPDATE runs
SET state = 'pending',
    holder = NULL,
    until_us = NULL
WHERE state = 'leased';
