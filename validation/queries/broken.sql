-- Probes of some kinds that passed under the base and fail under the candidate.
select probe_id, correction_id, kind, prompt, expected, other, subject
from rows
where list_contains($kinds, kind) and pass_before and not pass_after
order by probe_id
