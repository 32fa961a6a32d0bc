-- Keys of devices that App Attest has attested.
create table device_keys (
    key_id     text    not null primary key,            -- base64 of the SHA-256 of the public key
    user_id    text    not null,
    public_key text    not null,                        -- base64 of a point on P-256
    counter    integer not null,                        -- of the last assertion; only ever raised
    used_at    integer not null
) strict, without rowid;

create index device_keys_of_user on device_keys (user_id);
create index device_keys_by_use on device_keys (used_at);
