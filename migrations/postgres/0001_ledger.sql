-- The ledger on Postgres, for several processes on one database. The tables are those of migrations/0001_ledger.sql;
-- holding and ending are functions, so that a whole batch is one round trip and one commit, and works through a
-- transaction pooler. What is decided here is only whether given amounts fit; how much to ask for is decided in plan.rs.

create table tollgate_ledger.requests (
    id                  text   collate "C" not null primary key,
    user_id             text   collate "C" not null,
    plan                text   not null,
    endpoint            text   not null,
    model               text   not null,
    upstream            text   not null,
    state               text   not null check (state in ('held', 'settled', 'voided', 'lost')),
    flags               text   not null default '',
    load                bigint not null default 0,
    held_input_tokens   bigint not null check (held_input_tokens >= 0),
    held_output_tokens  bigint not null check (held_output_tokens >= 0),
    held_micros         bigint not null check (held_micros >= 0),
    input_tokens        bigint not null default 0 check (input_tokens >= 0),
    cached_input_tokens bigint not null default 0 check (cached_input_tokens >= 0),
    output_tokens       bigint not null default 0 check (output_tokens >= 0),
    reasoning_tokens    bigint not null default 0 check (reasoning_tokens >= 0),
    cost_micros         bigint not null default 0 check (cost_micros >= 0),
    started_at          bigint not null,
    ended_at            bigint,
    ttft_ms             bigint,
    owner               text   collate "C" not null,
    unsent              bigint not null default 0   -- 1: waits for the outbox; 2: left behind by it
);

create index requests_of_user on tollgate_ledger.requests (user_id, started_at);
create index requests_held on tollgate_ledger.requests (owner) where state = 'held';
create index requests_unsent on tollgate_ledger.requests (ended_at, id, user_id) where unsent = 1;
create index requests_left_behind on tollgate_ledger.requests (ended_at) where unsent = 2;

create table tollgate_ledger.windows (
    user_id        text   collate "C" not null,
    ends_at        bigint not null,
    per            text   collate "C" not null,
    starts_at      bigint not null,
    requests_used  bigint not null default 0 check (requests_used >= 0),
    tokens_used    bigint not null default 0 check (tokens_used >= 0),
    micros_used    bigint not null default 0 check (micros_used >= 0),
    requests_held  bigint not null default 0 check (requests_held >= 0),
    tokens_held    bigint not null default 0 check (tokens_held >= 0),
    micros_held    bigint not null default 0 check (micros_held >= 0),
    primary key (user_id, ends_at, per, starts_at)
) with (fillfactor = 70);

create index windows_by_end on tollgate_ledger.windows (ends_at) where per <> 'lifetime';

create table tollgate_ledger.subscriptions (
    user_id      text   collate "C" not null primary key,
    plan         text,
    period_start bigint,
    period_end   bigint,
    until        bigint,
    blocked      bigint not null default 0,
    updated_at   bigint not null
);

create table tollgate_ledger.switches (
    name       text   not null primary key,
    value      text   not null,
    updated_at bigint not null
);

-- A process that holds requests says by its lease that it lives. Whether it still does, the others see by whether
-- `lease_until` changes within `lease_ms` on their own clocks; what this clock says only an import goes by.
create table tollgate_ledger.owners (
    id          text   collate "C" not null primary key,
    lease_until bigint not null,
    lease_ms    bigint not null
);

