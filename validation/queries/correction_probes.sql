-- Every probe of one correction through the published releases of each model, oldest first.
select model, release, kind, prompt, expected,
    coalesce(answer_before, says_before) as says_before,
    coalesce(answer_after, says_after) as says_after, pass_before, pass_after
from published
where correction_id = $correction_id
    and ($model::varchar is null or model = $model)
order by model, release, kind desc, prompt
