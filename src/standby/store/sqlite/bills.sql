-- What requests cost. Sums of money come in two parts, since 64 bits end at nine million dollars.

-- name: enter_bill
INSERT INTO bills (
    workspace_id, day, batch_id, run, epoch, credential, model, requests,
    input_tokens, write_5m_tokens, write_1h_tokens, read_tokens, output_tokens,
    plain_pico, batch_pico, charge_pico, unpriced
)
VALUES (
    :workspace_id, :day, :batch_id, :run, :epoch, :credential, :model, :requests,
    :input_tokens, :write_5m_tokens, :write_1h_tokens, :read_tokens, :output_tokens,
    :plain_pico, :batch_pico, :charge_pico, :unpriced
)
ON CONFLICT (workspace_id, day, batch_id, run, epoch, credential, model) DO UPDATE
SET requests = requests + excluded.requests,
    input_tokens = input_tokens + excluded.input_tokens,
    write_5m_tokens = write_5m_tokens + excluded.write_5m_tokens,
    write_1h_tokens = write_1h_tokens + excluded.write_1h_tokens,
    read_tokens = read_tokens + excluded.read_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    plain_pico = plain_pico + excluded.plain_pico,
    batch_pico = batch_pico + excluded.batch_pico,
    charge_pico = charge_pico + excluded.charge_pico,
    unpriced = unpriced + excluded.unpriced;

-- name: usage
SELECT
    iif(:by_workspace, workspace_id, NULL) AS workspace_id,
    iif(:by_credential, credential, NULL) AS credential,
    iif(:by_model, model, NULL) AS model,
    iif(:by_day, day, NULL) AS day,
    iif(:by_kind, iif(batch_id = '', 'live', 'batch'), NULL) AS kind,
    sum(requests) AS requests,
    sum(input_tokens) AS input_tokens,
    sum(write_5m_tokens) AS write_5m_tokens,
    sum(write_1h_tokens) AS write_1h_tokens,
    sum(read_tokens) AS read_tokens,
    sum(output_tokens) AS output_tokens,
    sum(plain_pico / 1000000) AS plain_millions,
    sum(plain_pico % 1000000) AS plain_rest,
    sum(batch_pico / 1000000) AS batch_millions,
    sum(batch_pico % 1000000) AS batch_rest,
    sum(charge_pico / 1000000) AS charge_millions,
    sum(charge_pico % 1000000) AS charge_rest,
    sum(unpriced) AS unpriced
FROM bills
WHERE (:workspace_id IS NULL OR workspace_id = :workspace_id)
  AND (:since_day IS NULL OR day >= :since_day)
  AND (:until_day IS NULL OR day < :until_day)
GROUP BY 1, 2, 3, 4, 5
ORDER BY 4, 1, 2, 3, 5;

-- name: spent
SELECT
    day,
    sum(charge_pico / 1000000) AS charge_millions,
    sum(charge_pico % 1000000) AS charge_rest,
    sum(unpriced) AS unpriced
FROM bills
WHERE workspace_id = :workspace_id
  AND day >= :since_day
GROUP BY day
ORDER BY day;

-- name: bills_of_batch
SELECT
    model,
    sum(requests) AS requests,
    sum(input_tokens) AS input_tokens,
    sum(write_5m_tokens) AS write_5m_tokens,
    sum(write_1h_tokens) AS write_1h_tokens,
    sum(read_tokens) AS read_tokens,
    sum(output_tokens) AS output_tokens,
    sum(plain_pico / 1000000) AS plain_millions,
    sum(plain_pico % 1000000) AS plain_rest,
    sum(batch_pico / 1000000) AS batch_millions,
    sum(batch_pico % 1000000) AS batch_rest,
    sum(charge_pico / 1000000) AS charge_millions,
    sum(charge_pico % 1000000) AS charge_rest,
    sum(unpriced) AS unpriced
FROM bills
WHERE batch_id = :batch_id
  AND batch_id <> ''
GROUP BY model
ORDER BY model;
