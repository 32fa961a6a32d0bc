-- Users of other issuers than the project: whom a name-based id stands for.
create table users (
    user_id text    not null primary key,               -- a UUID made from the other two
    issuer  text    not null,                           -- iss
    subject text    not null,                           -- what the issuer calls the user
    seen_at integer not null                            -- when the first token came
) strict, without rowid;

create index users_by_subject on users (subject);
