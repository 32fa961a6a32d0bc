-- The tables of migrations/0009_purchases.sql.

create table tollgate_ledger.purchase_origins (
    store       text collate "C" not null,
    original_id text collate "C" not null,
    owner       text collate "C",
    owner_at    bigint not null default 0,
    user_id     text collate "C",
    will_renew  bigint,
    renew_at    bigint not null default 0,
    primary key (store, original_id)
);

create index purchase_origins_of_user on tollgate_ledger.purchase_origins (user_id);
create index purchase_origins_of_owner on tollgate_ledger.purchase_origins (owner);

create table tollgate_ledger.purchases (
    store          text collate "C" not null,
    transaction_id text collate "C" not null,
    original_id    text collate "C" not null,
    product        text,
    purchased_at   bigint,
    quantity       bigint not null default 1,
    sandbox        bigint not null default 0,
    facts_at       bigint not null default 0,
    state          text   not null check (state in ('unknown', 'live', 'ended', 'revoked')),
    state_at       bigint not null default 0,
    state_rank     bigint not null default 0,
    expires_at     bigint,
    stopped_at     bigint,
    share          bigint not null default 0,
    grace_until    bigint,
    grace_at       bigint not null default 0,
    ends_at        bigint,
    primary key (store, transaction_id)
);

create index purchases_of_origin on tollgate_ledger.purchases (store, original_id);

create table tollgate_ledger.purchase_moves (
    from_owner text collate "C" not null,
    at         bigint not null,
    to_owner   text collate "C" not null,
    primary key (from_owner, at, to_owner)
);

create table tollgate_ledger.purchase_events (
    channel        text collate "C" not null,
    event_id       text collate "C" not null,
    kind           text   not null,
    at             bigint not null,
    received_at    bigint not null,
    store          text collate "C",
    transaction_id text collate "C",
    user_id        text collate "C",
    outcome        text   not null,
    primary key (channel, event_id)
);

create index purchase_events_by_time on tollgate_ledger.purchase_events (received_at);
