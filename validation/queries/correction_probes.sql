-- Every probe of one correction through the published releases of each model, oldest first.
select model, release, kind, prompt, expected, says_before, says_after, pass_before, pass_after
from published
where correction_id = $correction_id
    and ($model::varchar is null or model = $model)
order by model, release, kind desc, prompt
