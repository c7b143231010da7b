-- The probes of one release that do not pass, or that the release changed for the worse.
select
    kind,
    correction_id,
    prompt,
    expected,
    says_before,
    says_after,
    pass_before,
    pass_after,
    count(*) over () as total
from published
where model = $model
    and release = $release
    and kind <> 'drift'
    and not pass_after
    and (kind in ('rewrite', 'paraphrase') or pass_before)
order by kind = 'rewrite' desc, kind = 'fixed' desc, kind = 'locality' desc, correction_id, probe_id
limit $limit
