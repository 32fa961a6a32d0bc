-- Tollgate in your own database: where it asks for a user's plan, and where it writes what each request cost.
--
-- Run all of it in the Supabase SQL editor, or by: tollgate sql | psql "$DATABASE_URL" -v ON_ERROR_STOP=1
-- It is one transaction, and safe to run again:
--   * your two functions, tollgate.check_user_limits and tollgate.log_request, are made only where they are missing.
--     Edit them as you like: no later run overwrites them. To have one as shipped again, drop it first.
--   * tables and rows are never changed or dropped; a missing table is made.
--   * everything else (the functions that Tollgate calls, row-level security, grants) is put back as it stands here,
--     so a run also takes away what somebody granted too widely.
--
-- Who may do what afterwards: a signed-in user reads the own rows of tollgate.usage and nothing else; nobody but the
-- service role (and the owner: whoever runs this) calls a function or writes a row. New objects get no grants of
-- themselves on Supabase any more, and functions are everybody's unless revoked: both are spelled out below.
--
-- To remove everything, the usage too:
--   drop schema tollgate cascade;
--   drop function public.tollgate_check_user_limits, public.tollgate_log_requests;

begin;
set local client_min_messages = warning;
-- Two runs at once wait for each other.
do $$ begin perform pg_advisory_xact_lock(7308332045000000001); end $$;

create schema if not exists tollgate;

-- ---------------------------------------------------------------------------------------------------------------------
-- The default tables. Tollgate never reads or writes them itself: only your two functions do.
-- ---------------------------------------------------------------------------------------------------------------------

-- One row a user who has a plan. A user without a row gets the plan that the token names, else the default plan.
create table if not exists tollgate.subscriptions (
    user_id      uuid        primary key,
    plan         text,                                    -- a plan of tollgate.toml
    period_start timestamptz check (isfinite(period_start)),
    period_end   timestamptz check (isfinite(period_end) and period_end > period_start),
    allowed      boolean     not null default true,       -- false: every request is refused (403 user_blocked)
    limits       jsonb       check (jsonb_typeof(limits) = 'array'),
    updated_at   timestamptz not null default now()
);
comment on table tollgate.subscriptions is
    'Plans of users. limits replaces the limits of the plan, in the shape of tollgate.toml: [{"per": "day", "requests": 500}]';

-- One row a request that cost something. No foreign key to auth.users: deleting a user must not delete what was billed.
create table if not exists tollgate.usage (
    id                  uuid        primary key,           -- the X-Request-Id of the answer
    user_id             uuid        not null,
    plan                text        not null,
    endpoint            text        not null,
    model               text        not null,
    upstream            text        not null,
    started_at          timestamptz not null,
    ended_at            timestamptz not null,
    "end"               text        not null,              -- settled, or lost: charged as held, the outcome is unknown
    flags               text[]      not null default '{}', -- estimated, overrun, cancelled …
    input_tokens        bigint      not null,
    cached_input_tokens bigint      not null,
    output_tokens       bigint      not null,
    reasoning_tokens    bigint      not null,
    cost_usd            numeric     not null,
    ttft_ms             bigint,                            -- time to the first token
    duration_ms         bigint
);
create index if not exists usage_of_user on tollgate.usage (user_id, started_at);
comment on table tollgate.usage is 'What Tollgate''s users used: one row a request, written by tollgate.log_request.';

-- ---------------------------------------------------------------------------------------------------------------------
-- 1. Your function: a user's plan.
--
-- It answers {"plan": "pro", "allowed": true, "period_start": …, "period_end": …, "limits": […]}; plan is a name in
-- tollgate.toml, the rest may be missing. allowed = false refuses the user; period_start and period_end are the window
-- of limits per "period": columns, not now() and some days, which would be another window at each look-up, and is taken for
-- the one that is open for up to a day; limits replaces the plan's. null is no answer: the token's plan counts, else the default plan.
-- Tollgate asks again after [directory] plan_cache (15 s), so a purchase shows within that time.
--
-- Keep `security definer` and `set search_path = ''`, and write every name with its schema; write
-- check_user_limits.user_id where a column is called user_id too.
-- ---------------------------------------------------------------------------------------------------------------------
do $script$
begin
    if to_regprocedure('tollgate.check_user_limits(uuid)') is not null then
        return;
    end if;
    create function tollgate.check_user_limits(user_id uuid) returns jsonb
    language sql stable security definer set search_path = ''
    as $function$
        select jsonb_build_object('plan', s.plan, 'allowed', s.allowed,
                                  'period_start', s.period_start, 'period_end', s.period_end)
            || case when s.limits is null then '{}' else jsonb_build_object('limits', s.limits) end
        from tollgate.subscriptions s
        where s.user_id = check_user_limits.user_id
          -- A period that is over is no plan any more; a blocked user stays blocked.
          and (s.period_end is null or s.period_end > now() or not s.allowed)
    $function$;
