-- The columns and tables of migrations/0006_quantities.sql. Constant defaults: no row is written, and the table is locked
-- for a moment only. An older process beside a newer one goes on to insert the columns that it knows.

alter table tollgate_ledger.requests
    add column requested_model text,
    add column feature text,
    add column prompt_version text,
    add column paid_by text not null default 'plan',
    add column price_id text collate "C",
    add column held_audio_seconds bigint not null default 0,
    add column held_characters bigint not null default 0,
    add column held_images bigint not null default 0,
    add column cache_write_tokens bigint not null default 0,
    add column cache_write_1h_tokens bigint not null default 0,
    add column image_input_tokens bigint not null default 0,
    add column cached_image_input_tokens bigint not null default 0,
    add column audio_input_tokens bigint not null default 0,
    add column image_output_tokens bigint not null default 0,
    add column audio_output_tokens bigint not null default 0,
    add column audio_seconds bigint not null default 0,
    add column characters bigint not null default 0,
    add column images bigint not null default 0;

create table tollgate_ledger.prices (
    id      text   collate "C" not null primary key,
    rates   text   collate "C" not null unique,
    made_at bigint not null
);

create table tollgate_ledger.idempotency_keys (
    user_id    text   collate "C" not null,
    key        text   collate "C" not null,
    digest     text   not null,
    request_id text   collate "C" not null,
    made_at    bigint not null,
    primary key (user_id, key)
);

create index idempotency_keys_by_time on tollgate_ledger.idempotency_keys (made_at);
