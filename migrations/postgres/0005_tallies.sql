-- The columns and tables of migrations/0007_tallies.sql.

alter table tollgate_ledger.requests add column plan_model text collate "C";

alter table tollgate_ledger.credits
    drop constraint credits_unit_check,
    add constraint credits_unit_check
        check (unit in ('requests', 'tokens', 'cost_usd', 'images', 'audio_seconds', 'characters'));

create table tollgate_ledger.tallies (
    user_id            text   collate "C" not null,
    ends_at            bigint not null,
    per                text   collate "C" not null,
    starts_at          bigint not null,
    model              text   collate "C" not null,
    requests_used      bigint not null default 0 check (requests_used >= 0),
    tokens_used        bigint not null default 0 check (tokens_used >= 0),
    micros_used        bigint not null default 0 check (micros_used >= 0),
    images_used        bigint not null default 0 check (images_used >= 0),
    audio_seconds_used bigint not null default 0 check (audio_seconds_used >= 0),
    characters_used    bigint not null default 0 check (characters_used >= 0),
    requests_held      bigint not null default 0 check (requests_held >= 0),
    tokens_held        bigint not null default 0 check (tokens_held >= 0),
    micros_held        bigint not null default 0 check (micros_held >= 0),
    images_held        bigint not null default 0 check (images_held >= 0),
    audio_seconds_held bigint not null default 0 check (audio_seconds_held >= 0),
    characters_held    bigint not null default 0 check (characters_held >= 0),
    primary key (user_id, ends_at, per, starts_at, model)
) with (fillfactor = 70);

create index tallies_by_end on tollgate_ledger.tallies (ends_at) where per <> 'lifetime';

-- An older release holds and ends requests and knows no tallies: what it does is added to them here. The functions of a
-- release that does so itself say so (put, in functions.sql), and then no trigger is called. An older release also knows no
-- quantities but tokens: when it sweeps a request, that is charged all that it held.
create function tollgate_ledger.tally_for_older_release() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    held bigint := case tg_op when 'INSERT' then 1 else -1 end;
    used bigint := 0;
begin
    if tg_op = 'UPDATE' then
        used := case new.state when 'voided' then 0 else 1 end;
        if new.state = 'lost' then
            new.images := new.held_images;
            new.audio_seconds := new.held_audio_seconds;
            new.characters := new.held_characters;
        end if;
    end if;
    update tollgate_ledger.tallies t set
        requests_used = t.requests_used
            + case when t.per in ('minute', 'hour') then greatest(used, new.load) else used end,
        tokens_used = t.tokens_used + used * (new.input_tokens + new.output_tokens),
        micros_used = t.micros_used + used * new.cost_micros,
        images_used = t.images_used + used * new.images,
        audio_seconds_used = t.audio_seconds_used + used * new.audio_seconds,
        characters_used = t.characters_used + used * new.characters,
        requests_held = t.requests_held + held,
        tokens_held = t.tokens_held + held * (new.held_input_tokens + new.held_output_tokens),
        micros_held = t.micros_held + held * new.held_micros,
        images_held = t.images_held + held * new.held_images,
        audio_seconds_held = t.audio_seconds_held + held * new.held_audio_seconds,
        characters_held = t.characters_held + held * new.held_characters
    where t.user_id = new.user_id and t.ends_at > new.started_at and t.starts_at <= new.started_at
      and t.model in ('', coalesce(new.plan_model, new.model));
    return new;
end $$;

create trigger tally_hold_of_older_release before insert on tollgate_ledger.requests for each row
when (new.state = 'held' and pg_catalog.current_setting('tollgate.tallies', true) is distinct from 'on')
execute function tollgate_ledger.tally_for_older_release();

create trigger tally_end_of_older_release before update of state on tollgate_ledger.requests for each row
when (old.state = 'held' and new.state <> 'held'
      and pg_catalog.current_setting('tollgate.tallies', true) is distinct from 'on')
execute function tollgate_ledger.tally_for_older_release();
