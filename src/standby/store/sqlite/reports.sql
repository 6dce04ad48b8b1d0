-- Sums for metrics, limits and people.

-- name: count_batches
SELECT state, count(*) AS batches
FROM batches
WHERE is_deleted = 0
GROUP BY state;

-- name: queue_of
-- (what a batch was estimated at is spread evenly over its items, and rounded up)
SELECT
    coalesce(sum(size - settled), 0) AS items,
    coalesce(sum((prompt_tokens * (size - settled) + size - 1) / size), 0) AS tokens
FROM (
    SELECT b.size, b.prompt_tokens, (
        SELECT coalesce(sum(s.succeeded + s.errored + s.canceled + s.expired), 0)
        FROM segments AS s
        WHERE s.batch_id = b.id
    ) AS settled
    FROM batches AS b INDEXED BY batches_open
    WHERE b.state <> 'ended'
      AND b.workspace_id = :workspace_id
);

-- name: count_results
SELECT
    coalesce(sum(succeeded), 0) AS succeeded,
    coalesce(sum(errored), 0) AS errored,
    coalesce(sum(canceled), 0) AS canceled,
    coalesce(sum(expired), 0) AS expired
FROM ledger;

-- name: tokens_of
SELECT
    coalesce(sum(input_tokens), 0) AS input,
    coalesce(sum(write_5m_tokens), 0) AS write_5m,
    coalesce(sum(write_1h_tokens), 0) AS write_1h,
    coalesce(sum(read_tokens), 0) AS read,
    coalesce(sum(output_tokens), 0) AS output
FROM ledger
WHERE batch_id = :batch_id;

-- name: reuse_of
SELECT
    coalesce(sum(told_tokens), 0) AS prompt,
    coalesce(sum(reused_tokens), 0) AS reused
FROM ledger
WHERE batch_id = :batch_id;

-- name: plan_of
SELECT prompt_tokens, shared_tokens, prefix_groups
FROM batches
WHERE id = :batch_id
  AND is_deleted = 0;

-- name: rules_of
SELECT version, betas, user_profile_id, simulate
FROM batches
WHERE id = :batch_id
  AND is_deleted = 0;
