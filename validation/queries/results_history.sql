-- Each release's shares of passing probes, and how many corrections it holds; said and chat with the ends of
-- their 95 % intervals.
select
    model,
    release,
    min(scored_at) as scored_at,
    count(distinct correction_id) filter (kind = 'rewrite') as corrections,
    avg(pass_after::integer) filter (kind = 'rewrite') as said,
    wilson_low(count(*) filter (kind = 'rewrite' and pass_after), count(*) filter (kind = 'rewrite')) as said_low,
    wilson_high(count(*) filter (kind = 'rewrite' and pass_after), count(*) filter (kind = 'rewrite')) as said_high,
    avg(pass_after::integer) filter (kind = 'chat') as chat,
    wilson_low(count(*) filter (kind = 'chat' and pass_after), count(*) filter (kind = 'chat')) as chat_low,
    wilson_high(count(*) filter (kind = 'chat' and pass_after), count(*) filter (kind = 'chat')) as chat_high,
    avg(pass_after::integer) filter (kind = 'paraphrase') as paraphrase,
    avg(pass_before::integer) filter (kind = 'locality')
        - avg(pass_after::integer) filter (kind = 'locality') as locality_drop,
    avg((says_before = says_after)::integer) filter (kind = 'locality') as unchanged,
    avg(pass_after::integer) filter (kind = 'fixed') as fixed,
    avg(pass_before::integer) filter (kind = 'capability')
        - avg(pass_after::integer) filter (kind = 'capability') as capability_drop
from published
where $model::varchar is null or model = $model
group by model, release
order by model, release
