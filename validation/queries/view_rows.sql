-- Every row of every run, published or not.
create view rows as
select *, cast(scored_at as date) as date from stored_rows
