-- Credits: dollars that a user owns, in grants that may end, and what paid for which request.

-- What of the cost of a request credits paid. Windows and tallies of the user do not count it; those of the app do. While a
-- request that is paid by credits is open, credits pay all that it holds.
alter table requests add column credit_micros integer not null default 0;

create table grants (
    id              text    not null primary key,       -- UUIDv7
    user_id         text    not null,
    source          text    not null,                   -- 'operator', or the transaction of a store
    granted_micros  integer not null check (granted_micros > 0),
    -- What a refund takes back. It takes what is left, and then what open requests give back: so it can be more than is left.
    refunded_micros integer not null default 0 check (refunded_micros >= 0),
    spent_micros    integer not null default 0 check (spent_micros >= 0),
    held_micros     integer not null default 0 check (held_micros >= 0),
    granted_at      integer not null,
    ends_at         integer,                            -- held before it may be spent after it; null for no end
    check (spent_micros + held_micros <= granted_micros)
) strict, without rowid;

create index grants_of_user on grants (user_id);
-- A transaction gives credits once.
create unique index grants_by_source on grants (source) where source <> 'operator';

-- Which grant pays how much of which request.
create table grant_uses (
    request_id   text    not null,
    grant_id     text    not null,
    held_micros  integer not null check (held_micros >= 0),
    spent_micros integer not null check (spent_micros >= 0),
    primary key (request_id, grant_id)
) strict, without rowid;

create index grant_uses_of_grant on grant_uses (grant_id);

-- What is held in windows and tallies of a user is without what credits hold. (Their triggers go with the views, and are
-- made again as they were.)
drop view windows;
create view windows as
select s.user_id, s.ends_at, s.per, s.starts_at, s.requests_used, s.tokens_used, s.micros_used,
       case when s.user_id = 'app'
            then (select count(*) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select count(*) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as requests_held,
       case when s.user_id = 'app'
            then (select coalesce(sum(r.held_input_tokens + r.held_output_tokens), 0) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select coalesce(sum(r.held_input_tokens + r.held_output_tokens), 0) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as tokens_held,
       case when s.user_id = 'app'
            then (select coalesce(sum(r.held_micros), 0) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select coalesce(sum(r.held_micros), 0) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id and r.paid_by <> 'credits'
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as micros_held
from window_sums as s;

create trigger windows_insert instead of insert on windows begin
    insert into window_sums (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
    values (new.user_id, new.ends_at, new.per, new.starts_at, coalesce(new.requests_used, 0),
            coalesce(new.tokens_used, 0), coalesce(new.micros_used, 0));
end;
create trigger windows_delete instead of delete on windows begin
    delete from window_sums where user_id = old.user_id and ends_at = old.ends_at and per = old.per
                              and starts_at = old.starts_at;
end;

drop view tallies;
create view tallies as
select s.user_id, s.ends_at, s.per, s.starts_at, s.model, s.requests_used, s.tokens_used, s.micros_used, s.images_used,
       s.audio_seconds_used, s.characters_used,
       (select count(*) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as requests_held,
       (select coalesce(sum(r.held_input_tokens + r.held_output_tokens), 0) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as tokens_held,
       (select coalesce(sum(r.held_micros), 0) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.paid_by <> 'credits'
          and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as micros_held,
       (select coalesce(sum(r.held_images), 0) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as images_held,
       (select coalesce(sum(r.held_audio_seconds), 0) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as audio_seconds_held,
       (select coalesce(sum(r.held_characters), 0) from requests as r
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
          and (s.model = '' or s.model = coalesce(r.plan_model, r.model))) as characters_held
from tally_sums as s;

create trigger tallies_insert instead of insert on tallies begin
    insert into tally_sums (user_id, ends_at, per, starts_at, model, requests_used, tokens_used, micros_used, images_used,
                            audio_seconds_used, characters_used)
    values (new.user_id, new.ends_at, new.per, new.starts_at, new.model, coalesce(new.requests_used, 0),
            coalesce(new.tokens_used, 0), coalesce(new.micros_used, 0), coalesce(new.images_used, 0),
            coalesce(new.audio_seconds_used, 0), coalesce(new.characters_used, 0));
end;
create trigger tallies_delete instead of delete on tallies begin
    delete from tally_sums where user_id = old.user_id and ends_at = old.ends_at and per = old.per
                             and starts_at = old.starts_at and model = old.model;
end;
