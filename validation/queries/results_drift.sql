-- Drift over releases, always against the pristine base: perplexity of held-out text, and KL in nats a token.
select
    model,
    release,
    min(scored_at) as scored_at,
    sum(tokens) as tokens,
    exp(-sum(logp_expected_before * tokens) / sum(tokens)) as perplexity_before,
    exp(-sum(logp_expected_after * tokens) / sum(tokens)) as perplexity,
    exp(sum((logp_expected_before - logp_expected_after) * tokens) / sum(tokens)) - 1 as perplexity_rise,
    sum(kl * tokens) / sum(tokens) as drift_nats
from published
where kind = 'drift' and ($model::varchar is null or model = $model)
group by model, release
order by model, release
