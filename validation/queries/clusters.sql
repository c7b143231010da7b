-- What each figure of summary.sql adds up from, cluster by cluster: figure = sum(part) / sum(whole) (of
-- perplexity_rise, exp of that, less one). Probes of one correction stand or fall together, so they are one
-- cluster; fixed and capability probes and texts are clusters of their own.
-- kind: share (each part between 0 and whole) or mean.
with judged as (
    select
        *,
        if(correction_id = '', probe_id, correction_id) as cluster,
        coalesce(logp_expected_before > logp_other_before, pass_before)::integer as likelier_before,
        coalesce(logp_expected_after > logp_other_after, pass_after)::integer as likelier_after
    from rows
    where run_id = $run_id
),
told (kind, figure, outcome) as (
    values
        ('rewrite', 'said', 'pass'), ('rewrite', 'said_old', 'old'), ('rewrite', 'es', 'likelier'),
        ('paraphrase', 'paraphrase', 'pass'), ('paraphrase', 'said_paraphrase', 'said'),
        ('paraphrase', 'ps', 'likelier'),
        ('question', 'question', 'pass'),
        ('chat', 'chat', 'pass'), ('chat', 'chat_exact', 'exact'), ('chat', 'chat_old', 'old'),
        ('locality', 'locality', 'pass'), ('locality', 'ns', 'likelier'), ('locality', 'unchanged', 'same'),
        ('fixed', 'fixed', 'pass'), ('capability', 'capability', 'pass')
),
outcomes as (
    select
        told.figure,
        cluster,
        unnest(['', '_before']) as side,
        unnest(case told.outcome
            when 'pass' then [pass_after, pass_before]
            when 'said' then [said_after, said_before]
            when 'exact' then [exact_after, exact_before]
            when 'old' then [old_after, old_before]
            when 'likelier' then [likelier_after::boolean, likelier_before::boolean]
            else [says_after = says_before, null]
        end)::integer as outcome
    from judged
    join told using (kind)
),
shares as (
    select
        'share' as kind,
        figure || side as figure,
        cluster,
        -- A mean of means gives every correction one voice.
        if(figure in ('es', 'ps', 'ns'), avg(outcome), sum(outcome))::double as part,
        if(figure in ('es', 'ps', 'ns'), 1, count(outcome))::double as whole
    from outcomes
    where outcome is not null
    group by figure, side, cluster
),
means as (
    select
        'mean' as kind,
        kind || '_drop' as figure,
        cluster,
        sum(if(kind = 'fixed', (pass_before and not pass_after)::integer, pass_before::integer - pass_after::integer))
            ::double as part,
        count(*)::double as whole
    from judged
    where kind in ('locality', 'fixed', 'capability')
    group by kind, cluster
    union all
    select 'mean', 'perplexity_rise', probe_id, (logp_expected_before - logp_expected_after) * tokens, tokens
    from judged
    where kind = 'drift'
    union all
    select 'mean', 'drift_nats', probe_id, kl * tokens, tokens
    from judged
    where kind = 'drift'
)
select * from shares
union all
select * from means
order by figure, cluster
