-- The table of migrations/0012_device_keys.sql.

create table tollgate_ledger.device_keys (
    key_id     text collate "C" not null primary key,
    user_id    text collate "C" not null,
    public_key text   not null,
    counter    bigint not null,
    used_at    bigint not null
);

create index device_keys_of_user on tollgate_ledger.device_keys (user_id);
create index device_keys_by_use on tollgate_ledger.device_keys (used_at);
