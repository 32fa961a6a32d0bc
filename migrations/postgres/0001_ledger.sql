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
language sql volatile set search_path = '' as
$$ select (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint $$;

-- The smallest id of a moment: a UUIDv7 begins with its time.
create function tollgate_ledger.id_at(ms bigint) returns text
language sql immutable set search_path = '' as $$
    select substr(hex, 1, 8) || '-' || substr(hex, 9, 4)
    from (select lpad(to_hex(greatest(ms, 0)), 12, '0') as hex) as padded
$$;

-- What the rows of a window add up to. Law 4.
create function tollgate_ledger.sum_of(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language sql stable set search_path = '' as $$
    select for_user, ends, kind, starts,
           coalesce(sum(case when state in ('settled', 'lost') then 1
                             when state = 'voided' and kind in ('minute', 'hour') then load else 0 end), 0)::bigint,
           coalesce(sum(input_tokens + output_tokens), 0)::bigint,
           coalesce(sum(cost_micros), 0)::bigint,
           coalesce(sum(case when state = 'held' then 1 else 0 end), 0)::bigint,
           coalesce(sum(case when state = 'held' then held_input_tokens + held_output_tokens else 0 end), 0)::bigint,
           coalesce(sum(case when state = 'held' then held_micros else 0 end), 0)::bigint
    -- Two arms, not an `or`: for a user, the rows of all others are not even begun to be read.
    from (select * from tollgate_ledger.requests where user_id = for_user
          union all
          select * from tollgate_ledger.requests
          where for_user = 'app' and id >= tollgate_ledger.id_at(starts - 3600000)) as rows
    where started_at >= starts and started_at < ends
$$;

-- The window as it stands in the table, or as its rows add up if it is missing there.
create function tollgate_ledger.look(for_user text, kind text, starts bigint, ends bigint)
returns tollgate_ledger.windows language plpgsql volatile set search_path = '' as $$
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
returns tollgate_ledger.windows language plpgsql volatile set search_path = '' as $$
declare
    wanted tollgate_ledger.windows := tollgate_ledger.look(for_user, kind, starts, ends);
begin
    insert into tollgate_ledger.windows values (wanted.*) on conflict do nothing;
    return wanted;
end $$;

create function tollgate_ledger.shown(w tollgate_ledger.windows) returns jsonb
language sql immutable set search_path = '' as $$
    select jsonb_build_object('used', jsonb_build_array(w.requests_used, w.tokens_used, w.micros_used),
                              'held', jsonb_build_array(w.requests_held, w.tokens_held, w.micros_held))
$$;

-- A hold of given amounts, if they fit every limit; else where every limit stands. Law 1.
create function tollgate_ledger.hold_one(job jsonb, pause_reason text) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
    who text := job->>'user_id';
    at_ms bigint := (job->>'now')::bigint;
    tokens bigint := (job->>'tokens')::bigint;
    micros bigint := (job->>'micros')::bigint;
    input bigint := (job->>'input')::bigint;
    lifetime_ends constant bigint := (job->>'lifetime_ends')::bigint;
    entry jsonb;
    w tollgate_ledger.windows;
    open_now bigint;
    standings jsonb := '[]';
    ceiling jsonb := 'null';
    fits boolean := pause_reason is null;
begin
    w := tollgate_ledger.window_of(who, 'lifetime', 0, lifetime_ends);
    open_now := w.requests_held;
    fits := fits and open_now < coalesce((job->>'concurrent')::bigint, 9223372036854775807);
    for entry in select * from jsonb_array_elements(job->'limits') loop
        w := tollgate_ledger.window_of(who, entry->>'per', (entry->>'start')::bigint, (entry->>'end')::bigint);
        standings := standings || tollgate_ledger.shown(w);
        fits := fits and case entry->>'unit'
            when 'requests' then w.requests_used + w.requests_held + 1
            when 'tokens' then w.tokens_used + w.tokens_held + tokens
            else w.micros_used + w.micros_held + micros
        end <= (entry->>'amount')::bigint;
    end loop;
    entry := job->'ceiling';
    if entry <> 'null' then
        -- Locked to the end of the transaction: another batch may be spending from it.
        select * into w from tollgate_ledger.windows
        where user_id = 'app' and ends_at = (entry->>'end')::bigint and per = entry->>'per'
          and starts_at = (entry->>'start')::bigint for update;
        ceiling := tollgate_ledger.shown(w);
        fits := fits and w.micros_used + w.micros_held + micros <= (entry->>'amount')::bigint;
    end if;
    if not fits then
        return jsonb_build_object('paused', pause_reason, 'open', open_now, 'standings', standings, 'ceiling', ceiling);
    end if;
    insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                          held_output_tokens, held_micros, started_at, owner)
    values (job->>'id', who, job->>'plan', job->>'endpoint', job->>'model', job->>'upstream', 'held', input,
            tokens - input, micros, at_ms, job->>'owner');
    update tollgate_ledger.windows
    set requests_held = requests_held + 1, tokens_held = tokens_held + tokens, micros_held = micros_held + micros
    where user_id in (who, 'app') and ends_at > at_ms and starts_at <= at_ms;
    return '{"held": true}';
end $$;

-- Ends an open request; one that has ended, or is not there, stays as it is. Law 3.
create function tollgate_ledger.end_one(job jsonb) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
    whole boolean := (job->>'whole')::boolean;
    done tollgate_ledger.requests;
    counted bigint;
begin
    update tollgate_ledger.requests set
        state = job->>'state', flags = job->>'flags', load = (job->>'load')::bigint,
        ended_at = greatest((job->>'now')::bigint, started_at), ttft_ms = (job->>'ttft_ms')::bigint,
        input_tokens = case when whole then held_input_tokens else (job->>'input')::bigint end,
        cached_input_tokens = (job->>'cached')::bigint,
        output_tokens = case when whole then held_output_tokens else (job->>'output')::bigint end,
        reasoning_tokens = (job->>'reasoning')::bigint,
        cost_micros = case when whole then held_micros else (job->>'micros')::bigint end,
        unsent = (job->>'unsent')::bigint
    where id = job->>'id' and state = 'held'
    returning * into done;
    if not found then
        -- The call with this hold went astray, and may still come in: it is not to find its place free.
        if job ? 'astray' then
            insert into tollgate_ledger.requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                                  held_output_tokens, held_micros, started_at, ended_at, owner)
            values (job->>'id', job->>'user_id', job#>>'{astray,plan}', job#>>'{astray,endpoint}',
                    job#>>'{astray,model}', job#>>'{astray,upstream}', 'voided', 0, 0, 0, (job#>>'{astray,now}')::bigint,
                    greatest((job->>'now')::bigint, (job#>>'{astray,now}')::bigint), job#>>'{astray,owner}')
            on conflict do nothing;
        end if;
        return '{"ended": false}';
    end if;
    counted := case when done.state = 'voided' then 0 else 1 end;
    update tollgate_ledger.windows set
        requests_held = requests_held - 1,
        tokens_held = tokens_held - done.held_input_tokens - done.held_output_tokens,
        micros_held = micros_held - done.held_micros,
        requests_used = requests_used
            + case when per in ('minute', 'hour') then greatest(counted, done.load) else counted end,
        tokens_used = tokens_used + done.input_tokens + done.output_tokens,
        micros_used = micros_used + done.cost_micros
    where user_id in (done.user_id, 'app') and ends_at > done.started_at and starts_at <= done.started_at;
    return '{"ended": true}';
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

create function tollgate_ledger.lock_of(who text) returns bigint
language sql immutable set search_path = '' as $$ select hashtextextended('tollgate:' || who, 7) $$;

-- The whole app's window of a hold's ceiling, made under a lock that lets no other batch write meanwhile: rows that are
-- not committed yet would be missing from its sum. (Not a lock on the table: a vacuum has that for hours.)
create function tollgate_ledger.make_ceiling(ceiling jsonb) returns void
language plpgsql volatile set search_path = '' as $$
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
language plpgsql volatile set search_path = '' as $$
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

-- Holds and ends, in the order given, in one transaction. A user with whom somebody else is busy is passed over and
-- answered {"busy": true}: nobody waits for somebody else's row.
create function tollgate_ledger.write(jobs jsonb) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
    job jsonb;
    who record;
    busy text[] := '{}';
    answers jsonb := '[]';
    pause_reason text;
begin
    perform set_config('lock_timeout', '250ms', true);
    for job in select distinct ceilings.value->'ceiling' from jsonb_array_elements(jobs) as ceilings
               where jsonb_typeof(ceilings.value->'ceiling') = 'object' loop
        perform tollgate_ledger.make_ceiling(job);
    end loop;
    perform pg_advisory_xact_lock_shared(tollgate_ledger.lock_of('app'));
    for who in select users.value->>'user_id' as id, min((users.value->>'now')::bigint) as since
               from jsonb_array_elements(jobs) as users group by 1 order by 1 loop
        if not tollgate_ledger.take(who.id, who.since) then
            busy := busy || who.id;
        end if;
    end loop;
    select value into pause_reason from tollgate_ledger.switches where name = 'paused';
    for job in select elements.value from jsonb_array_elements(jobs) with ordinality as elements order by ordinality loop
        if job->>'user_id' = any (busy) then
            answers := answers || '{"busy": true}'::jsonb;
        elsif job ? 'state' then
            answers := answers || tollgate_ledger.end_one(job);
        else
            answers := answers || tollgate_ledger.hold_one(job, pause_reason);
        end if;
    end loop;
    return answers;
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
