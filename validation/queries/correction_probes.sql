-- Every probe of one correction through the releases of each model, oldest first.
select model, release, kind, prompt, expected, says_before, says_after, pass_before, pass_after
from rows
where correction_id = $correction_id and release is not null
    and ($model::varchar is null or model = $model)
order by model, release, kind desc, prompt
