-- Corrections that passed in an earlier release and fail in the candidate: the same rewrite, then and now.
with earlier as (
    select
        probe_id,
        max(release) as last_passed
    from published
    where model = $model
        and kind = 'rewrite'
        and pass_after
        and ($release::integer is null or release < $release)
    group by probe_id
)
select
    candidate.correction_id,
    candidate.subject,
    candidate.prompt,
    candidate.expected,
    coalesce(candidate.answer_after, candidate.says_after) as says,
    earlier.last_passed
from candidate
join earlier using (probe_id)
where candidate.kind = 'rewrite' and not candidate.pass_after
order by candidate.correction_id, candidate.probe_id
