-- The probes of one release that do not pass, or that the release changed for the worse.
select
    kind,
    correction_id,
    prompt,
    expected,
    coalesce(answer_before, says_before) as says_before,
    coalesce(answer_after, says_after) as says_after,
    pass_before,
    pass_after,
    count(*) over () as total
from published
where model = $model
    and release = $release
    and kind not in ('drift', 'capability')
    and not pass_after
    and (kind in ('rewrite', 'paraphrase', 'question', 'chat') or pass_before)
order by kind = 'rewrite' desc, kind = 'chat' desc, kind = 'fixed' desc, kind = 'locality' desc, correction_id, probe_id
limit $limit
