-- Each correction of one release: what the base said, what the release says, and how its other probes fare.
select
    correction_id,
    any_value(prompt) filter (kind = 'rewrite') as prompt,
    any_value(expected) filter (kind = 'rewrite') as expected,
    any_value(coalesce(answer_before, says_before)) filter (kind = 'rewrite') as says_before,
    any_value(coalesce(answer_after, says_after)) filter (kind = 'rewrite') as says_after,
    bool_and(pass_after) filter (kind = 'rewrite') as passed,
    any_value(answer_after) filter (kind = 'chat') as chat_says,
    bool_and(pass_after) filter (kind = 'chat') as chat_passed,
    count(*) filter (kind = 'paraphrase') as paraphrases,
    count(*) filter (kind = 'paraphrase' and pass_after) as paraphrases_passed,
    count(*) filter (kind = 'locality') as neighbours,
    count(*) filter (kind = 'locality' and pass_before and not pass_after) as neighbours_broken,
    count(*) over () as total
from published
where model = $model and release = $release and correction_id <> ''
group by correction_id
order by passed, neighbours_broken desc, correction_id
limit $limit
