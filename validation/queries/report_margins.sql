-- How far the expected continuation lies above its rival, in nats a token, before and after: counts in bins
-- of half a nat from -8 to 8, all that lies beyond in the outermost ones.
with sides as (
    select kind, 'before' as side, logp_expected_before - logp_other_before as margin
    from published
    where model = $model and release = $release and kind in ('rewrite', 'paraphrase', 'locality')
    union all
    select kind, 'after' as side, logp_expected_after - logp_other_after as margin
    from published
    where model = $model and release = $release and kind in ('rewrite', 'paraphrase', 'locality')
)
select
    kind,
    side,
    least(greatest(floor(margin * 2), -16), 15)::integer as bin,
    count(*) as probes
from sides
where margin is not null and not isnan(margin)
group by all
order by all
