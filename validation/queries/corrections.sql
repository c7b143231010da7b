-- The ledgers' corrections, one row a version; $state and $model may be null.
select model, correction_id, state, why, subject, prompt, target_new, asserted_at, source
from ledger
where ($state is null or state = $state) and ($model is null or model = $model)
order by model, correction_id, asserted_at
