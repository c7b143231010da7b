-- Rows of each model's newest published release.
create view latest as
select * from published
qualify release = max(release) over (partition by model)
