-- Workspaces and keys.

-- name: insert_workspace
INSERT INTO workspaces (id, name, created_us)
VALUES (:id, :name, :created_us)
ON CONFLICT (name) DO NOTHING;

-- name: list_workspaces
SELECT id, name, created_us
FROM workspaces
ORDER BY created_us, id;

-- name: has_workspace
SELECT 1
FROM workspaces
WHERE id = :workspace_id;

-- name: set_limits
INSERT INTO limits (workspace_id, spend_per_day, spend_per_month, enqueued_items, enqueued_tokens)
VALUES (:workspace_id, :spend_per_day, :spend_per_month, :enqueued_items, :enqueued_tokens)
ON CONFLICT (workspace_id) DO UPDATE
SET spend_per_day = excluded.spend_per_day,
    spend_per_month = excluded.spend_per_month,
    enqueued_items = excluded.enqueued_items,
    enqueued_tokens = excluded.enqueued_tokens;

-- name: list_limits
SELECT *
FROM limits;

-- name: limits_of
SELECT *
FROM limits
WHERE workspace_id = :workspace_id;

-- name: insert_key
INSERT INTO keys (id, workspace_id, name, digest, hint, created_us)
VALUES (:id, :workspace_id, :name, :digest, :hint, :created_us);

-- name: list_keys
SELECT id, workspace_id, name, hint, created_us, revoked_us
FROM keys
ORDER BY created_us, id;

-- name: revoke_key
UPDATE keys
SET revoked_us = coalesce(revoked_us, :now_us)
WHERE id = :key_id
RETURNING id, workspace_id, name, hint, created_us, revoked_us;

-- name: find_key
SELECT id, workspace_id, name, hint, created_us, revoked_us
FROM keys
WHERE digest = :digest;
