-- Each release's shares of passing probes, and how many corrections it holds.
select
    model,
    release,
    min(scored_at) as scored_at,
    count(distinct correction_id) filter (kind = 'rewrite') as corrections,
    avg(pass_after::integer) filter (kind = 'rewrite') as efficacy,
    avg(pass_after::integer) filter (kind = 'paraphrase') as paraphrase,
    avg(pass_before::integer) filter (kind = 'locality')
        - avg(pass_after::integer) filter (kind = 'locality') as locality_drop,
    avg((says_before = says_after)::integer) filter (kind = 'locality') as unchanged,
    avg(pass_after::integer) filter (kind = 'fixed') as fixed
from published
where $model::varchar is null or model = $model
group by model, release
order by model, release
