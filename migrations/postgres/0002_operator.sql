-- What the operator gives and does: the tables of migrations/0003_operator.sql.

create table tollgate_ledger.credits (
    id           text   collate "C" not null primary key,
    user_id      text   collate "C" not null,
    per          text   not null,
    unit         text   not null check (unit in ('requests', 'tokens', 'cost_usd')),
    amount       bigint not null check (amount > 0),
    given_at     bigint not null,
    counts_until bigint not null
);

create index credits_of_user on tollgate_ledger.credits (user_id, counts_until);

create table tollgate_ledger.admin_tokens (
    name         text   collate "C" not null primary key,
    hash         text   collate "C" not null unique,
    scope        text   not null check (scope in ('read', 'write')),
    created_at   bigint not null,
    last_used_at bigint,
    revoked_at   bigint
);

create table tollgate_ledger.audit (
    id      text   collate "C" not null primary key,
    at      bigint not null,
    actor   text   not null,
    action  text   not null,
    user_id text   collate "C",
    detail  text   not null
);
