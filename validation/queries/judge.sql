-- One row for each probe, scored before (base) and after (candidate), with the verdict on it.
-- A rewrite passes when greedy decoding begins with the target. Every other probe passes when what is
-- expected is likelier than its rival; without a rival, when greedy decoding begins with it.
select
    $run_id as run_id,
    $release::integer as release,
    $model as model,
    $scored_at::timestamptz as scored_at,
    p.correction_id,
    p.probe_id,
    p.kind,
    p.subject,
    p.prompt,
    p.expected,
    p.other,
    b.tokens,
    b.logp_expected as logp_expected_before,
    a.logp_expected as logp_expected_after,
    b.logp_other as logp_other_before,
    a.logp_other as logp_other_after,
    b.rank as rank_before,
    a.rank as rank_after,
    b.says as says_before,
    a.says as says_after,
    case when p.kind = 'rewrite' then b.begins
         else coalesce(b.logp_expected > b.logp_other, b.begins) end as pass_before,
    case when p.kind = 'rewrite' then a.begins
         else coalesce(a.logp_expected > a.logp_other, a.begins) end as pass_after,
    null::double as kl
from probes as p
join before as b using (place)
join after as a using (place)
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
