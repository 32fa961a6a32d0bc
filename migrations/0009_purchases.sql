-- What users bought in a store.

-- A purchase from its first transaction on: whose it is, and whether it will be renewed. Each is the latest word by the store's
-- own time.
create table purchase_origins (
    store       text    not null,                       -- app_store, play_store, stripe …
    original_id text    not null,                       -- the store's id of the first transaction
    owner       text,                                   -- as the store calls them: a user's id, or another name
    owner_at    integer not null default 0,
    user_id     text,                                   -- whom that name means, by purchase_moves too
    will_renew  integer,
    renew_at    integer not null default 0,
    primary key (store, original_id)
) strict, without rowid;

create index purchase_origins_of_user on purchase_origins (user_id);
create index purchase_origins_of_owner on purchase_origins (owner);

-- A row a transaction, whichever channel tells of it.
create table purchases (
    store          text    not null,
    transaction_id text    not null,
    original_id    text    not null,
    product        text,
    purchased_at   integer,
    quantity       integer not null default 1,
    sandbox        integer not null default 0,
    facts_at       integer not null default 0,          -- when the store said these
    state          text    not null check (state in ('unknown', 'live', 'ended', 'revoked')),
    state_at       integer not null default 0,          -- when the store said so: the last event that changed it
    state_rank     integer not null default 0,          -- which of two that were said at the same time counts
    expires_at     integer,                             -- the end of what was paid for
    stopped_at     integer,                             -- when it ended, or was taken back
    share          integer not null default 0,          -- how much of it was taken back, in 100,000ths
    grace_until    integer,
    grace_at       integer not null default 0,
    ends_at        integer,                             -- when it stops to count, by all of this; null for never
    primary key (store, transaction_id)
) strict, without rowid;

create index purchases_of_origin on purchases (store, original_id);

-- A store moved whatever belongs to one name to another.
create table purchase_moves (
    from_owner text    not null,
    at         integer not null,
    to_owner   text    not null,
    primary key (from_owner, at, to_owner)
) strict, without rowid;

-- Events that were taken, so that none is taken twice.
create table purchase_events (
    channel        text    not null,                    -- appstore, revenuecat …
    event_id       text    not null,
    kind           text    not null,
    at             integer not null,                    -- by the store's clock
    received_at    integer not null,
    store          text,
    transaction_id text,
    user_id        text,
    outcome        text    not null,
    primary key (channel, event_id)
) strict, without rowid;

create index purchase_events_by_time on purchase_events (received_at);
