-- Rows of published releases: the run is the one that the release's manifest names, and so is the number. Rows
-- of a run that lost its race, or whose candidate failed, are in `rows` only.
create view published as
select rows.* replace (releases.release as release)
from rows
join releases using (model, run_id)
