-- The functions of the ledger on Postgres: holding, ending, sweeping, pruning, the outbox. A batch of holds and endings is
-- one call of `write`: one round trip and one commit, and it works through a transaction pooler. What is decided here is
-- only whether given amounts fit a limit (law 1, in `fitting`); how much to ask for is decided in src/plan/admit.rs.
--
-- The tables are made by migrations/postgres. This text is installed when a process starts. In place of `_v0` each name
-- gets the digest of the whole text, so a change of the text is a new set of functions, and processes of two releases on
-- one database each call their own. install.rs says when an old set goes.
--
-- Each function that is called from outside pins its search_path: temporary types, domains and tables come before what is
-- built in wherever pg_temp is not named last. Those that it calls inherit it.

-- Milliseconds since 1970, on the database's clock.
create function tollgate_ledger.clock_ms_v0() returns bigint
language sql volatile as
$$ select (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint $$;

-- The smallest id of a moment: a UUIDv7 begins with its time.
create function tollgate_ledger.id_at_v0(ms bigint) returns text
language sql immutable as $$
    select substr(hex, 1, 8) || '-' || substr(hex, 9, 4)
    from (select lpad(to_hex(greatest(ms, 0)), 12, '0') as hex) as padded
$$;

-- What the rows of a window add up to: of a user's dollars, those that credits did not pay. Law 4. (In PL/pgSQL, which keeps its plans: each user has a new window a minute.)
create function tollgate_ledger.sum_of_v0(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.windows;
begin
    select for_user, ends, kind, starts,
           coalesce(sum(case when r.state in ('settled', 'lost') then 1
                             when r.state = 'voided' and kind in ('minute', 'hour') then r.load else 0 end), 0)::bigint,
           coalesce(sum(r.input_tokens + r.output_tokens), 0)::bigint,
           coalesce(sum(r.cost_micros - case when for_user = 'app' then 0 else r.credit_micros end), 0)::bigint,
           coalesce(sum(case when r.state = 'held' then 1 else 0 end), 0)::bigint,
           coalesce(sum(case when r.state = 'held' then r.held_input_tokens + r.held_output_tokens else 0 end), 0)::bigint,
           coalesce(sum(case when r.state = 'held' and (for_user = 'app' or r.paid_by <> 'credits')
                             then r.held_micros else 0 end), 0)::bigint
    into wanted
    -- Two arms, not an `or`: for a user, the rows of all others are not even begun to be read.
    from (select * from tollgate_ledger.requests where user_id = for_user
          union all
          select * from tollgate_ledger.requests
          where for_user = 'app' and id >= tollgate_ledger.id_at_v0(starts - 3600000)) as r
    where r.started_at >= starts and r.started_at < ends;
    return wanted;
end $$;

-- The window as it stands in the table, or as its rows add up if it is missing there.
create function tollgate_ledger.look_v0(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.windows;
begin
    select * into wanted from tollgate_ledger.windows
    where user_id = for_user and ends_at = ends and per = kind and starts_at = starts;
    if not found then
        wanted := tollgate_ledger.sum_of_v0(for_user, kind, starts, ends);
    end if;
    return wanted;
end $$;

-- The window, made if it is missing. Whoever calls has the user locked, or the whole app.
create function tollgate_ledger.window_of_v0(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql volatile as $$
declare
    wanted tollgate_ledger.windows := tollgate_ledger.look_v0(for_user, kind, starts, ends);
begin
    -- So that the triggers of migrations/postgres/0006_grants.sql leave it as it is.
    perform set_config('tollgate.credits', 'on', true);
    -- By name: a later release may add columns while this text still serves.
    insert into tollgate_ledger.windows (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used,
                                         requests_held, tokens_held, micros_held)
    values (wanted.user_id, wanted.ends_at, wanted.per, wanted.starts_at, wanted.requests_used, wanted.tokens_used,
            wanted.micros_used, wanted.requests_held, wanted.tokens_held, wanted.micros_held)
    on conflict do nothing;
    return wanted;
end $$;

create function tollgate_ledger.shown_v0(w tollgate_ledger.windows) returns jsonb
language sql immutable as $$
    select jsonb_build_object('used', jsonb_build_array(w.requests_used, w.tokens_used, w.micros_used),
                              'held', jsonb_build_array(w.requests_held, w.tokens_held, w.micros_held))
$$;

-- What the rows of a tally add up to: of a user's requests in a window those that went by a name of the plan, or all for
-- the name ''. Law 4.
create function tollgate_ledger.sum_of_tally_v0(for_user text, name text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.tallies language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.tallies;
begin
    select coalesce(sum(case when r.state in ('settled', 'lost') then 1
                             when r.state = 'voided' and kind in ('minute', 'hour') then r.load else 0 end), 0)::bigint,
           coalesce(sum(r.input_tokens + r.output_tokens), 0)::bigint,
           coalesce(sum(r.cost_micros - r.credit_micros), 0)::bigint,
           coalesce(sum(r.images), 0)::bigint,
           coalesce(sum(r.audio_seconds), 0)::bigint,
           coalesce(sum(r.characters), 0)::bigint,
           (count(*) filter (where r.state = 'held'))::bigint,
           coalesce(sum(r.held_input_tokens + r.held_output_tokens) filter (where r.state = 'held'), 0)::bigint,
           coalesce(sum(r.held_micros) filter (where r.state = 'held' and r.paid_by <> 'credits'), 0)::bigint,
           coalesce(sum(r.held_images) filter (where r.state = 'held'), 0)::bigint,
           coalesce(sum(r.held_audio_seconds) filter (where r.state = 'held'), 0)::bigint,
           coalesce(sum(r.held_characters) filter (where r.state = 'held'), 0)::bigint
    into wanted.requests_used, wanted.tokens_used, wanted.micros_used, wanted.images_used, wanted.audio_seconds_used,
         wanted.characters_used, wanted.requests_held, wanted.tokens_held, wanted.micros_held, wanted.images_held,
         wanted.audio_seconds_held, wanted.characters_held
    from tollgate_ledger.requests r
    where r.user_id = for_user and r.started_at >= starts and r.started_at < ends
      and (name = '' or coalesce(r.plan_model, r.model) = name);
    wanted.user_id := for_user;
    wanted.model := name;
    wanted.per := kind;
    wanted.starts_at := starts;
    wanted.ends_at := ends;
    return wanted;
end $$;

-- The tally as it stands in the table, or as its rows add up if it is missing there.
create function tollgate_ledger.look_at_tally_v0(for_user text, name text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.tallies language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.tallies;
begin
    select * into wanted from tollgate_ledger.tallies
    where user_id = for_user and ends_at = ends and per = kind and starts_at = starts and model = name;
    if not found then
        wanted := tollgate_ledger.sum_of_tally_v0(for_user, name, kind, starts, ends);
    end if;
    return wanted;
end $$;

-- Makes the tally if it is missing. Whoever calls has the user locked.
create function tollgate_ledger.make_tally_v0(for_user text, name text, kind text, starts bigint, ends bigint)
returns void language plpgsql volatile as $$
declare
    wanted tollgate_ledger.tallies := tollgate_ledger.look_at_tally_v0(for_user, name, kind, starts, ends);
begin
    perform set_config('tollgate.credits', 'on', true);
    insert into tollgate_ledger.tallies (user_id, ends_at, per, starts_at, model, requests_used, tokens_used, micros_used,
                                         images_used, audio_seconds_used, characters_used, requests_held, tokens_held,
                                         micros_held, images_held, audio_seconds_held, characters_held)
    values (wanted.user_id, wanted.ends_at, wanted.per, wanted.starts_at, wanted.model, wanted.requests_used,
            wanted.tokens_used, wanted.micros_used, wanted.images_used, wanted.audio_seconds_used, wanted.characters_used,
            wanted.requests_held, wanted.tokens_held, wanted.micros_held, wanted.images_held, wanted.audio_seconds_held,
            wanted.characters_held)
    on conflict do nothing;
end $$;

create function tollgate_ledger.shown_tally_v0(t tollgate_ledger.tallies) returns jsonb
language sql immutable as $$
    select jsonb_build_object(
        'used', jsonb_build_array(t.requests_used, t.tokens_used, t.micros_used, t.images_used, t.audio_seconds_used,
                                  t.characters_used),
        'held', jsonb_build_array(t.requests_held, t.tokens_held, t.micros_held, t.images_held, t.audio_seconds_held,
                                  t.characters_held))
$$;

-- What each of `asked` ([{per, start, end, tally}]) says: a window, or a tally in it.
create function tollgate_ledger.balances_v0(who text, asked jsonb) returns jsonb
language plpgsql volatile as $$
declare
    entry jsonb;
    balances jsonb := '[]';
begin
    for entry in select elements.value from jsonb_array_elements(asked) with ordinality as elements order by ordinality loop
        balances := balances || case when entry->>'tally' is null
            then tollgate_ledger.shown_v0(tollgate_ledger.look_v0(
                who, entry->>'per', (entry->>'start')::bigint, (entry->>'end')::bigint))
            else tollgate_ledger.shown_tally_v0(tollgate_ledger.look_at_tally_v0(
                who, entry->>'tally', entry->>'per', (entry->>'start')::bigint, (entry->>'end')::bigint)) end;
    end loop;
    return balances;
end $$;

-- A hold or an ending, as it is asked for; `n` is its place in the batch. A hold has no `state`.
create type tollgate_ledger.job_v0 as (
    n             bigint,
    wary          boolean,
    id            text,
    user_id       text,
    "now"         bigint,
    state         text,
    -- A hold.
    plan          text,
    endpoint      text,
    model         text,
    upstream      text,
    owner         text,
    input         bigint,
    tokens        bigint,
    micros        bigint,
    concurrent    bigint,
    lifetime_ends bigint,
    limits        jsonb,
    ceiling       jsonb,
    plan_model         text,
    requested_model    text,
    feature            text,
    prompt_version     text,
    price_id           text,
    held_audio_seconds bigint,
    held_characters    bigint,
    held_images        bigint,
    -- It is to be paid by credits, and not by the plan.
    by_credits         boolean,
    -- Where it does not fit, its caller wants to know what is left of the user's credits.
    asks_credits       boolean,
    idempotency_key    text,
    idempotency_digest text,
    -- A key that was taken at this moment, or before, is free.
    idempotency_since  bigint,
    -- A hold that takes the place of the one that the request has: what that is.
    own_tokens         bigint,
    own_micros         bigint,
    own_images         bigint,
    own_audio_seconds  bigint,
    own_characters     bigint,
    own_by_credits     boolean,
    -- An ending has `micros` too, and these; a quantity that is not said is zero.
    flags         text,
    load          bigint,
    ttft_ms       bigint,
    whole         boolean,
    input_tokens bigint,
    cached_input_tokens bigint,
    output_tokens bigint,
    reasoning_tokens bigint,
    cache_write_tokens bigint,
    cache_write_1h_tokens bigint,
    image_input_tokens bigint,
    cached_image_input_tokens bigint,
    audio_input_tokens bigint,
    image_output_tokens bigint,
    audio_output_tokens bigint,
    audio_seconds bigint,
    characters bigint,
    images bigint,
    unsent        bigint,
    astray        jsonb
);

-- What a hold or an ending changes in every window that was open at `started_at`.
create type tollgate_ledger.change_v0 as (
    user_id       text,
    started_at    bigint,
    requests_held bigint,
    tokens_held   bigint,
    micros_held   bigint,
    requests_used bigint,
    load          bigint,
    tokens_used   bigint,
    micros_used   bigint
);

-- What became of a part of a batch: the places of the holds that were made and of the endings that ended something, why
-- the other holds were not made, and what is to be changed in the windows of the whole app.
create type tollgate_ledger.outcome_v0 as (
    held    bigint[],
    ended   bigint[],
    refused jsonb,
    changes tollgate_ledger.change_v0[]
);

create function tollgate_ledger.lock_of_v0(who text) returns bigint
language sql immutable as $$ select pg_catalog.hashtextextended(pg_catalog.textcat('tollgate:', who), 7) $$;

-- What is left of a grant: a refund takes what is left, and what open requests give back, and never more.
create function tollgate_ledger.left_of_v0(g tollgate_ledger.grants) returns bigint
language sql immutable as $$ select greatest(g.granted_micros - g.spent_micros - g.held_micros - g.refunded_micros, 0) $$;

-- A user's grants that may still be spent from, the one that ends first in front.
create function tollgate_ledger.grants_of_v0(who text, at_ms bigint) returns setof tollgate_ledger.grants
language sql volatile as $$
    select g.* from tollgate_ledger.grants g where g.user_id = who and coalesce(g.ends_at, 9223372036854775807) > at_ms
    order by coalesce(g.ends_at, 9223372036854775807), g.granted_at, g.id
$$;

-- What is left of a user's credits, as if a request held nothing of them; null where there are none. (A sum of whole numbers
-- is no bigint, and `least` takes no notice of null.)
create function tollgate_ledger.credits_left_v0(who text, at_ms bigint, request text) returns bigint
language sql volatile as $$
    select case when count(*) > 0 then least(sum(greatest(
               g.granted_micros - g.spent_micros - g.held_micros + coalesce(n.held_micros, 0) - g.refunded_micros, 0)),
               9223372036854775807)::bigint end
    from tollgate_ledger.grants_of_v0(who, at_ms) as g
    left join tollgate_ledger.grant_uses n on n.grant_id = g.id and n.request_id = request
$$;

-- What /api/me tells of a user's credits; null where there are none, and none are held.
create function tollgate_ledger.shown_credits_v0(who text, at_ms bigint) returns jsonb
language sql volatile as $$
    select jsonb_build_object(
        'remaining', least(coalesce(sum(g.rest) filter (where g.lives), 0), 9223372036854775807),
        'held', least(sum(g.held_micros), 9223372036854775807),
        'next_expiry', min(g.ends_at) filter (where g.lives and g.rest > 0))
    from (select one.held_micros, one.ends_at, tollgate_ledger.left_of_v0(one) as rest,
                 coalesce(one.ends_at, 9223372036854775807) > at_ms as lives
          from tollgate_ledger.grants one where one.user_id = who) as g
    where g.lives or g.held_micros > 0
    having count(*) > 0
$$;

-- Where everything stands that a refused hold was asked against: its caller decides whether a smaller one would fit.
create function tollgate_ledger.standings_of_v0(job tollgate_ledger.job_v0) returns jsonb
language plpgsql volatile as $$
declare
    ceiling jsonb := 'null';
begin
    if job.ceiling is not null then
        ceiling := tollgate_ledger.shown_v0(tollgate_ledger.look_v0(
            'app', job.ceiling->>'per', (job.ceiling->>'start')::bigint, (job.ceiling->>'end')::bigint));
    end if;
    return jsonb_build_object('standings', tollgate_ledger.balances_v0(job.user_id, job.limits), 'ceiling', ceiling,
        'credits', case when job.asks_credits then tollgate_ledger.credits_left_v0(job.user_id, job.now, job.id) end,
        'open', (tollgate_ledger.look_v0(job.user_id, 'lifetime', 0, job.lifetime_ends)).requests_held);
end $$;

-- What is neither used nor held of a limit; never below zero, so that a request that asks for none of a unit fits always.
-- No step overflows: amounts are never negative. (As `LimitState::remaining` in src/plan/admit.rs.)
create function tollgate_ledger.remaining_v0(amount bigint, used bigint, held bigint) returns bigint
language sql immutable as $$ select greatest(greatest(amount - used, 0) - held, 0) $$;

-- A limit in a unit that this text does not know lets nothing through: the call fails, and holds nothing.
create function tollgate_ledger.unknown_unit_v0(unit text) returns boolean
language plpgsql volatile as $$
begin
    raise exception 'the ledger knows no unit %', coalesce(unit, 'null') using errcode = 'invalid_parameter_value';
end $$;

-- Which holds of a part fit all that they were asked against, as far as is known now. Law 1. The windows of users are
-- theirs alone, and are made here if they are missing; of the app's nothing is known for sure unless its rows are locked.
-- What a request holds already does not count against the hold that takes its place, and must be what it is thought to be.
create function tollgate_ledger.fitting_v0(part tollgate_ledger.job_v0[], ceilings jsonb[]) returns bigint[]
language plpgsql volatile as $$
declare
    fit bigint[];
    complete boolean;
    credited boolean;
    entry jsonb;
    used bigint;
    held bigint;
begin
    loop
        select array_agg(one.n) filter (where one.fits), bool_and(one.complete), bool_or(one.by_credits)
        into fit, complete, credited
        from (
            select j.n, bool_or(j.by_credits) as by_credits, bool_and(v.user_id is not null and (a.tally is null or t.user_id is not null)) as complete, bool_and(case
                when a.tally is null then case a.unit
                    when 'open' then v.requests_held - case when j.own_tokens is null then 0 else 1 end < a.amount
                    when 'requests' then 1 <= tollgate_ledger.remaining_v0(a.amount, v.requests_used,
                        v.requests_held - case when j.own_tokens is null then 0 else 1 end)
                    when 'tokens' then j.tokens <= tollgate_ledger.remaining_v0(
                        a.amount, v.tokens_used, v.tokens_held - coalesce(j.own_tokens, 0))
                    when 'cost_usd' then j.by_credits is true or j.micros <= tollgate_ledger.remaining_v0(
                        a.amount, v.micros_used,
                        v.micros_held - case when j.own_by_credits then 0 else coalesce(j.own_micros, 0) end)
                    else tollgate_ledger.unknown_unit_v0(a.unit) end
                else case a.unit
                    when 'requests' then 1 <= tollgate_ledger.remaining_v0(a.amount, t.requests_used,
                        t.requests_held - case when j.own_tokens is null then 0 else 1 end)
                    when 'tokens' then j.tokens <= tollgate_ledger.remaining_v0(
                        a.amount, t.tokens_used, t.tokens_held - coalesce(j.own_tokens, 0))
                    when 'cost_usd' then j.by_credits is true or j.micros <= tollgate_ledger.remaining_v0(
                        a.amount, t.micros_used,
                        t.micros_held - case when j.own_by_credits then 0 else coalesce(j.own_micros, 0) end)
                    when 'images' then
                        j.held_images <= tollgate_ledger.remaining_v0(
                            a.amount, t.images_used, t.images_held - coalesce(j.own_images, 0))
                    when 'audio_seconds' then j.held_audio_seconds
                        <= tollgate_ledger.remaining_v0(a.amount, t.audio_seconds_used,
                                                        t.audio_seconds_held - coalesce(j.own_audio_seconds, 0))
                    when 'characters' then
                        j.held_characters <= tollgate_ledger.remaining_v0(a.amount, t.characters_used,
                                                                          t.characters_held - coalesce(j.own_characters, 0))
                    else tollgate_ledger.unknown_unit_v0(a.unit) end
                end) and bool_and(j.own_tokens is null or exists (
                    select from tollgate_ledger.requests q
                    where q.id = j.id and coalesce(q.state, '') = 'held'
                      and q.held_input_tokens + q.held_output_tokens = j.own_tokens and q.held_micros = j.own_micros
                      and (q.paid_by = 'credits') = (j.own_by_credits is true))) as fits
            from unnest(part) as j
            cross join lateral (
                select 'lifetime' as per, 'open' as unit, coalesce(j.concurrent, 9223372036854775807) as amount,
                       0 as start, j.lifetime_ends as "end", null::text as tally
                union all
                select l.* from jsonb_to_recordset(j.limits)
                    as l(per text, unit text, amount bigint, start bigint, "end" bigint, tally text)
            ) as a
            left join tollgate_ledger.windows v
                on v.user_id = j.user_id and v.ends_at = a."end" and v.per = a.per and v.starts_at = a.start
            -- Looked for only where there is a name to look for: `=` finds nothing for null.
            left join tollgate_ledger.tallies t
                on t.user_id = j.user_id and t.ends_at = a."end" and t.per = a.per and t.starts_at = a.start
                    and t.model = a.tally
            where j.state is null
            group by j.n
        ) as one;
        exit when complete is not false;
        perform tollgate_ledger.window_of_v0(j.user_id, a.per, a.start, a."end")
        from unnest(part) as j
        cross join lateral (
            select 'lifetime' as per, 0 as start, j.lifetime_ends as "end"
            union all
            select l.* from jsonb_to_recordset(j.limits) as l(per text, start bigint, "end" bigint)
        ) as a
        where j.state is null and not exists (select from tollgate_ledger.windows v
            where v.user_id = j.user_id and v.ends_at = a."end" and v.per = a.per and v.starts_at = a.start);
        perform tollgate_ledger.make_tally_v0(j.user_id, l.tally, l.per, l.start, l."end")
        from unnest(part) as j
        cross join lateral jsonb_to_recordset(j.limits) as l(per text, start bigint, "end" bigint, tally text)
        where j.state is null and l.tally is not null;
    end loop;
    foreach entry in array ceilings loop
        if entry->>'unit' is distinct from 'cost_usd' then
            perform tollgate_ledger.unknown_unit_v0(entry->>'unit');
        end if;
        select v.micros_used, v.micros_held into used, held
        from tollgate_ledger.windows v
        where v.user_id = 'app' and v.ends_at = (entry->>'end')::bigint and v.per = entry->>'per'
          and v.starts_at = (entry->>'start')::bigint;
        select array_agg(j.n) into fit from unnest(part) as j
        where j.n = any (fit) and (j.ceiling is distinct from entry or j.micros <= tollgate_ledger.remaining_v0(
            (entry->>'amount')::bigint, used, held - coalesce(j.own_micros, 0)));
    end loop;
    if credited then
        -- Law 9.
        select array_agg(j.n) into fit from unnest(part) as j
        where j.n = any (fit)
          and (j.by_credits is not true or j.micros <= tollgate_ledger.credits_left_v0(j.user_id, j.now, j.id));
    end if;
    return fit;
end $$;

-- The holds of a part whose keys are taken, by their places: which request took each, and what became of it. A key is free
-- when its request is voided, or old enough. (A row that is gone is not known to be free.)
create function tollgate_ledger.repeated_v0(part tollgate_ledger.job_v0[]) returns jsonb
language plpgsql volatile as $$
begin
    return (
        select coalesce(jsonb_object_agg(j.n, jsonb_build_object('repeated', jsonb_build_object(
                   'id', k.request_id, 'same', k.digest = j.idempotency_digest,
                   'state', coalesce(r.state, 'lost'), 'cost_micros', coalesce(r.cost_micros, 0)))), '{}')
        from unnest(part) as j
        join tollgate_ledger.idempotency_keys k on k.user_id = j.user_id and k.key = j.idempotency_key
        left join tollgate_ledger.requests r on r.id = k.request_id
        where j.state is null and k.made_at > j.idempotency_since and r.state is distinct from 'voided');
end $$;

-- Takes the keys of the holds at these places.
create function tollgate_ledger.take_keys_v0(part tollgate_ledger.job_v0[], places bigint[]) returns void
language plpgsql volatile as $$
begin
    insert into tollgate_ledger.idempotency_keys (user_id, key, digest, request_id, made_at)
    select j.user_id, j.idempotency_key, j.idempotency_digest, j.id, j.now from unnest(part) as j
    where j.n = any (places) and j.idempotency_key is not null
    on conflict (user_id, key) do update set
        digest = excluded.digest, request_id = excluded.request_id, made_at = excluded.made_at;
end $$;

-- Credits hold what a request holds that they pay for, in place of what they held of it before.
create function tollgate_ledger.hold_credits_v0(request tollgate_ledger.requests) returns void
language plpgsql volatile as $$
declare
    rest bigint := request.held_micros;
    g tollgate_ledger.grants;
    part bigint;
begin
    update tollgate_ledger.grants o set held_micros = o.held_micros - n.held_micros
    from tollgate_ledger.grant_uses n where n.request_id = request.id and o.id = n.grant_id;
    delete from tollgate_ledger.grant_uses where request_id = request.id;
    if request.paid_by <> 'credits' then
        return;
    end if;
    for g in select * from tollgate_ledger.grants_of_v0(request.user_id, request.started_at) loop
        part := least(rest, tollgate_ledger.left_of_v0(g));
        continue when part <= 0;
        update tollgate_ledger.grants set held_micros = held_micros + part where id = g.id;
        insert into tollgate_ledger.grant_uses (request_id, grant_id, held_micros, spent_micros)
        values (request.id, g.id, part, 0);
        rest := rest - part;
    end loop;
    if rest > 0 then
        raise exception 'the credits are less than they were known to be' using errcode = 'check_violation';
    end if;
end $$;

-- Credits pay what a request cost that they pay for, and give back what they held of it: what is held was had before any
-- end, and what an upstream reported beyond it comes from what is left now. What is still lacking counts in the windows.
create function tollgate_ledger.settle_credits_v0(request tollgate_ledger.requests) returns void
language plpgsql volatile as $$
declare
    rest bigint := request.cost_micros;
    u record;
    g tollgate_ledger.grants;
    part bigint;
begin
    for u in
        select n.grant_id, n.held_micros from tollgate_ledger.grant_uses n join tollgate_ledger.grants o on o.id = n.grant_id
        where n.request_id = request.id
        order by coalesce(o.ends_at, 9223372036854775807), o.granted_at, o.id
    loop
        part := least(rest, u.held_micros);
        update tollgate_ledger.grants
        set held_micros = held_micros - u.held_micros, spent_micros = spent_micros + part where id = u.grant_id;
        update tollgate_ledger.grant_uses set held_micros = 0, spent_micros = part
        where request_id = request.id and grant_id = u.grant_id;
        rest := rest - part;
    end loop;
    if rest > 0 then
        for g in select * from tollgate_ledger.grants_of_v0(request.user_id, request.ended_at) loop
            part := least(rest, tollgate_ledger.left_of_v0(g));
            continue when part <= 0;
            update tollgate_ledger.grants set spent_micros = spent_micros + part where id = g.id;
            insert into tollgate_ledger.grant_uses as n (request_id, grant_id, held_micros, spent_micros)
            values (request.id, g.id, 0, part)
            on conflict (request_id, grant_id) do update set spent_micros = n.spent_micros + part;
            rest := rest - part;
        end loop;
    end if;
    if rest < request.cost_micros then
        update tollgate_ledger.requests set credit_micros = request.cost_micros - rest where id = request.id;
    end if;
    if rest > 0 then
        update tollgate_ledger.windows w set micros_used = w.micros_used + rest
        where w.user_id = request.user_id and w.ends_at > request.started_at and w.starts_at <= request.started_at;
        update tollgate_ledger.tallies t set micros_used = t.micros_used + rest
        where t.user_id = request.user_id and t.ends_at > request.started_at and t.starts_at <= request.started_at
          and t.model in ('', coalesce(request.plan_model, request.model));
    end if;
end $$;

-- Writes a part of a batch, in which no user is twice: the users' rows and windows, not yet those of the app. Only where
-- the batch is `keyed` has any hold a key.
create function tollgate_ledger.put_v0(part tollgate_ledger.job_v0[], ceilings jsonb[], pause_reason text, keyed boolean)
returns tollgate_ledger.outcome_v0
language plpgsql volatile as $$
declare
    done tollgate_ledger.outcome_v0;
    repeated jsonb := '{}';
    credited text[];
    paid tollgate_ledger.requests;
begin
    -- So that the triggers of migrations/postgres/0005_tallies.sql and 0006_grants.sql leave this to us.
    perform set_config('tollgate.tallies', 'on', true), set_config('tollgate.credits', 'on', true);
    if keyed then
        repeated := tollgate_ledger.repeated_v0(part);
        part := array(select j from unnest(part) as j where not repeated ? j.n::text);
    end if;
    if pause_reason is null then
        done.held := tollgate_ledger.fitting_v0(part, ceilings);
    end if;
    select coalesce(jsonb_object_agg(j.n, case when pause_reason is null then tollgate_ledger.standings_of_v0(j)
                                               else jsonb_build_object('paused', pause_reason) end), '{}') || repeated
    into done.refused from unnest(part) as j where j.state is null and (done.held is null or j.n <> all (done.held));
    with ended as (
        update tollgate_ledger.requests q set
            state = j.state, flags = j.flags, load = j.load, ended_at = greatest(j.now, q.started_at), ttft_ms = j.ttft_ms,
            input_tokens = case when j.whole then q.held_input_tokens else coalesce(j.input_tokens, 0) end,
            cached_input_tokens = coalesce(j.cached_input_tokens, 0),
            output_tokens = case when j.whole then q.held_output_tokens else coalesce(j.output_tokens, 0) end,
            reasoning_tokens = coalesce(j.reasoning_tokens, 0),
            cache_write_tokens = coalesce(j.cache_write_tokens, 0),
            cache_write_1h_tokens = coalesce(j.cache_write_1h_tokens, 0),
            image_input_tokens = coalesce(j.image_input_tokens, 0),
            cached_image_input_tokens = coalesce(j.cached_image_input_tokens, 0),
            audio_input_tokens = coalesce(j.audio_input_tokens, 0),
            image_output_tokens = coalesce(j.image_output_tokens, 0),
            audio_output_tokens = coalesce(j.audio_output_tokens, 0),
            audio_seconds = case when j.whole then q.held_audio_seconds else coalesce(j.audio_seconds, 0) end,
            characters = case when j.whole then q.held_characters else coalesce(j.characters, 0) end,
            images = case when j.whole then q.held_images else coalesce(j.images, 0) end,
            cost_micros = case when j.whole then q.held_micros else j.micros end,
            -- Nobody is told of a request whose user was forgotten meanwhile.
            unsent = case when q.user_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff' then 0 else j.unsent end
        from unnest(part) as j
        -- So that it is found by its id, and not among all that are held.
        where j.state is not null and q.id = j.id and coalesce(q.state, '') = 'held'
        returning j.n, q.user_id, q.started_at, -1 as requests_held, -q.held_input_tokens - q.held_output_tokens as tokens_held,
                  -q.held_micros as micros_held, case when q.state = 'voided' then 0 else 1 end as requests_used, q.load,
                  q.input_tokens + q.output_tokens as tokens_used, q.cost_micros as micros_used,
                  coalesce(q.plan_model, q.model) as model, -q.held_images as images_held,
                  -q.held_audio_seconds as audio_seconds_held, -q.held_characters as characters_held,
                  q.images as images_used, q.audio_seconds as audio_seconds_used, q.characters as characters_used,
                  q.id, q.paid_by = 'credits' as by_credits
    ), held as (
        insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                              held_output_tokens, held_micros, started_at, owner, requested_model,
                                              feature, price_id, held_audio_seconds, held_characters, held_images,
                                              plan_model, prompt_version, paid_by)
        select j.id, j.user_id, j.plan, j.endpoint, j.model, j.upstream, 'held', j.input, j.tokens - j.input, j.micros,
               j.now, j.owner, j.requested_model, j.feature, j.price_id, coalesce(j.held_audio_seconds, 0),
               coalesce(j.held_characters, 0), coalesce(j.held_images, 0), j.plan_model, j.prompt_version,
               case when j.by_credits then 'credits' else 'plan' end
        from unnest(part) as j where j.n = any (done.held) and j.own_tokens is null
        returning user_id, started_at, 1, held_input_tokens + held_output_tokens, held_micros, 0, 0::bigint, 0::bigint, 0::bigint,
                  coalesce(plan_model, model), held_images, held_audio_seconds, held_characters, 0::bigint, 0::bigint, 0::bigint,
                  id, paid_by = 'credits'
    ), replaced as (
        update tollgate_ledger.requests q set
            model = j.model, plan_model = j.plan_model, requested_model = j.requested_model, upstream = j.upstream,
            paid_by = case when j.by_credits then 'credits' else 'plan' end,
            price_id = j.price_id, held_input_tokens = j.input, held_output_tokens = j.tokens - j.input,
            held_micros = j.micros, held_audio_seconds = coalesce(j.held_audio_seconds, 0),
            held_characters = coalesce(j.held_characters, 0), held_images = coalesce(j.held_images, 0)
        from unnest(part) as j
        where j.own_tokens is not null and j.n = any (done.held) and q.id = j.id and coalesce(q.state, '') = 'held'
        returning q.user_id, q.started_at, 0, j.tokens - j.own_tokens, j.micros - j.own_micros, 0, 0::bigint, 0::bigint,
                  0::bigint, coalesce(q.plan_model, q.model), q.held_images - j.own_images,
                  q.held_audio_seconds - j.own_audio_seconds, q.held_characters - j.own_characters, 0::bigint, 0::bigint,
                  0::bigint, q.id, coalesce(j.by_credits, false) or coalesce(j.own_by_credits, false),
                  case when j.by_credits then 0 else j.micros end - case when j.own_by_credits then 0 else j.own_micros end,
                  0::bigint
    ), changes as (
        select e.user_id, e.started_at, e.requests_held, e.tokens_held, e.micros_held, e.requests_used, e.load,
               e.tokens_used, e.micros_used, e.model, e.images_held, e.audio_seconds_held, e.characters_held,
               e.images_used, e.audio_seconds_used, e.characters_used, e.id, e.by_credits,
               -- What credits pay counts for the app, and in no window and no tally of the user.
               case when e.by_credits then 0 else e.micros_held end as plan_micros_held,
               case when e.by_credits then 0 else e.micros_used end as plan_micros_used
        from ended e
        union all
        select h.*, case when h.by_credits then 0 else h.micros_held end, 0::bigint
        from held as h (user_id, started_at, requests_held, tokens_held, micros_held, requests_used, load, tokens_used,
                        micros_used, model, images_held, audio_seconds_held, characters_held, images_used,
                        audio_seconds_used, characters_used, id, by_credits)
        union all select * from replaced
    ), tallies as (
        -- Most users have none: it is one look into an index for each change.
        update tollgate_ledger.tallies t set
            requests_held = t.requests_held + c.requests_held, tokens_held = t.tokens_held + c.tokens_held,
            micros_held = t.micros_held + c.plan_micros_held, images_held = t.images_held + c.images_held,
            audio_seconds_held = t.audio_seconds_held + c.audio_seconds_held,
            characters_held = t.characters_held + c.characters_held,
            requests_used = t.requests_used
                + case when t.per in ('minute', 'hour') then greatest(c.requests_used, c.load) else c.requests_used end,
            tokens_used = t.tokens_used + c.tokens_used, micros_used = t.micros_used + c.plan_micros_used,
            images_used = t.images_used + c.images_used,
            audio_seconds_used = t.audio_seconds_used + c.audio_seconds_used,
            characters_used = t.characters_used + c.characters_used
        from changes c
        where t.user_id = c.user_id and t.ends_at > c.started_at and t.starts_at <= c.started_at
          and t.model in ('', c.model)
    ), windows as (
        update tollgate_ledger.windows w set
            requests_held = w.requests_held + c.requests_held, tokens_held = w.tokens_held + c.tokens_held,
            micros_held = w.micros_held + c.plan_micros_held,
            requests_used = w.requests_used
                + case when w.per in ('minute', 'hour') then greatest(c.requests_used, c.load) else c.requests_used end,
            tokens_used = w.tokens_used + c.tokens_used, micros_used = w.micros_used + c.plan_micros_used
        from changes c
        where w.user_id = c.user_id and w.ends_at > c.started_at and w.starts_at <= c.started_at
    )
    select (select array_agg(e.n) from ended e),
           array_agg(row(c.user_id, c.started_at, c.requests_held, c.tokens_held, c.micros_held, c.requests_used, c.load,
                         c.tokens_used, c.micros_used)::tollgate_ledger.change_v0),
           array_agg(c.id) filter (where c.by_credits)
    into done.ended, done.changes, credited from changes c;
    if credited is not null then
        for paid in select * from tollgate_ledger.requests where id = any (credited) loop
            if paid.state = 'held' then
                perform tollgate_ledger.hold_credits_v0(paid);
            else
                perform tollgate_ledger.settle_credits_v0(paid);
            end if;
        end loop;
    end if;
    if keyed and done.held is not null then
        perform tollgate_ledger.take_keys_v0(part, done.held);
    end if;
    -- The call with such a hold went astray, and may still come in: it is not to find its place free.
    insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                          held_output_tokens, held_micros, started_at, ended_at, owner)
    select j.id, j.user_id, j.astray->>'plan', j.astray->>'endpoint', j.astray->>'model', j.astray->>'upstream', 'voided',
           0, 0, 0, (j.astray->>'now')::bigint, greatest(j.now, (j.astray->>'now')::bigint), j.astray->>'owner'
    from unnest(part) as j where j.astray is not null and (done.ended is null or j.n <> all (done.ended))
    on conflict do nothing;
    return done;
end $$;

-- What a user has used and holds in each of `asked` (as `balances` takes it), how many requests are open, and the user's
-- credits. Writes nothing.
create function tollgate_ledger.standing_v0(who text, asked jsonb, lifetime_ends bigint, at_ms bigint) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return jsonb_build_object('standings', tollgate_ledger.balances_v0(who, asked),
        'credits', tollgate_ledger.shown_credits_v0(who, at_ms),
        'open', (tollgate_ledger.look_v0(who, 'lifetime', 0, lifetime_ends)).requests_held);
end $$;

-- The whole app's window of a hold's ceiling, made under a lock that lets no other batch write meanwhile: rows that are
-- not committed yet would be missing from its sum. (Not a lock on the table: a vacuum has that for hours.)
create function tollgate_ledger.make_ceiling_v0(ceiling jsonb) returns void
language plpgsql volatile as $$
begin
    perform 1 from tollgate_ledger.windows
    where user_id = 'app' and ends_at = (ceiling->>'end')::bigint and per = ceiling->>'per'
      and starts_at = (ceiling->>'start')::bigint;
    if found then
        return;
    end if;
    perform pg_advisory_xact_lock(tollgate_ledger.lock_of_v0('app'));
    perform tollgate_ledger.window_of_v0('app', ceiling->>'per', (ceiling->>'start')::bigint, (ceiling->>'end')::bigint);
end $$;

-- Whether a user and the windows that end after `since` can be had at once; they are then, to the end of the transaction.
-- Asked before anything is written: whoever met a locked row half-way would make all wait who want the whole app's.
create function tollgate_ledger.take_v0(who text, since bigint) returns boolean
language plpgsql volatile as $$
declare
    taken bigint;
begin
    if not pg_try_advisory_xact_lock(tollgate_ledger.lock_of_v0(who)) then
        return false;
    end if;
    perform 1 from tollgate_ledger.windows where user_id = who and ends_at > since for no key update skip locked;
    get diagnostics taken = row_count;
    return taken = (select count(*) from tollgate_ledger.windows where user_id = who and ends_at > since);
end $$;

-- What is changed in the windows of the whole app, whose rows are locked from here to the end of the transaction: in one
-- order, and once a batch.
create function tollgate_ledger.put_app_v0(changes tollgate_ledger.change_v0[]) returns void
language plpgsql volatile as $$
declare
    since constant bigint := (select min(c.started_at) from unnest(changes) as c);
begin
    perform 1 from tollgate_ledger.windows where user_id = 'app' and ends_at > since
    order by ends_at, per, starts_at for no key update;
    update tollgate_ledger.windows w set
        requests_held = w.requests_held + s.requests_held, tokens_held = w.tokens_held + s.tokens_held,
        micros_held = w.micros_held + s.micros_held, requests_used = w.requests_used + s.requests_used,
        tokens_used = w.tokens_used + s.tokens_used, micros_used = w.micros_used + s.micros_used
    from (
        select v.ends_at, v.per, v.starts_at, sum(c.requests_held) as requests_held, sum(c.tokens_held) as tokens_held,
               sum(c.micros_held) as micros_held, sum(c.tokens_used) as tokens_used, sum(c.micros_used) as micros_used,
               sum(case when v.per in ('minute', 'hour') then greatest(c.requests_used, c.load) else c.requests_used end)
                   as requests_used
        from unnest(changes) as c
        join tollgate_ledger.windows v on v.user_id = 'app' and v.ends_at > c.started_at and v.starts_at <= c.started_at
        group by v.ends_at, v.per, v.starts_at
    ) as s
    where w.user_id = 'app' and w.ends_at = s.ends_at and w.per = s.per and w.starts_at = s.starts_at;
end $$;

-- Ends one open request, whose user is taken; one that has ended, or is not there, stays as it is.
create function tollgate_ledger.end_one_v0(job jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    done tollgate_ledger.outcome_v0;
begin
    done := tollgate_ledger.put_v0(array[jsonb_populate_record(null::tollgate_ledger.job_v0, job)], '{}', null, false);
    perform tollgate_ledger.put_app_v0(done.changes);
end $$;

-- Holds and endings of users whom nobody else is busy with: all at once or, to be `sure`, one by one with the app's
-- windows as they are then.
create function tollgate_ledger.put_all_v0(todo tollgate_ledger.job_v0[], ceilings jsonb[], keyed boolean, alone boolean,
                                           sure boolean) returns tollgate_ledger.outcome_v0
language plpgsql volatile as $$
declare
    pause_reason constant text := (select s.value from tollgate_ledger.switches s where s.name = 'paused');
    part tollgate_ledger.job_v0[];
    done tollgate_ledger.outcome_v0;
    every tollgate_ledger.outcome_v0;
begin
    if alone and not sure then
        return tollgate_ledger.put_v0(todo, ceilings, pause_reason, keyed);
    end if;
    for part in
        select array_agg(p.job order by p.place)
        from (select j as job, j.n as place,
                     case when sure then j.n else row_number() over (partition by j.user_id order by j.n) end as turn
              from unnest(todo) as j) as p
        group by p.turn order by p.turn
    loop
        done := tollgate_ledger.put_v0(part, ceilings, pause_reason, keyed);
        every.held := every.held || done.held;
        every.ended := every.ended || done.ended;
        every.refused := coalesce(every.refused, '{}') || coalesce(done.refused, '{}');
        if sure then
            perform tollgate_ledger.put_app_v0(done.changes);
        else
            every.changes := every.changes || done.changes;
        end if;
    end loop;
    return every;
end $$;

-- Holds and ends, in the order given for each user, in one transaction. A user with whom somebody else is busy is passed
-- over and answered {"busy": true}: nobody waits for somebody else's row.
create function tollgate_ledger.write_v0(jobs jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
-- What is cached was planned when the tables were empty: let it be plans that stay good.
declare
    every constant tollgate_ledger.job_v0[] := (select array_agg(j) from jsonb_populate_recordset(null::tollgate_ledger.job_v0, jobs) as j);
    ceilings constant jsonb[] := array(select distinct j.ceiling from unnest(every) as j where j.ceiling is not null);
    todo tollgate_ledger.job_v0[] := every;
    users bigint;
    keyed boolean;
    busy text[];
    done tollgate_ledger.outcome_v0;
    ceiling jsonb;
    at_app boolean := false;
    written boolean := false;
begin
    perform set_config('lock_timeout', '250ms', true);
    foreach ceiling in array ceilings loop
        perform tollgate_ledger.make_ceiling_v0(ceiling);
    end loop;
    perform pg_advisory_xact_lock_shared(tollgate_ledger.lock_of_v0('app'));
    select count(*), bool_or(u.keyed), array_agg(u.id) filter (where not u.had) into users, keyed, busy
    from (select d.id, d.keyed, case when d.since is null then pg_try_advisory_xact_lock(tollgate_ledger.lock_of_v0(d.id))
                            else tollgate_ledger.take_v0(d.id, d.since) end as had
          from (select j.user_id as id, bool_or(j.idempotency_key is not null) as keyed,
                       min(j.now) filter (where j.wary) as since
                from unnest(every) as j group by 1) as d) as u;
    if busy is not null then
        todo := array(select j from unnest(every) as j where j.user_id <> all (busy));
    end if;
    begin
        -- Only somebody from outside has locked a row of theirs now.
        perform set_config('lock_timeout', '20ms', true);
        done := tollgate_ledger.put_all_v0(todo, ceilings, keyed, users = cardinality(every), false);
        perform set_config('lock_timeout', '250ms', true);
        at_app := true;
        if done.changes is not null then
            perform tollgate_ledger.put_app_v0(done.changes);
        end if;
        written := not exists (
            select from unnest(ceilings) as c
            join tollgate_ledger.windows v on v.user_id = 'app' and v.ends_at = (c->>'end')::bigint and v.per = c->>'per'
                and v.starts_at = (c->>'start')::bigint
            where v.micros_used + v.micros_held > (c->>'amount')::bigint
              and exists (select from unnest(todo) as j where j.ceiling = c and j.n = any (done.held)));
        if not written then
            raise exception 'the ceiling is nearer than it was known to be' using errcode = 'TG001';
        end if;
    exception
        when sqlstate 'TG001' then
            null;
        when lock_not_available then
            if at_app then
                raise;
            end if;
    end;
    if not written then
        select array_agg(distinct j.user_id) into busy from unnest(every) as j
        where j.user_id = any (busy) or not tollgate_ledger.take_v0(j.user_id, j.now);
        todo := array(select j from unnest(every) as j where j.user_id <> all (coalesce(busy, '{}')));
        perform 1 from tollgate_ledger.windows where user_id = 'app' and ends_at > (
            select min(least(j.now, q.started_at)) from unnest(todo) as j left join tollgate_ledger.requests q on q.id = j.id)
        order by ends_at, per, starts_at for no key update;
        done := tollgate_ledger.put_all_v0(todo, ceilings, keyed, false, true);
    end if;
    return (
        select jsonb_agg(case
            when j.user_id = any (busy) then '{"busy": true}'
            when j.state is not null then jsonb_build_object('ended', coalesce(j.n = any (done.ended), false))
            when j.n = any (done.held) then '{"held": true}'
            else done.refused->j.n::text end order by j.n)
        from unnest(every) as j);
end $$;

-- Says that a process lives.
create function tollgate_ledger.renew_v0(process text, lease_ms bigint) returns bigint
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into tollgate_ledger.owners values (process, tollgate_ledger.clock_ms_v0() + lease_ms, lease_ms)
    -- It changes whatever the clock does.
    on conflict (id) do update set lease_ms = excluded.lease_ms, lease_until =
        excluded.lease_until + case when owners.lease_until = excluded.lease_until then 1 else 0 end
    returning lease_until
$$;

-- What dead processes ([{owner, lease_until}], as they were last seen) left open is lost, some at a time. Law 5. Gives
-- back how many ended.
create function tollgate_ledger.sweep_v0(dead_owners jsonb, now_ms bigint, most bigint, outbox bigint) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    dead record;
    ended bigint := 0;
begin
    perform set_config('lock_timeout', '250ms', true);
    perform pg_advisory_xact_lock_shared(tollgate_ledger.lock_of_v0('app'));
    for dead in
        select r.id, r.user_id, r.started_at from tollgate_ledger.requests r
        where r.state = 'held' and r.owner in
            (select gone.owner from jsonb_to_recordset(dead_owners) as gone (owner text, lease_until bigint)
             where not exists (select 1 from tollgate_ledger.owners o
                               where o.id = gone.owner and o.lease_until <> gone.lease_until))
        order by r.user_id limit most
    loop
        continue when not tollgate_ledger.take_v0(dead.user_id, dead.started_at);
        perform tollgate_ledger.end_one_v0(jsonb_build_object(
            'id', dead.id, 'state', 'lost', 'flags', 'swept', 'load', 0, 'now', now_ms, 'whole', true,
            'micros', 0, 'unsent', outbox));
        ended := ended + 1;
    end loop;
    delete from tollgate_ledger.owners o where o.lease_until < tollgate_ledger.clock_ms_v0() - 86400000
        and not exists (select 1 from tollgate_ledger.requests r where r.state = 'held' and r.owner = o.id);
    return ended;
end $$;

-- Forgets `ids` of ended requests after their months ([{user_id, start, end}]) are kept as sums, windows and tallies that
-- ended before `short_before` (minutes and hours) or `long_before`, and keys that were taken at `keys_before` or earlier.
-- What a window says does not change. Gives back how many rows of each are gone.
create function tollgate_ledger.prune_v0(ids jsonb, months jsonb, short_before bigint, long_before bigint, keys_before bigint)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    entry jsonb;
    gone bigint;
    gone_windows bigint;
    gone_tallies bigint;
    gone_keys bigint;
begin
    perform set_config('lock_timeout', '250ms', true);
    for entry in select elements.value from jsonb_array_elements(months) as elements order by elements.value->>'user_id' loop
        perform pg_advisory_xact_lock(tollgate_ledger.lock_of_v0(entry->>'user_id'));
        perform tollgate_ledger.window_of_v0(entry->>'user_id', 'month', (entry->>'start')::bigint, (entry->>'end')::bigint);
        -- A limit for one name may come later, and ask about this month.
        perform tollgate_ledger.make_tally_v0(entry->>'user_id', names.name, 'month', (entry->>'start')::bigint,
                                              (entry->>'end')::bigint)
        from (select '' as name union
              select coalesce(r.plan_model, r.model) from tollgate_ledger.requests r
              where r.user_id = entry->>'user_id' and r.started_at >= (entry->>'start')::bigint
                and r.started_at < (entry->>'end')::bigint) as names
        where (entry->>'end')::bigint >= long_before;
    end loop;
    delete from tollgate_ledger.requests
    where id in (select jsonb_array_elements_text(ids)) and state <> 'held';
    get diagnostics gone = row_count;
    delete from tollgate_ledger.grant_uses
    where request_id in (select jsonb_array_elements_text(ids)) and held_micros = 0;
    delete from tollgate_ledger.windows where ctid in
        (select ctid from tollgate_ledger.windows
         where ends_at < case when per in ('minute', 'hour') then short_before else long_before end
           and ends_at < short_before and per <> 'lifetime' and requests_held = 0
         limit 500 for update skip locked);
    get diagnostics gone_windows = row_count;
    delete from tollgate_ledger.tallies where ctid in
        (select ctid from tollgate_ledger.tallies
         where ends_at < case when per in ('minute', 'hour') then short_before else long_before end
           and ends_at < short_before and per <> 'lifetime' and requests_held = 0
         limit 500 for update skip locked);
    get diagnostics gone_tallies = row_count;
    delete from tollgate_ledger.idempotency_keys where ctid in
        (select ctid from tollgate_ledger.idempotency_keys where made_at <= keys_before limit 500 for update skip locked);
    get diagnostics gone_keys = row_count;
    return gone + gone_windows + gone_tallies + gone_keys;
end $$;

-- The turn to send to an outbox (`outbox` for requests, `purchase_outbox`), for 15 s: one process at a time has it, so that
-- entries leave once and in their order.
-- True: this one had it last, too. False: it is given it now. Null: another has it. A turn that ends after more than twice
-- that is of a clock that was set back, and nobody's.
create function tollgate_ledger.outbox_turn_v0(process text, outbox text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    now_ms bigint := tollgate_ledger.clock_ms_v0();
    had boolean;
    taken boolean;
begin
    insert into tollgate_ledger.switches values (outbox, process, now_ms + 15000) on conflict (name) do nothing;
    if found then
        return false;
    end if;
    select s.value = process, s.updated_at between now_ms and now_ms + 30000 into had, taken
    from tollgate_ledger.switches s where s.name = outbox for update;
    if taken and not had then
        return null;
    end if;
    update tollgate_ledger.switches set value = process, updated_at = now_ms + 15000 where name = outbox;
    return had;
end $$;

-- The oldest rows that wait for the outbox, of other users than `besides`, for the process whose turn it is.
create function tollgate_ledger.unsent_v0(process text, besides text[], most bigint)
returns setof tollgate_ledger.requests language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if tollgate_ledger.outbox_turn_v0(process, 'outbox') is not null then
        return query
            select * from tollgate_ledger.requests r where r.unsent = 1 and r.user_id <> all (besides)
            order by r.ended_at, r.id limit most;
    end if;
end $$;

-- How many rows wait (counted to 100,000 and no further), since when the oldest does, and how many were left behind.
create function tollgate_ledger.unsent_lag_v0(out waiting bigint, out oldest bigint, out given_up bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select count(*), min(first.ended_at),
           (select count(*) from (select 1 from tollgate_ledger.requests where unsent = 2 limit 100000) as behind)
    from (select ended_at from tollgate_ledger.requests where unsent = 1 order by ended_at, id limit 100000) as first
$$;
