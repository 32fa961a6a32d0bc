-- Limits for one name of a plan, and limits in images, seconds of audio and characters.

-- The name in the plan's `models` by which the request went, where that is not `model`. No row is written.
alter table requests add column plan_model text;

-- What the requests of a user add up to in a window, in every unit: those that went by one name of the plan, or all of them
-- under the name ''. As with windows, what is held is the sum of the open rows, and a tally that is missing is made from
-- `requests` when it is first needed. Only users who have, or had, such limits have any.
create table tally_sums (
    user_id            text    not null,
    ends_at            integer not null,
    per                text    not null,
    starts_at          integer not null,
    model              text    not null,
    requests_used      integer not null default 0 check (requests_used >= 0),
    tokens_used        integer not null default 0 check (tokens_used >= 0),
    micros_used        integer not null default 0 check (micros_used >= 0),
    images_used        integer not null default 0 check (images_used >= 0),
    audio_seconds_used integer not null default 0 check (audio_seconds_used >= 0),
    characters_used    integer not null default 0 check (characters_used >= 0),
    primary key (user_id, ends_at, per, starts_at, model)
) strict, without rowid;

create index tally_sums_by_end on tally_sums (ends_at) where per <> 'lifetime';

-- With what is held, for whoever reads.
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
        where r.state = 'held' and r.user_id = s.user_id and r.started_at >= s.starts_at and r.started_at < s.ends_at
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

-- For an import, as with `windows`.
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

-- A credit may be in any unit.
create table credits_in_any_unit (
    id           text    not null primary key,
    user_id      text    not null,
    per          text    not null,
    unit         text    not null
                 check (unit in ('requests', 'tokens', 'cost_usd', 'images', 'audio_seconds', 'characters')),
    amount       integer not null check (amount > 0),
    given_at     integer not null,
    counts_until integer not null
) strict, without rowid;

insert into credits_in_any_unit select id, user_id, per, unit, amount, given_at, counts_until from credits;
drop table credits;
alter table credits_in_any_unit rename to credits;
create index credits_of_user on credits (user_id, counts_until);
