-- What the operator gives and does: credits, tokens for the operator's API, and who changed what.

-- A one-off that raises one limit of one user, in the window that contains `given_at` and in no other.
create table credits (
    id           text    not null primary key,          -- UUIDv7
    user_id      text    not null,
    per          text    not null,
    unit         text    not null check (unit in ('requests', 'tokens', 'cost_usd')),
    amount       integer not null check (amount > 0),   -- micro-dollars for cost_usd
    given_at     integer not null,
    counts_until integer not null                       -- when it need not be looked at any more
) strict, without rowid;

create index credits_of_user on credits (user_id, counts_until);

-- Tokens for the operator's API. Only their hashes are here.
create table admin_tokens (
    name         text    not null primary key,
    hash         text    not null unique,               -- SHA-256, in hexadecimal digits
    scope        text    not null check (scope in ('read', 'write')),
    created_at   integer not null,
    last_used_at integer,
    revoked_at   integer
) strict, without rowid;

-- Every change that an operator made, in the transaction of the change.
create table audit (
    id      text    not null primary key,               -- UUIDv7
    at      integer not null,
    actor   text    not null,
    action  text    not null,
    user_id text,
    detail  text    not null                            -- JSON
) strict, without rowid;
