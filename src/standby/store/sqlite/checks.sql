-- What can be wrong although every row is well-formed.

-- name: impossible_runs
SELECT r.batch_id, r.number, r.state
FROM runs AS r
JOIN batches AS b ON b.id = r.batch_id
WHERE b.state = 'ended'
  AND r.state <> 'done';

-- name: uncovered_batches
SELECT b.id, b.size, coalesce(sum(r.count), 0) AS covered
FROM batches AS b
LEFT JOIN runs AS r ON r.batch_id = b.id
WHERE b.state <> 'ended'
GROUP BY b.id
HAVING covered <> b.size;

-- name: unlike_ledger
SELECT c.id, c.succeeded + c.errored + c.canceled + c.expired AS settled, coalesce(e.entered, 0) AS entered
FROM counted_batches AS c
LEFT JOIN (
    SELECT batch_id, sum(succeeded + errored + canceled + expired) AS entered
    FROM ledger
    GROUP BY batch_id
) AS e ON e.batch_id = c.id
WHERE settled <> coalesce(e.entered, 0);

-- name: unlike_bills
SELECT l.batch_id, sum(l.succeeded) AS succeeded, coalesce(e.billed, 0) AS billed
FROM ledger AS l
LEFT JOIN (
    SELECT batch_id, sum(requests) AS billed
    FROM bills
    WHERE batch_id <> ''
    GROUP BY batch_id
) AS e ON e.batch_id = l.batch_id
GROUP BY l.batch_id
HAVING sum(l.succeeded) <> coalesce(e.billed, 0);

-- name: batches_with_manifest
-- (erasure takes the manifest of an archived or deleted batch together with its runs)
SELECT id, state, size, succeeded + errored + canceled + expired AS settled
FROM counted_batches AS c
WHERE state <> 'ended'
   OR (archived_us IS NULL AND is_deleted = 0)
   OR EXISTS (SELECT 1 FROM runs AS r WHERE r.batch_id = c.id)
ORDER BY id;

-- name: records_of_batch
SELECT records
FROM segments
WHERE batch_id = :batch_id;
