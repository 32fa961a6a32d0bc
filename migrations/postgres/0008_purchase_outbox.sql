-- The columns of migrations/0010_purchase_outbox.sql.

alter table tollgate_ledger.purchases add column unsent bigint not null default 0 check (unsent in (0, 1, 2));
alter table tollgate_ledger.purchases add column revision bigint not null default 0;

update tollgate_ledger.purchases set unsent = 1;

create index purchases_unsent on tollgate_ledger.purchases (revision) where unsent = 1;
create index purchases_by_revision on tollgate_ledger.purchases (revision);
