-- Rows of published releases: the run is the one that the release's manifest names. Rows of a run that lost
-- its race, or whose candidate failed, are in `rows` only.
create view published as
select rows.* from rows
semi join releases using (model, release, run_id)
