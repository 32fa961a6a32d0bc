-- What a row needs to be priced again from the ledger alone, and what it says of a request beside tokens. Each column has
-- a constant default, so that no row is written: it takes as long on ten million rows as on none.

-- The name that the app asked for, where another answered; null: `model` itself.
alter table requests add column requested_model text;
-- What the app calls the request, by X-Tollgate-Feature.
alter table requests add column feature text;
-- The version of a prompt that lives on the server.
alter table requests add column prompt_version text;
-- 'plan' or 'credits'.
alter table requests add column paid_by text not null default 'plan';
-- The rates that it was held and charged by: a row of `prices`. Null in rows that are older than that table.
alter table requests add column price_id text;

-- What was held and what was used, beside tokens of text. (See src/price/quantities.rs.)
alter table requests add column held_audio_seconds integer not null default 0;
alter table requests add column held_characters integer not null default 0;
alter table requests add column held_images integer not null default 0;
alter table requests add column cache_write_tokens integer not null default 0;
alter table requests add column cache_write_1h_tokens integer not null default 0;
alter table requests add column image_input_tokens integer not null default 0;
alter table requests add column cached_image_input_tokens integer not null default 0;
alter table requests add column audio_input_tokens integer not null default 0;
alter table requests add column image_output_tokens integer not null default 0;
alter table requests add column audio_output_tokens integer not null default 0;
alter table requests add column audio_seconds integer not null default 0;
alter table requests add column characters integer not null default 0;
alter table requests add column images integer not null default 0;

-- Rates, as src/price/stored.rs writes them. Rows are added and never changed; the id is the beginning of the rates' SHA-256.
create table prices (
    id      text    not null primary key,
    rates   text    not null unique,                    -- JSON
    made_at integer not null
) strict, without rowid;

-- The keys by which a request is known that is sent again. A table of its own: an index on `requests` would have to be
-- built over every row while all wait.
create table idempotency_keys (
    user_id    text    not null,
    key        text    not null,
    digest     text    not null,                        -- of the request as it was understood
    request_id text    not null,                        -- the row in `requests`
    made_at    integer not null,
    primary key (user_id, key)
) strict, without rowid;

create index idempotency_keys_by_time on idempotency_keys (made_at);