end
$script$;

/* Adapt: plans in a `subscriptions` table of your own, several rows a user, filled by your billing webhook.

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $function$
    select jsonb_build_object(
        'plan', case s.price_id when 'price_1Pro' then 'pro' when 'price_1Team' then 'team' end,
        'allowed', true,
        'period_start', s.current_period_start,
        'period_end', s.current_period_end)
    from public.subscriptions s
    where s.user_id = check_user_limits.user_id
      and s.status in ('active', 'trialing')
      and s.current_period_end > now()
    order by s.current_period_end desc
    limit 1
$function$;
*/

/* Adapt: tables that a Stripe sync fills (schema `stripe`, times in seconds, the customer's metadata names the user).

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $function$
    select jsonb_build_object(
        'plan', coalesce(s.metadata ->> 'plan', 'pro'),
        'allowed', true,
        'period_start', to_timestamp(s.current_period_start),
        'period_end', to_timestamp(s.current_period_end))
    from stripe.subscriptions s
    join stripe.customers c on c.id = s.customer
    where c.metadata ->> 'user_id' = check_user_limits.user_id::text
      and s.status::text in ('active', 'trialing')
    order by s.current_period_end desc
    limit 1
$function$;
*/

/* Adapt: a table that your RevenueCat webhook fills; app_user_id is the Supabase user's id as text, in any case.

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $function$
    select jsonb_build_object(
        'plan', r.entitlement,
        'allowed', true,
        'period_start', r.purchased_at,
        'period_end', r.expires_at)
    from public.revenuecat_subscriptions r
    where lower(r.app_user_id) = check_user_limits.user_id::text
      and (r.expires_at is null or r.expires_at > now())
    order by r.expires_at desc nulls first
    limit 1
$function$;
*/

/* Adapt: the plan is a column of your profiles.

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $function$
    select jsonb_build_object('plan', p.plan, 'allowed', true)
    from public.profiles p
    where p.id = check_user_limits.user_id
$function$;
*/

-- ---------------------------------------------------------------------------------------------------------------------
-- 2. Your function: what a request used.
--
-- It is called for every request that was charged, in the order in which a user's requests ended, and at least once:
-- now and then the same entry comes twice. So it must do nothing for an id that it has seen: `on conflict do nothing`,
-- and whatever else you count goes by the row that was really inserted (see below).
-- An error keeps the entry in Tollgate's outbox, and it comes again.
-- ---------------------------------------------------------------------------------------------------------------------
do $script$
begin
    if to_regprocedure('tollgate.log_request(jsonb)') is not null then
        return;
    end if;
    create function tollgate.log_request(entry jsonb) returns void
    language sql security definer set search_path = ''
    as $function$
        insert into tollgate.usage (
            id, user_id, plan, endpoint, model, upstream, started_at, ended_at, "end", flags,
            input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_usd, ttft_ms, duration_ms)
        select
            e.id, e.user_id, e.plan, e.endpoint, e.model, e.upstream, e.started_at, e.ended_at, e."end",
            coalesce(e.flags, '{}'), e.input_tokens, e.cached_input_tokens, e.output_tokens, e.reasoning_tokens,
            e.cost_usd, e.ttft_ms, e.duration_ms
        from jsonb_populate_record(null::tollgate.usage, entry) e
        on conflict (id) do nothing
    $function$;
end
$script$;

/* Adapt: keep the rows, and count the spending of a user in your profiles as well. An entry that comes twice inserts
   nothing the second time, so it is not counted twice.

create or replace function tollgate.log_request(entry jsonb) returns void
language sql security definer set search_path = ''
as $function$
    with inserted as (
        insert into tollgate.usage
        select (jsonb_populate_record(null::tollgate.usage, entry)).*
        on conflict (id) do nothing
        returning user_id, cost_usd
    )
    update public.profiles p set spent_usd = p.spent_usd + i.cost_usd
    from inserted i
    where p.id = i.user_id
$function$;
*/

/* Adapt: another table of your own, with the columns that you need.

create or replace function tollgate.log_request(entry jsonb) returns void
language sql security definer set search_path = ''
as $function$
    insert into public.llm_requests (id, user_id, model, tokens, cost_usd, created_at)
    values (
        (entry ->> 'id')::uuid,
        (entry ->> 'user_id')::uuid,
        entry ->> 'model',
        (entry ->> 'input_tokens')::bigint + (entry ->> 'output_tokens')::bigint,
        (entry ->> 'cost_usd')::numeric,
        (entry ->> 'started_at')::timestamptz)
    on conflict (id) do nothing
$function$;
*/

-- ---------------------------------------------------------------------------------------------------------------------
-- 3. What Tollgate calls. Do not edit: every run puts these back.
-- ---------------------------------------------------------------------------------------------------------------------

