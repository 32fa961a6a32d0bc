-- The ledger. One row a request, made when its worst cost is held and ended exactly once; it is the usage log too.
-- Times are milliseconds since 1970 in UTC, money is micro-dollars.

create table requests (
    id                  text    not null primary key,   -- UUIDv7, the X-Request-Id of the answer
    user_id             text    not null,
    plan                text    not null,
    endpoint            text    not null,
    model               text    not null,
    upstream            text    not null,
    state               text    not null check (state in ('held', 'settled', 'voided', 'lost')),
    flags               text    not null default '',    -- comma-separated: estimated, overrun, cancelled …
    load                integer not null default 0,     -- a voided request that was load: counts per minute and hour
    held_input_tokens   integer not null check (held_input_tokens >= 0),
    held_output_tokens  integer not null check (held_output_tokens >= 0),
    held_micros         integer not null check (held_micros >= 0),
    input_tokens        integer not null default 0 check (input_tokens >= 0),
    cached_input_tokens integer not null default 0 check (cached_input_tokens >= 0),
    output_tokens       integer not null default 0 check (output_tokens >= 0),
    reasoning_tokens    integer not null default 0 check (reasoning_tokens >= 0),
    cost_micros         integer not null default 0 check (cost_micros >= 0),
    started_at          integer not null,               -- when it was held: decides which windows it belongs to
    ended_at            integer,
    ttft_ms             integer,
    owner               text    not null                -- the process that holds it
) strict, without rowid;

create index requests_of_user on requests (user_id, started_at);
create index requests_held on requests (owner) where state = 'held';

-- What the requests of a window add up to. A window that is missing is made from `requests` when it is first needed,
-- so a plan may gain a limit at any time. `user_id` is 'app' for the ceiling of the whole app.
create table windows (
    user_id        text    not null,
    ends_at        integer not null,
    per            text    not null,
    starts_at      integer not null,
    requests_used  integer not null default 0 check (requests_used >= 0),
    tokens_used    integer not null default 0 check (tokens_used >= 0),
    micros_used    integer not null default 0 check (micros_used >= 0),
    requests_held  integer not null default 0 check (requests_held >= 0),
    tokens_held    integer not null default 0 check (tokens_held >= 0),
    micros_held    integer not null default 0 check (micros_held >= 0),
    primary key (user_id, ends_at, per, starts_at)
) strict, without rowid;

create index windows_by_end on windows (ends_at) where per <> 'lifetime';

-- The local subscription table: the plan of a user whom neither the token nor the developer's database gives one.
create table subscriptions (
    user_id      text    not null primary key,
    plan         text,
    period_start integer,
    period_end   integer,
    until        integer,                               -- the plan counts up to here; null for good
    blocked      integer not null default 0,
    updated_at   integer not null
) strict, without rowid;

-- `paused` with its reason, while the operator has the app paused; `identifier_key`, a random key as old as the ledger.
create table switches (
    name       text    not null primary key,
    value      text    not null,
    updated_at integer not null
) strict, without rowid;

-- Processes that hold requests. What a process held is lost when its lease has run out.
create table owners (
    id          text    not null primary key,
    lease_until integer not null
) strict, without rowid;
