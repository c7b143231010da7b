-- One row for each probe, scored before (base) and after (candidate), with the verdict on it.
-- A rewrite, question or chat passes when its answer says the target or an alias (validation/answers.py). Every
-- other probe passes when what is expected is likelier than its rival, by the mean over its tokens; of
-- capability, whose rivals are whole sentences, by the sum. Without a rival, when greedy decoding begins with it.
with scored as (
    select
        p.*,
        b.* exclude (probe_id, place),
        b.logp_expected * if(p.kind = 'capability', b.tokens, 1) > b.logp_other * if(p.kind = 'capability', b.tokens_other, 1)
            as likelier_before,
        a.logp_expected * if(p.kind = 'capability', a.tokens, 1) > a.logp_other * if(p.kind = 'capability', a.tokens_other, 1)
            as likelier_after,
        a as after_
    from probes as p
    join before as b using (place)
    join after as a using (place)
)
select
    $run_id as run_id,
    $release::integer as release,
    $model as model,
    $scored_at::timestamptz as scored_at,
    correction_id,
    probe_id,
    kind,
    form,
    subject,
    prompt,
    expected,
    other,
    tokens,
    logp_expected as logp_expected_before,
    after_.logp_expected as logp_expected_after,
    logp_other as logp_other_before,
    after_.logp_other as logp_other_after,
    rank as rank_before,
    after_.rank as rank_after,
    says as says_before,
    after_.says as says_after,
    answer as answer_before,
    after_.answer as answer_after,
    said as said_before,
    after_.said as said_after,
    contains as contains_before,
    after_.contains as contains_after,
    exact as exact_before,
    after_.exact as exact_after,
    old as old_before,
    after_.old as old_after,
    case when kind in ('rewrite', 'question', 'chat') then said
         else coalesce(likelier_before, begins) end as pass_before,
    case when kind in ('rewrite', 'question', 'chat') then after_.said
         else coalesce(likelier_after, after_.begins) end as pass_after,
    null::double as kl
from scored
union all by name
select
    $run_id as run_id,
    $release::integer as release,
    $model as model,
    $scored_at::timestamptz as scored_at,
    '' as correction_id,
    d.probe_id,
    'drift' as kind,
    '' as subject,
    d.prompt,
    '' as expected,
    d.tokens,
    d.logp_before as logp_expected_before,
    d.logp_after as logp_expected_after,
    d.kl
from drift as d
order by kind, correction_id, probe_id