-- The answer of check_user_limits; with a session_id, and where Supabase Auth's tables are, also session_alive (the
-- user has not signed out of it) and banned. Not marked `stable`: your function may write.
create or replace function tollgate.check_user(user_id uuid, session_id uuid default null) returns jsonb
language plpgsql security definer set search_path = ''
as $function$
declare
    answer jsonb := nullif(tollgate.check_user_limits(check_user.user_id), 'null');
begin
    if jsonb_typeof(answer) <> 'object' then
        raise exception 'tollgate.check_user_limits answered a JSON %, not an object or null', jsonb_typeof(answer);
    end if;
    if session_id is null or to_regclass('auth.sessions') is null or to_regclass('auth.users') is null then
        return answer;
    end if;
    return coalesce(answer, '{}') || jsonb_build_object(
        'session_alive', exists (
            select from auth.sessions s where s.id = check_user.session_id and s.user_id = check_user.user_id),
        'banned', exists (
            select from auth.users u where u.id = check_user.user_id and u.banned_until > now()));
end
$function$;

-- Logs the entries of an array, one after the other; all of them or, if one fails, none.
create or replace function tollgate.log_requests(entries jsonb) returns void
language plpgsql security definer set search_path = ''
as $function$
declare
    entry jsonb;
begin
    for entry in select e.value from jsonb_array_elements(entries) with ordinality e (value, place) order by e.place loop
        perform tollgate.log_request(entry);
    end loop;
end
$function$;

-- The same two in `public`, for the REST API: so the schema tollgate need not be among the exposed ones.
create or replace function public.tollgate_check_user_limits(user_id uuid, session_id uuid default null) returns jsonb
language plpgsql security definer set search_path = ''
as $function$
begin
    return tollgate.check_user(tollgate_check_user_limits.user_id, tollgate_check_user_limits.session_id);
end
$function$;

create or replace function public.tollgate_log_requests(entries jsonb) returns void
language plpgsql security definer set search_path = ''
as $function$
begin
    perform tollgate.log_requests(tollgate_log_requests.entries);
end
$function$;

-- ---------------------------------------------------------------------------------------------------------------------
-- 4. Who may do what. Put back by every run; roles that this database does not have are left out.
-- ---------------------------------------------------------------------------------------------------------------------
alter table tollgate.subscriptions enable row level security;
alter table tollgate.usage enable row level security;

do $script$
declare
    -- Supabase grants new objects to its API roles by name on older projects, so PUBLIC alone would not do.
    strangers constant text := (
        select string_agg(name, ', ')
        from (select 'public' as name union all
              select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated')) everybody);
    functions constant text :=
        'tollgate.check_user_limits(uuid), tollgate.log_request(jsonb), tollgate.check_user(uuid, uuid), '
        'tollgate.log_requests(jsonb), public.tollgate_check_user_limits(uuid, uuid), public.tollgate_log_requests(jsonb)';
begin
    execute format('revoke all on schema tollgate from %s', strangers);
    execute format('revoke all on tollgate.subscriptions, tollgate.usage from %s', strangers);
    execute format('revoke all on function %s from %s', functions, strangers);

    if exists (select from pg_roles where rolname = 'service_role') then
        grant usage on schema tollgate to service_role;
        execute format('grant execute on function %s to service_role', functions);
        -- For your own server: it may keep the plans and read the usage.
        grant select, insert, update, delete on tollgate.subscriptions to service_role;
        grant select on tollgate.usage to service_role;
    end if;

    if exists (select from pg_roles where rolname = 'authenticated') and to_regprocedure('auth.uid()') is not null then
        grant usage on schema tollgate to authenticated;
        grant select on tollgate.usage to authenticated;
        drop policy if exists own_rows on tollgate.usage;
        create policy own_rows on tollgate.usage for select to authenticated
            using ((select auth.uid()) = user_id);
    end if;
end
$script$;

/* Adapt: let the app read the user's own usage over the REST API without exposing the schema tollgate. The view asks
   with the rights of whoever reads it, so row-level security holds.

create or replace view public.my_usage with (security_invoker = true) as
    select id, started_at, model, input_tokens, output_tokens, cost_usd from tollgate.usage;
revoke all on public.my_usage from public, anon, authenticated;
grant select on public.my_usage to authenticated;
*/

/* Adapt: a role of its own for DATABASE_URL, with no rights but Tollgate's: the functions, and a schema for the ledger.
   Choose a password; on Supabase's pooler the user is called tollgate_app.<project ref>.

create role tollgate_app login password 'choose-one';
grant usage on schema tollgate to tollgate_app;
grant execute on function tollgate.check_user(uuid, uuid), tollgate.log_requests(jsonb) to tollgate_app;
create schema if not exists tollgate_ledger;
grant usage, create on schema tollgate_ledger to tollgate_app;
*/

-- The REST API learns of the new functions.
notify pgrst, 'reload schema';

commit;
