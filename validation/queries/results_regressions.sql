-- Corrections that passed in an earlier release and fail in the newest one.
with failing as (
    select model, release, probe_id, correction_id, subject, prompt, expected, coalesce(answer_after, says_after) as says
    from latest
    where kind = 'rewrite' and not pass_after and ($model::varchar is null or model = $model)
),
passing as (
    select model, probe_id, max(release) as last_passed
    from published
    where kind = 'rewrite' and pass_after
    group by model, probe_id
)
select failing.* exclude (probe_id), passing.last_passed
from failing
join passing using (model, probe_id)
order by model, correction_id
