-- Which corrections broke prompts whose answer had to stand (neighbours, or fixed probes), worst first.
-- A broken prompt is blamed on the corrections whose target it says now, in equal parts; when it says
-- nobody's target, or its own correction's, on the correction that it stands near, if it stands near one.
-- `enough` marks the shortest list from the top that accounts for the whole excess over the threshold.
with locality as (
    select * from rows where run_id = $run_id and kind = $kind
),
targets as (
    select correction_id, expected from rows where run_id = $run_id and kind = 'rewrite'
),
broken as (
    select * from locality where pass_before and not pass_after
),
accused as (
    select
        b.probe_id,
        t.correction_id
    from broken as b
    join targets as t on b.says_after = t.expected
    where b.says_after <> b.says_before
        and not exists (
            select 1 from targets as own
            where own.correction_id = b.correction_id and own.expected = b.says_after
        )
),
blamed as (
    select
        b.*,
        coalesce(a.correction_id, b.correction_id) as culprit,
        1.0 / count(*) over (partition by b.probe_id, b.correction_id) as part
    from broken as b
    left join accused as a on a.probe_id = b.probe_id
),
by_correction as (
    select
        culprit as correction_id,
        sum(part) as blame,
        sum(part * (logp_expected_before - logp_expected_after)) as nats,
        arg_max(prompt, part * (logp_expected_before - logp_expected_after)) as prompt,
        arg_max(says_after, part * (logp_expected_before - logp_expected_after)) as says
    from blamed
    where culprit <> ''
    group by culprit
),
ranked as (
    select
        *,
        coalesce(sum(blame) over (
            order by blame desc, nats desc, correction_id
            rows between unbounded preceding and 1 preceding
        ), 0) as blamed_above
    from by_correction
)
select
    correction_id,
    blame::double as blame,
    round(((select sum(pass_before::integer) - sum(pass_after::integer) from locality) - blamed_above)
        / (select count(*) from locality), 12) > $threshold as enough,
    prompt,
    says
from ranked
order by blame desc, nats desc, correction_id