-- Milliseconds since 1970, on the database's clock.
create function tollgate_ledger.clock_ms() returns bigint
language sql volatile as
$$ select (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint $$;

-- The smallest id of a moment: a UUIDv7 begins with its time.
create function tollgate_ledger.id_at(ms bigint) returns text
language sql immutable as $$
    select substr(hex, 1, 8) || '-' || substr(hex, 9, 4)
    from (select lpad(to_hex(greatest(ms, 0)), 12, '0') as hex) as padded
$$;

-- What the rows of a window add up to. Law 4. (In PL/pgSQL, which keeps its plans: each user has a new window a minute.)
create function tollgate_ledger.sum_of(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.windows;
begin
    select for_user, ends, kind, starts,
           coalesce(sum(case when r.state in ('settled', 'lost') then 1
                             when r.state = 'voided' and kind in ('minute', 'hour') then r.load else 0 end), 0)::bigint,
           coalesce(sum(r.input_tokens + r.output_tokens), 0)::bigint,
           coalesce(sum(r.cost_micros), 0)::bigint,
           coalesce(sum(case when r.state = 'held' then 1 else 0 end), 0)::bigint,
           coalesce(sum(case when r.state = 'held' then r.held_input_tokens + r.held_output_tokens else 0 end), 0)::bigint,
           coalesce(sum(case when r.state = 'held' then r.held_micros else 0 end), 0)::bigint
    into wanted
    -- Two arms, not an `or`: for a user, the rows of all others are not even begun to be read.
    from (select * from tollgate_ledger.requests where user_id = for_user
          union all
          select * from tollgate_ledger.requests
          where for_user = 'app' and id >= tollgate_ledger.id_at(starts - 3600000)) as r
    where r.started_at >= starts and r.started_at < ends;
    return wanted;
end $$;

-- The window as it stands in the table, or as its rows add up if it is missing there.
create function tollgate_ledger.look(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql volatile set search_path = ''
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    wanted tollgate_ledger.windows;
begin
    select * into wanted from tollgate_ledger.windows
    where user_id = for_user and ends_at = ends and per = kind and starts_at = starts;
    if not found then
        wanted := tollgate_ledger.sum_of(for_user, kind, starts, ends);
    end if;
    return wanted;
end $$;

-- The window, made if it is missing. Whoever calls has the user locked, or the whole app.
create function tollgate_ledger.window_of(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql volatile as $$
declare
    wanted tollgate_ledger.windows := tollgate_ledger.look(for_user, kind, starts, ends);
begin
    insert into tollgate_ledger.windows values (wanted.*) on conflict do nothing;
    return wanted;
end $$;

create function tollgate_ledger.shown(w tollgate_ledger.windows) returns jsonb
language sql immutable as $$
    select jsonb_build_object('used', jsonb_build_array(w.requests_used, w.tokens_used, w.micros_used),
                              'held', jsonb_build_array(w.requests_held, w.tokens_held, w.micros_held))
$$;

-- A hold or an ending, as it is asked for; `n` is its place in the batch. A hold has no `state`.
create type tollgate_ledger.job as (
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
    -- An ending has `input` and `micros` too, and these.
    flags         text,
    load          bigint,
    ttft_ms       bigint,
    whole         boolean,
    cached        bigint,
    output        bigint,
    reasoning     bigint,
    unsent        bigint,
    astray        jsonb
);

-- What a hold or an ending changes in every window that was open at `started_at`.
create type tollgate_ledger.change as (
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
create type tollgate_ledger.outcome as (
    held    bigint[],
    ended   bigint[],
    refused jsonb,
    changes tollgate_ledger.change[]
);

create function tollgate_ledger.lock_of(who text) returns bigint
language sql immutable as $$ select pg_catalog.hashtextextended(pg_catalog.textcat('tollgate:', who), 7) $$;

-- Where everything stands that a refused hold was asked against: its caller decides whether a smaller one would fit.
create function tollgate_ledger.standings_of(job tollgate_ledger.job) returns jsonb
language plpgsql volatile as $$
declare
    entry jsonb;
    standings jsonb := '[]';
    ceiling jsonb := 'null';
begin
    for entry in select elements.value from jsonb_array_elements(job.limits) with ordinality as elements order by ordinality loop
        standings := standings || tollgate_ledger.shown(tollgate_ledger.look(
            job.user_id, entry->>'per', (entry->>'start')::bigint, (entry->>'end')::bigint));
    end loop;
    if job.ceiling is not null then
        ceiling := tollgate_ledger.shown(tollgate_ledger.look(
            'app', job.ceiling->>'per', (job.ceiling->>'start')::bigint, (job.ceiling->>'end')::bigint));
    end if;
    return jsonb_build_object('standings', standings, 'ceiling', ceiling,
        'open', (tollgate_ledger.look(job.user_id, 'lifetime', 0, job.lifetime_ends)).requests_held);
end $$;

-- Which holds of a part fit all that they were asked against, as far as is known now. Law 1. The windows of users are
-- theirs alone, and are made here if they are missing; of the app's nothing is known for sure unless its rows are locked.
create function tollgate_ledger.fitting(part tollgate_ledger.job[], ceilings jsonb[]) returns bigint[]
language plpgsql volatile as $$
declare
    fit bigint[];
    complete boolean;
    entry jsonb;
    room bigint;
begin
    loop
        select array_agg(one.n) filter (where one.fits), bool_and(one.complete) into fit, complete
        from (
            select j.n, bool_and(v.user_id is not null) as complete, bool_and(case a.unit
                when 'open' then v.requests_held < a.amount
                when 'requests' then v.requests_used + v.requests_held < a.amount
                when 'tokens' then v.tokens_used + v.tokens_held + j.tokens <= a.amount
                else v.micros_used + v.micros_held + j.micros <= a.amount end) as fits
            from unnest(part) as j
            cross join lateral (
                select 'lifetime' as per, 'open' as unit, coalesce(j.concurrent, 9223372036854775807) as amount,
                       0 as start, j.lifetime_ends as "end"
                union all
                select l.* from jsonb_to_recordset(j.limits) as l(per text, unit text, amount bigint, start bigint, "end" bigint)
            ) as a
            left join tollgate_ledger.windows v
                on v.user_id = j.user_id and v.ends_at = a."end" and v.per = a.per and v.starts_at = a.start
            where j.state is null
            group by j.n
        ) as one;
        exit when complete is not false;
        perform tollgate_ledger.window_of(j.user_id, a.per, a.start, a."end")
        from unnest(part) as j
        cross join lateral (
            select 'lifetime' as per, 0 as start, j.lifetime_ends as "end"
            union all
            select l.* from jsonb_to_recordset(j.limits) as l(per text, start bigint, "end" bigint)
        ) as a
        where j.state is null and not exists (select from tollgate_ledger.windows v
            where v.user_id = j.user_id and v.ends_at = a."end" and v.per = a.per and v.starts_at = a.start);
    end loop;
    foreach entry in array ceilings loop
        select (entry->>'amount')::bigint - v.micros_used - v.micros_held into room from tollgate_ledger.windows v
        where v.user_id = 'app' and v.ends_at = (entry->>'end')::bigint and v.per = entry->>'per'
          and v.starts_at = (entry->>'start')::bigint;
        select array_agg(j.n) into fit from unnest(part) as j
        where j.n = any (fit) and (j.ceiling is distinct from entry or j.micros <= room);
    end loop;
    return fit;
end $$;

-- Writes a part of a batch, in which no user is twice: the users' rows and windows, not yet those of the app.
create function tollgate_ledger.put(part tollgate_ledger.job[], ceilings jsonb[], pause_reason text) returns tollgate_ledger.outcome
language plpgsql volatile as $$
declare
    done tollgate_ledger.outcome;
begin
    if pause_reason is null then
        done.held := tollgate_ledger.fitting(part, ceilings);
    end if;
    select jsonb_object_agg(j.n, case when pause_reason is null then tollgate_ledger.standings_of(j)
                                      else jsonb_build_object('paused', pause_reason) end)
    into done.refused from unnest(part) as j where j.state is null and (done.held is null or j.n <> all (done.held));
    with ended as (
        update tollgate_ledger.requests q set
            state = j.state, flags = j.flags, load = j.load, ended_at = greatest(j.now, q.started_at), ttft_ms = j.ttft_ms,
            input_tokens = case when j.whole then q.held_input_tokens else j.input end,
            cached_input_tokens = j.cached,
            output_tokens = case when j.whole then q.held_output_tokens else j.output end,
            reasoning_tokens = j.reasoning,
            cost_micros = case when j.whole then q.held_micros else j.micros end,
            unsent = j.unsent
        from unnest(part) as j
        -- So that it is found by its id, and not among all that are held.
        where j.state is not null and q.id = j.id and coalesce(q.state, '') = 'held'
        returning j.n, q.user_id, q.started_at, -1 as requests_held, -q.held_input_tokens - q.held_output_tokens as tokens_held,
                  -q.held_micros as micros_held, case when q.state = 'voided' then 0 else 1 end as requests_used, q.load,
                  q.input_tokens + q.output_tokens as tokens_used, q.cost_micros as micros_used
    ), held as (
        insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                              held_output_tokens, held_micros, started_at, owner)
        select j.id, j.user_id, j.plan, j.endpoint, j.model, j.upstream, 'held', j.input, j.tokens - j.input, j.micros,
               j.now, j.owner
        from unnest(part) as j where j.n = any (done.held)
        returning user_id, started_at, 1, held_input_tokens + held_output_tokens, held_micros, 0, 0::bigint, 0::bigint, 0::bigint
    ), changes as (
        select e.user_id, e.started_at, e.requests_held, e.tokens_held, e.micros_held, e.requests_used, e.load,
               e.tokens_used, e.micros_used from ended e
        union all select * from held
    ), windows as (
        update tollgate_ledger.windows w set
            requests_held = w.requests_held + c.requests_held, tokens_held = w.tokens_held + c.tokens_held,
            micros_held = w.micros_held + c.micros_held,
            requests_used = w.requests_used
                + case when w.per in ('minute', 'hour') then greatest(c.requests_used, c.load) else c.requests_used end,
            tokens_used = w.tokens_used + c.tokens_used, micros_used = w.micros_used + c.micros_used
        from changes c
        where w.user_id = c.user_id and w.ends_at > c.started_at and w.starts_at <= c.started_at
    )
    select (select array_agg(e.n) from ended e), array_agg(row(c.*)::tollgate_ledger.change)
    into done.ended, done.changes from changes c;
    -- The call with such a hold went astray, and may still come in: it is not to find its place free.
    insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                          held_output_tokens, held_micros, started_at, ended_at, owner)
    select j.id, j.user_id, j.astray->>'plan', j.astray->>'endpoint', j.astray->>'model', j.astray->>'upstream', 'voided',
           0, 0, 0, (j.astray->>'now')::bigint, greatest(j.now, (j.astray->>'now')::bigint), j.astray->>'owner'
    from unnest(part) as j where j.astray is not null and (done.ended is null or j.n <> all (done.ended))
    on conflict do nothing;
    return done;
end $$;

-- What a user has used and holds in each of `asked` ([{per, start, end}]), and how many requests are open. Writes nothing.
create function tollgate_ledger.standing(who text, asked jsonb, lifetime_ends bigint) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
    entry jsonb;
    standings jsonb := '[]';
begin
    for entry in select elements.value from jsonb_array_elements(asked) with ordinality as elements order by ordinality loop
        standings := standings || tollgate_ledger.shown(tollgate_ledger.look(
            who, entry->>'per', (entry->>'start')::bigint, (entry->>'end')::bigint));
    end loop;
    return jsonb_build_object('standings', standings,
        'open', (tollgate_ledger.look(who, 'lifetime', 0, lifetime_ends)).requests_held);
end $$;

-- The whole app's window of a hold's ceiling, made under a lock that lets no other batch write meanwhile: rows that are
-- not committed yet would be missing from its sum. (Not a lock on the table: a vacuum has that for hours.)
create function tollgate_ledger.make_ceiling(ceiling jsonb) returns void
language plpgsql volatile as $$
begin
    perform 1 from tollgate_ledger.windows
    where user_id = 'app' and ends_at = (ceiling->>'end')::bigint and per = ceiling->>'per'
      and starts_at = (ceiling->>'start')::bigint;
    if found then
        return;
    end if;
    perform pg_advisory_xact_lock(tollgate_ledger.lock_of('app'));
    perform tollgate_ledger.window_of('app', ceiling->>'per', (ceiling->>'start')::bigint, (ceiling->>'end')::bigint);
end $$;

-- Whether a user and the windows that end after `since` can be had at once; they are then, to the end of the transaction.
-- Asked before anything is written: whoever met a locked row half-way would make all wait who want the whole app's.
create function tollgate_ledger.take(who text, since bigint) returns boolean
language plpgsql volatile as $$
declare
    taken bigint;
begin
    if not pg_try_advisory_xact_lock(tollgate_ledger.lock_of(who)) then
        return false;
    end if;
    perform 1 from tollgate_ledger.windows where user_id = who and ends_at > since for no key update skip locked;
    get diagnostics taken = row_count;
    return taken = (select count(*) from tollgate_ledger.windows where user_id = who and ends_at > since);
end $$;

-- What is changed in the windows of the whole app, whose rows are locked from here to the end of the transaction: in one
-- order, and once a batch.
create function tollgate_ledger.put_app(changes tollgate_ledger.change[]) returns void
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
create function tollgate_ledger.end_one(job jsonb) returns void
language plpgsql volatile set search_path = ''
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
declare
    done tollgate_ledger.outcome;
begin
    done := tollgate_ledger.put(array[jsonb_populate_record(null::tollgate_ledger.job, job)], '{}', null);
    perform tollgate_ledger.put_app(done.changes);
end $$;

-- Holds and endings of users whom nobody else is busy with: all at once or, to be `sure`, one by one with the app's
-- windows as they are then.
create function tollgate_ledger.put_all(todo tollgate_ledger.job[], ceilings jsonb[], alone boolean, sure boolean) returns tollgate_ledger.outcome
language plpgsql volatile as $$
declare
    pause_reason constant text := (select s.value from tollgate_ledger.switches s where s.name = 'paused');
    part tollgate_ledger.job[];
    done tollgate_ledger.outcome;
    every tollgate_ledger.outcome;
begin
    if alone and not sure then
        return tollgate_ledger.put(todo, ceilings, pause_reason);
    end if;
    for part in
        select array_agg(p.job order by p.place)
        from (select j as job, j.n as place,
                     case when sure then j.n else row_number() over (partition by j.user_id order by j.n) end as turn
              from unnest(todo) as j) as p
        group by p.turn order by p.turn
    loop
        done := tollgate_ledger.put(part, ceilings, pause_reason);
        every.held := every.held || done.held;
        every.ended := every.ended || done.ended;
        every.refused := coalesce(every.refused, '{}') || coalesce(done.refused, '{}');
        if sure then
            perform tollgate_ledger.put_app(done.changes);
        else
            every.changes := every.changes || done.changes;
        end if;
    end loop;
    return every;
end $$;

-- Holds and ends, in the order given for each user, in one transaction. A user with whom somebody else is busy is passed
-- over and answered {"busy": true}: nobody waits for somebody else's row.
create function tollgate_ledger.write(jobs jsonb) returns jsonb
language plpgsql volatile set search_path = ''
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off as $$
-- What is cached was planned when the tables were empty: let it be plans that stay good.
declare
    every constant tollgate_ledger.job[] := (select array_agg(j) from jsonb_populate_recordset(null::tollgate_ledger.job, jobs) as j);
    ceilings constant jsonb[] := array(select distinct j.ceiling from unnest(every) as j where j.ceiling is not null);
    todo tollgate_ledger.job[] := every;
    users bigint;
    busy text[];
    done tollgate_ledger.outcome;
    ceiling jsonb;
    at_app boolean := false;
    written boolean := false;
begin
    perform set_config('lock_timeout', '250ms', true);
    foreach ceiling in array ceilings loop
        perform tollgate_ledger.make_ceiling(ceiling);
    end loop;
    perform pg_advisory_xact_lock_shared(tollgate_ledger.lock_of('app'));
    select count(*), array_agg(u.id) filter (where not u.had) into users, busy
    from (select d.id, case when d.since is null then pg_try_advisory_xact_lock(tollgate_ledger.lock_of(d.id))
                            else tollgate_ledger.take(d.id, d.since) end as had
          from (select j.user_id as id, min(j.now) filter (where j.wary) as since from unnest(every) as j group by 1) as d) as u;
    if busy is not null then
        todo := array(select j from unnest(every) as j where j.user_id <> all (busy));
    end if;
    begin
        -- Only somebody from outside has locked a row of theirs now.
        perform set_config('lock_timeout', '20ms', true);
        done := tollgate_ledger.put_all(todo, ceilings, users = cardinality(every), false);
        perform set_config('lock_timeout', '250ms', true);
        at_app := true;
        if done.changes is not null then
            perform tollgate_ledger.put_app(done.changes);
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
        where j.user_id = any (busy) or not tollgate_ledger.take(j.user_id, j.now);
        todo := array(select j from unnest(every) as j where j.user_id <> all (coalesce(busy, '{}')));
        perform 1 from tollgate_ledger.windows where user_id = 'app' and ends_at > (
            select min(least(j.now, q.started_at)) from unnest(todo) as j left join tollgate_ledger.requests q on q.id = j.id)
        order by ends_at, per, starts_at for no key update;
        done := tollgate_ledger.put_all(todo, ceilings, false, true);
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
create function tollgate_ledger.renew(process text, lease_ms bigint) returns bigint
language sql volatile set search_path = '' as $$
    insert into tollgate_ledger.owners values (process, tollgate_ledger.clock_ms() + lease_ms, lease_ms)
    -- It changes whatever the clock does.
    on conflict (id) do update set lease_ms = excluded.lease_ms, lease_until =
        excluded.lease_until + case when owners.lease_until = excluded.lease_until then 1 else 0 end
    returning lease_until
$$;

-- What dead processes ([{owner, lease_until}], as they were last seen) left open is lost, some at a time. Law 5. Gives
-- back how many ended.
create function tollgate_ledger.sweep(dead_owners jsonb, now_ms bigint, most bigint, outbox bigint) returns bigint
language plpgsql volatile set search_path = '' as $$
declare
    dead record;
    ended bigint := 0;
begin
    perform set_config('lock_timeout', '250ms', true);
    perform pg_advisory_xact_lock_shared(tollgate_ledger.lock_of('app'));
    for dead in
        select r.id, r.user_id, r.started_at from tollgate_ledger.requests r
        where r.state = 'held' and r.owner in
            (select gone.owner from jsonb_to_recordset(dead_owners) as gone (owner text, lease_until bigint)
             where not exists (select 1 from tollgate_ledger.owners o
                               where o.id = gone.owner and o.lease_until <> gone.lease_until))
        order by r.user_id limit most
    loop
        continue when not tollgate_ledger.take(dead.user_id, dead.started_at);
        perform tollgate_ledger.end_one(jsonb_build_object(
            'id', dead.id, 'state', 'lost', 'flags', 'swept', 'load', 0, 'now', now_ms, 'whole', true,
            'input', 0, 'cached', 0, 'output', 0, 'reasoning', 0, 'micros', 0, 'unsent', outbox));
        ended := ended + 1;
    end loop;
    delete from tollgate_ledger.owners o where o.lease_until < tollgate_ledger.clock_ms() - 86400000
        and not exists (select 1 from tollgate_ledger.requests r where r.state = 'held' and r.owner = o.id);
    return ended;
end $$;

-- Forgets `ids` of ended requests after their months ([{user_id, start, end}]) are kept as sums, and windows that ended
-- before `short_before` (minutes and hours) or `long_before`. What a window says does not change. Gives back how many
-- rows of either are gone.
create function tollgate_ledger.prune(ids jsonb, months jsonb, short_before bigint, long_before bigint) returns bigint
language plpgsql volatile set search_path = '' as $$
declare
    entry jsonb;
    gone bigint;
    gone_windows bigint;
begin
    perform set_config('lock_timeout', '250ms', true);
    for entry in select elements.value from jsonb_array_elements(months) as elements order by elements.value->>'user_id' loop
        perform pg_advisory_xact_lock(tollgate_ledger.lock_of(entry->>'user_id'));
        perform tollgate_ledger.window_of(entry->>'user_id', 'month', (entry->>'start')::bigint, (entry->>'end')::bigint);
    end loop;
    delete from tollgate_ledger.requests
    where id in (select jsonb_array_elements_text(ids)) and state <> 'held';
    get diagnostics gone = row_count;
    delete from tollgate_ledger.windows where ctid in
        (select ctid from tollgate_ledger.windows
         where ends_at < case when per in ('minute', 'hour') then short_before else long_before end
           and ends_at < short_before and per <> 'lifetime' and requests_held = 0
         limit 500 for update skip locked);
    get diagnostics gone_windows = row_count;
    return gone + gone_windows;
end $$;

-- The turn to send to the outbox, for 15 s: one process at a time has it, so that entries leave once and in their order.
-- True: this one had it last, too. False: it is given it now. Null: another has it. A turn that ends after more than twice
-- that is of a clock that was set back, and nobody's.
create function tollgate_ledger.outbox_turn(process text) returns boolean
language plpgsql volatile set search_path = '' as $$
declare
    now_ms bigint := tollgate_ledger.clock_ms();
    had boolean;
    taken boolean;
begin
    insert into tollgate_ledger.switches values ('outbox', process, now_ms + 15000) on conflict (name) do nothing;
    if found then
        return false;
    end if;
    select s.value = process, s.updated_at between now_ms and now_ms + 30000 into had, taken
    from tollgate_ledger.switches s where s.name = 'outbox' for update;
    if taken and not had then
        return null;
    end if;
    update tollgate_ledger.switches set value = process, updated_at = now_ms + 15000 where name = 'outbox';
    return had;
end $$;

-- The oldest rows that wait for the outbox, of other users than `besides`, for the process whose turn it is.
create function tollgate_ledger.unsent(process text, besides text[], most bigint)
returns setof tollgate_ledger.requests language plpgsql volatile set search_path = '' as $$
begin
    if tollgate_ledger.outbox_turn(process) is not null then
        return query
            select * from tollgate_ledger.requests r where r.unsent = 1 and r.user_id <> all (besides)
            order by r.ended_at, r.id limit most;
    end if;
end $$;

-- How many rows wait (counted to 100,000 and no further), since when the oldest does, and how many were left behind.
create function tollgate_ledger.unsent_lag(out waiting bigint, out oldest bigint, out given_up bigint)
language sql stable set search_path = '' as $$
    select count(*), min(first.ended_at),
           (select count(*) from (select 1 from tollgate_ledger.requests where unsent = 2 limit 100000) as behind)
    from (select ended_at from tollgate_ledger.requests where unsent = 1 order by ended_at, id limit 100000) as first
$$;
