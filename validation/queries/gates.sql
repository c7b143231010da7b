-- Each gate with its figure (from `figures`, the one row of summary.sql), its threshold and whether it holds.
-- What could not be measured (null) holds nothing up; a figure that is not a number fails.
with gates as (
    select * from (
        values
            (1, 'said', (select said from figures), $min_said, true),
            (2, 'chat', (select chat from figures), $min_chat, true),
            (3, 'paraphrase', (select paraphrase from figures), $min_paraphrase, true),
            (4, 'locality_drop', (select locality_drop from figures), $max_locality_drop, false),
            (5, 'fixed_drop', (select fixed_drop from figures), $max_fixed_drop, false),
            (6, 'capability_drop', (select capability_drop from figures), $max_capability_drop, false),
            (7, 'perplexity_rise', (select perplexity_rise from figures), $max_perplexity_rise, false),
            (8, 'drift_nats', (select drift_nats from figures), $max_drift_nats, false)
    ) as g (place, gate, figure, threshold, at_least)
)
select
    gate,
    figure,
    threshold,
    coalesce(
        case
            when isnan(figure) then false
            when at_least then round(figure, 12) >= threshold
            else round(figure, 12) <= threshold
        end,
        true
    ) as passed
from gates
order by place
