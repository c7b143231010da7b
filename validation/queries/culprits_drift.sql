-- Drift is the whole edit's: rows cannot say whose. The corrections around which the most was unsettled are
-- the suspects: blame is the mean loss, in nats a token, of the answers near a correction.
-- `enough` marks those far above the others (ten times the median), or the worst one when there is none.
with by_correction as (
    select
        correction_id,
        avg(greatest(logp_expected_before - logp_expected_after, 0)) as blame,
        arg_max(prompt, logp_expected_before - logp_expected_after) as prompt,
        arg_max(says_after, logp_expected_before - logp_expected_after) as says
    from rows
    where run_id = $run_id and kind = 'locality'
    group by correction_id
)
select
    correction_id,
    blame,
    blame > 10 * median(blame) over () or row_number() over (order by blame desc, correction_id) = 1 as enough,
    prompt,
    says
from by_correction
where blame > 0
order by blame desc, correction_id
