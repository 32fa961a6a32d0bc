-- The columns and tables of migrations/0008_grants.sql.

alter table tollgate_ledger.requests add column credit_micros bigint not null default 0;

create table tollgate_ledger.grants (
    id              text   collate "C" not null primary key,
    user_id         text   collate "C" not null,
    source          text   collate "C" not null,
    granted_micros  bigint not null check (granted_micros > 0),
    refunded_micros bigint not null default 0 check (refunded_micros >= 0),
    spent_micros    bigint not null default 0 check (spent_micros >= 0),
    held_micros     bigint not null default 0 check (held_micros >= 0),
    granted_at      bigint not null,
    ends_at         bigint,
    check (spent_micros + held_micros <= granted_micros)
);

create index grants_of_user on tollgate_ledger.grants (user_id);
create unique index grants_by_source on tollgate_ledger.grants (source) where source <> 'operator';

create table tollgate_ledger.grant_uses (
    request_id   text   collate "C" not null,
    grant_id     text   collate "C" not null,
    held_micros  bigint not null check (held_micros >= 0),
    spent_micros bigint not null check (spent_micros >= 0),
    primary key (request_id, grant_id)
);

create index grant_uses_of_grant on tollgate_ledger.grant_uses (grant_id);

-- An older release knows no credits. A request that they pay for is not ended by it: when it sweeps, it passes over them,
-- and a process of this release ends them. The functions of a release that knows credits say so (put, in functions.sql).
-- (Triggers are called in the order of their names: before that of 0005_tallies.sql.)
create function tollgate_ledger.pass_over_credits() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return null;
end $$;

create trigger credits_end_of_older_release before update of state on tollgate_ledger.requests for each row
when (old.state = 'held' and new.state <> 'held' and old.paid_by = 'credits'
      and pg_catalog.current_setting('tollgate.credits', true) is distinct from 'on')
execute function tollgate_ledger.pass_over_credits();

-- A window or a tally that an older release makes from its rows is without what credits paid and hold.
create function tollgate_ledger.leave_out_credits() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    of_model constant text := to_jsonb(new)->>'model';
    paid bigint;
    held bigint;
begin
    select coalesce(sum(r.credit_micros), 0), coalesce(sum(r.held_micros) filter (where r.state = 'held'), 0)
    into paid, held from tollgate_ledger.requests r
    where r.user_id = new.user_id and r.started_at >= new.starts_at and r.started_at < new.ends_at
      and r.paid_by = 'credits'
      and (coalesce(of_model, '') = '' or of_model = coalesce(r.plan_model, r.model));
    new.micros_used := greatest(new.micros_used - paid, 0);
    new.micros_held := greatest(new.micros_held - held, 0);
    return new;
end $$;

create trigger window_of_older_release before insert on tollgate_ledger.windows for each row
when (new.user_id <> 'app' and pg_catalog.current_setting('tollgate.credits', true) is distinct from 'on')
execute function tollgate_ledger.leave_out_credits();

create trigger tally_of_older_release before insert on tollgate_ledger.tallies for each row
when (pg_catalog.current_setting('tollgate.credits', true) is distinct from 'on')
execute function tollgate_ledger.leave_out_credits();
