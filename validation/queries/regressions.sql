-- Corrections that passed in an earlier release and fail in this run: the same rewrite, then and now.
with now as (
    select * from rows
    where run_id = $run_id and kind = 'rewrite' and not pass_after
),
earlier as (
    select
        probe_id,
        max(release) as last_passed,
        arg_max(says_after, release) as said
    from rows
    where model = $model
        and run_id <> $run_id
        and kind = 'rewrite'
        and pass_after
        and release is not null
        and ($release::integer is null or release < $release)
    group by probe_id
)
select
    now.correction_id,
    now.subject,
    now.prompt,
    now.expected,
    now.says_after as says,
    earlier.last_passed
from now
join earlier using (probe_id)
order by now.correction_id, now.probe_id
