-- Each correction of the newest release of each model: what the base said, what the release says, and how
-- many of its paraphrases and neighbours pass.
select
    model,
    release,
    correction_id,
    any_value(subject) filter (kind = 'rewrite') as subject,
    any_value(prompt) filter (kind = 'rewrite') as prompt,
    any_value(expected) filter (kind = 'rewrite') as expected,
    any_value(coalesce(answer_before, says_before)) filter (kind = 'rewrite') as says_before,
    any_value(coalesce(answer_after, says_after)) filter (kind = 'rewrite') as says_after,
    bool_and(pass_after) filter (kind = 'rewrite') as passed,
    coalesce(
        bool_or(pass_before) filter (kind = 'chat'),
        bool_or(pass_before) filter (kind = 'rewrite')
    ) as already_true,
    any_value(answer_after) filter (kind = 'chat') as chat_says,
    bool_and(pass_after) filter (kind = 'chat') as chat_passed,
    count(*) filter (kind = 'paraphrase') as paraphrases,
    count(*) filter (kind = 'paraphrase' and pass_after) as paraphrases_passed,
    count(*) filter (kind = 'locality') as neighbours,
    count(*) filter (kind = 'locality' and pass_before and not pass_after) as neighbours_broken
from latest
where correction_id <> '' and ($model::varchar is null or model = $model)
group by model, release, correction_id
order by model, passed, correction_id
