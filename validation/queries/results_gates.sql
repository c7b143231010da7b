-- What the gates said, newest run first; `release` is null where nothing was published.
select
    model,
    release,
    run_id,
    scored_at,
    gate,
    figure,
    low,
    high,
    threshold,
    passed
from verdicts
where $model::varchar is null or model = $model
order by model, scored_at desc, run_id, passed, gate
