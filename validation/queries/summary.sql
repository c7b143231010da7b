-- The figures of one run. Shares, not per cent; null where there is nothing to measure.
-- said, paraphrase, question, chat, locality, fixed, capability: shares of probes that pass (judge.sql).
-- said_paraphrase: shares of paraphrases whose answer says the target, where `paraphrase` compares likelihoods.
-- …_exact: the answer is the target or an alias and nothing else. …_old: the old answer stands in the answer,
--   of those whose old answer is known.
-- locality_drop and capability_drop are net: what passes now and did not before is set off. fixed_drop is not:
--   of a user's own probes, the share that passed before and fails now.
-- es, ps, ns: CounterFact's scores, where the expected continuation must be likelier than its rival,
--   averaged over the probes of a correction and then over corrections; a mean of means, to twelve places,
--   beyond which its last digit tells of the order of additions.
-- already_true: corrections that the base answers right in the form in which it is served, a chat where it has one.
-- Sums of fractions are compensated (favg, fsum): the order of rows must not show in the last digit.
-- perplexity: over all predicted tokens of the drift text. drift_nats: KL(base || candidate) per token.
with judged as (
    select
        *,
        coalesce(logp_expected_before > logp_other_before, pass_before) as likelier_before,
        coalesce(logp_expected_after > logp_other_after, pass_after) as likelier_after
    from rows
    where run_id = $run_id
),
by_correction as (
    select
        kind,
        correction_id,
        avg(likelier_before::integer) as before,
        avg(likelier_after::integer) as after
    from judged
    where kind in ('rewrite', 'paraphrase', 'locality')
    group by all
),
counterfact as (
    select
        round(favg(before) filter (kind = 'rewrite'), 12) as es_before,
        round(favg(after) filter (kind = 'rewrite'), 12) as es,
        round(favg(before) filter (kind = 'paraphrase'), 12) as ps_before,
        round(favg(after) filter (kind = 'paraphrase'), 12) as ps,
        round(favg(before) filter (kind = 'locality'), 12) as ns_before,
        round(favg(after) filter (kind = 'locality'), 12) as ns
    from by_correction
),
served as (
    select
        coalesce(
            bool_or(pass_before) filter (kind = 'chat'),
            bool_or(pass_before) filter (kind = 'rewrite')
        ) as already
    from judged
    where correction_id <> ''
    group by correction_id
),
shares as (
    select
        count(distinct correction_id) filter (kind = 'rewrite') as corrections,
        count(distinct correction_id) filter (kind = 'question') as with_question,
        count(*) filter (kind <> 'drift') as probes,
        avg(pass_before::integer) filter (kind = 'rewrite') as said_before,
        avg(pass_after::integer) filter (kind = 'rewrite') as said,
        avg(old_before::integer) filter (kind = 'rewrite') as said_old_before,
        avg(old_after::integer) filter (kind = 'rewrite') as said_old,
        avg(pass_before::integer) filter (kind = 'paraphrase') as paraphrase_before,
        avg(pass_after::integer) filter (kind = 'paraphrase') as paraphrase,
        avg(said_before::integer) filter (kind = 'paraphrase') as said_paraphrase_before,
        avg(said_after::integer) filter (kind = 'paraphrase') as said_paraphrase,
        avg(pass_before::integer) filter (kind = 'question') as question_before,
        avg(pass_after::integer) filter (kind = 'question') as question,
        avg(pass_before::integer) filter (kind = 'chat') as chat_before,
        avg(pass_after::integer) filter (kind = 'chat') as chat,
        avg(exact_after::integer) filter (kind = 'chat') as chat_exact,
        avg(old_before::integer) filter (kind = 'chat') as chat_old_before,
        avg(old_after::integer) filter (kind = 'chat') as chat_old,
        avg(pass_before::integer) filter (kind = 'locality') as locality_before,
        avg(pass_after::integer) filter (kind = 'locality') as locality,
        avg((says_before = says_after)::integer) filter (kind = 'locality') as unchanged,
        avg(pass_before::integer) filter (kind = 'fixed') as fixed_before,
        avg(pass_after::integer) filter (kind = 'fixed') as fixed,
        avg((pass_before and not pass_after)::integer) filter (kind = 'fixed') as fixed_drop,
        avg(pass_before::integer) filter (kind = 'capability') as capability_before,
        avg(pass_after::integer) filter (kind = 'capability') as capability,
        exp(-fsum(logp_expected_before * tokens) filter (kind = 'drift')
            / sum(tokens) filter (kind = 'drift')) as perplexity_before,
        exp(-fsum(logp_expected_after * tokens) filter (kind = 'drift')
            / sum(tokens) filter (kind = 'drift')) as perplexity,
        fsum(kl * tokens) filter (kind = 'drift') / sum(tokens) filter (kind = 'drift') as drift_nats
    from judged
)
select
    shares.*,
    (select count(*) filter (already) from served) as already_true,
    locality_before - locality as locality_drop,
    capability_before - capability as capability_drop,
    perplexity / perplexity_before - 1 as perplexity_rise,
    counterfact.*
from shares, counterfact
