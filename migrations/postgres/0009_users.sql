-- The table of migrations/0011_users.sql.

create table tollgate_ledger.users (
    user_id text collate "C" not null primary key,
    issuer  text   not null,
    subject text collate "C" not null,
    seen_at bigint not null
);

create index users_by_subject on tollgate_ledger.users (subject);
