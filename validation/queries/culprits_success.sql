-- Which corrections hold the share of passing probes of one kind below the threshold, worst first.
-- `enough` marks the shortest list from the top without which the share would be reached.
with by_correction as (
    select
        correction_id,
        count(*) as probes,
        sum(pass_after::integer) as passed,
        avg(logp_expected_after - coalesce(logp_other_after, logp_expected_before)) as margin,
        arg_min(prompt, logp_expected_after) as example_prompt,
        arg_min(coalesce(answer_after, says_after), logp_expected_after) as example_says
    from rows
    where run_id = $run_id and kind = $kind
    group by correction_id
),
ranked as (
    select
        *,
        row_number() over worst as place,
        coalesce(sum(probes) over before_it, 0) as probes_gone,
        coalesce(sum(passed) over before_it, 0) as passed_gone
    from by_correction
    window
        worst as (order by passed / probes, margin, correction_id),
        before_it as (
            order by passed / probes, margin, correction_id
            rows between unbounded preceding and 1 preceding
        )
)
select
    correction_id,
    (probes - passed)::double as blame,
    -- the share without those that stand above it: while that is short, this one has to go as well
    round(((select sum(passed) from by_correction) - passed_gone)
        / ((select sum(probes) from by_correction) - probes_gone), 12) < $threshold as enough,
    example_prompt as prompt,
    example_says as says
from ranked
where passed < probes
order by place
