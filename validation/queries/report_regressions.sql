-- Corrections that passed in an earlier release and fail in this one.
with earlier as (
    select probe_id, max(release) as last_passed
    from published
    where model = $model and release < $release and kind = 'rewrite' and pass_after
    group by probe_id
)
select
    now.correction_id,
    now.prompt,
    now.expected,
    coalesce(now.answer_after, now.says_after) as says,
    earlier.last_passed
from published as now
join earlier using (probe_id)
where now.model = $model and now.release = $release and now.kind = 'rewrite' and not now.pass_after
order by now.correction_id
