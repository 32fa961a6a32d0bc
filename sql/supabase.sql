-- Tollgate in your own database: where it asks for a user's plan, and where it writes what each request cost.
--
-- Run all of it in the Supabase SQL editor, or with: tollgate sql | psql "$DATABASE_URL" -v ON_ERROR_STOP=1
-- It is one transaction, and safe to run again:
--   * Your two functions, tollgate.check_user_limits and tollgate.log_request, are created only if they are missing.
--     Edit them as you like: no later run overwrites them. To get one back as shipped, drop it first. Only their
--     setting search_path is corrected (see 3); what they read and write stays as you wrote it. The same holds for
--     tollgate.on_purchase, which is not created: add it if you want to hear of purchases.
--   * Tables and rows are never changed or dropped; a missing table is created.
--   * Everything else (the functions that Tollgate calls, row-level security, grants) is restored as it is here,
--     so a run also revokes what somebody granted too widely.
--
-- Who may do what afterwards: a signed-in user can read their own rows of tollgate.usage and nothing else. Only the
-- service role (and the owner, which is whoever runs this) can call the functions or write rows. Supabase no longer
-- grants anything on new objects by default, and Postgres lets everybody call a new function unless that is revoked:
-- both are written out below.
--
-- To remove everything, including the usage:
--   drop schema tollgate cascade;
--   drop function public.tollgate_check_user_limits, public.tollgate_check_caller, public.tollgate_log_requests,
--     public.tollgate_on_purchases, public.tollgate_examine;

begin;
set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
-- Two runs at once wait for each other.
do $$ begin perform pg_advisory_xact_lock(7308332045000000001); end $$;

create schema if not exists tollgate;

-- ---------------------------------------------------------------------------------------------------------------------
-- The default tables. Tollgate never reads or writes them itself: only your two functions do.
-- ---------------------------------------------------------------------------------------------------------------------

-- One row for each user who has a plan. A user without a row gets the plan that the token names, or else the default plan.
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

-- One row for each request that cost something. There is no foreign key to auth.users: deleting a user must not delete
-- what was billed.
create table if not exists tollgate.usage (
    id                  uuid        primary key,           -- the X-Request-Id of the answer
    user_id             uuid        not null,
    plan                text        not null,
    endpoint            text        not null,
    model               text        not null,
    upstream            text        not null,
    started_at          timestamptz not null,
    ended_at            timestamptz not null,
    "end"               text        not null,              -- settled, or lost: outcome unknown, charged what was held
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
comment on table tollgate.usage is 'What Tollgate''s users used: one row per request, written by tollgate.log_request.';

-- ---------------------------------------------------------------------------------------------------------------------
-- 1. Your function: a user's plan.
--
-- It returns {"plan": "pro", "allowed": true, "period_start": …, "period_end": …, "limits": […]}. plan is a name in
-- tollgate.toml; the other members may be missing. allowed = false refuses the user. period_start and period_end are the
-- period of limits per "period". Return stored dates, not now() and some days: that would be a new period at each look-up,
-- so Tollgate continues the current one for up to a day. limits replaces the plan's limits. If the function returns null,
-- the token's plan applies, or else the default plan.
-- user_id is the user's id in Supabase Auth. A user of another issuer ([[auth.issuers]], such as Firebase) has an id that is
-- made from issuer and subject; the two themselves are current_setting('tollgate.issuer', true) and
-- current_setting('tollgate.subject', true), which are empty or null for users of Supabase.
-- Tollgate asks again after [directory] plan_cache (15 s), so a purchase takes effect within that time.
--
-- Keep `security definer` and `set search_path = pg_catalog, pg_temp`, and write every name with its schema. Write
-- check_user_limits.user_id where a column is called user_id too. If the search_path does not end with pg_temp (an empty
-- one does not either), a session's own temporary types come before the built-in ones, and whoever may call the function
-- could run code of their own with your rights.
--
-- Read only what users cannot write. Under the usual policy "users can update their own profile", users can set a column of
-- profiles themselves, and their user_metadata too. `tollgate doctor` looks for both kinds of mistake.
-- ---------------------------------------------------------------------------------------------------------------------
do $script$
begin
    if to_regprocedure('tollgate.check_user_limits(uuid)') is not null then
        return;
    end if;
    create function tollgate.check_user_limits(user_id uuid) returns jsonb
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $function$
        select jsonb_build_object('plan', s.plan, 'allowed', s.allowed,
                                  'period_start', s.period_start, 'period_end', s.period_end)
            || case when s.limits is null then '{}' else jsonb_build_object('limits', s.limits) end
        from tollgate.subscriptions s
        where s.user_id = check_user_limits.user_id
          -- A plan ends with its period; a blocked user stays blocked.
          and (s.period_end is null or s.period_end > now() or not s.allowed)
    $function$;
end
$script$;

/* Adapt: plans in a `subscriptions` table of your own, with several rows per user, filled by your billing webhook.

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
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
language sql stable security definer set search_path = pg_catalog, pg_temp
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
language sql stable security definer set search_path = pg_catalog, pg_temp
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

/* Adapt: the plan is in the user's app_metadata, which only your server writes (never use user_metadata, which users write).
   Read here, a change takes effect at once; the token has the value from when the token was made.

create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $function$
    select jsonb_build_object('plan', u.raw_app_meta_data ->> 'plan', 'allowed', true)
    from auth.users u
    where u.id = check_user_limits.user_id
$function$;
*/

-- ---------------------------------------------------------------------------------------------------------------------
-- 2. Your function: records what a request used.
--
-- It is called for every request that was charged, in the order in which a user's requests ended, and at least once:
-- sometimes the same entry comes twice. So it must do nothing for an id that it has already seen: `on conflict do nothing`.
-- Whatever else you count must depend on the row that was really inserted (see below).
-- If it fails, the entry stays in Tollgate's outbox and comes again.
-- ---------------------------------------------------------------------------------------------------------------------
do $script$
begin
    if to_regprocedure('tollgate.log_request(jsonb)') is not null then
        return;
    end if;
    create function tollgate.log_request(entry jsonb) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
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

/* Adapt: keep the rows, and also add up each user's spending in a table that users may read but not write. An entry
   that comes twice inserts nothing the second time, so it is not counted twice.

create or replace function tollgate.log_request(entry jsonb) returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $function$
    with inserted as (
        insert into tollgate.usage
        select (jsonb_populate_record(null::tollgate.usage, entry)).*
        on conflict (id) do nothing
        returning user_id, cost_usd
    )
    insert into public.spending as s (user_id, spent_usd)
    select i.user_id, i.cost_usd from inserted i
    on conflict (user_id) do update set spent_usd = s.spent_usd + excluded.spent_usd
$function$;
*/

/* Adapt: another table of your own, with the columns that you need.

create or replace function tollgate.log_request(entry jsonb) returns void
language sql security definer set search_path = pg_catalog, pg_temp
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
-- Optional: your function that hears of purchases. It is not created here. If it is there, Tollgate calls it for each
-- purchase that a store told of (docs/purchases.md) and that changed: bought, renewed, ended, refunded, given to somebody else.
--
-- entry is the purchase as it stands now:
--   {"id", "revision", "user_id", "store", "transaction_id", "original_transaction_id", "product", "plan", "credit_usd",
--    "quantity", "state", "until", "purchased_at", "environment", "refunded_share", "changed_at"}
-- user_id is null where nobody knows whose it is. plan and credit_usd are what the product gives by tollgate.toml, or null.
-- state is live, ended or revoked; until is when it stops to count, null for never, and no call comes when that time is over.
-- environment is production or sandbox. refunded_share goes from "0.00000" to "1.00000".
--
-- It is called at least once for a change, in the order of the changes of a user. Several changes at once may come as one
-- call. revision grows with each change, and id is the same whenever the same change comes again. If it fails, the entry
-- stays in Tollgate's outbox and comes again. What was bought before the function was there comes once it is.
--
-- Purchases already decide the plan without it (unless check_user_limits names another).
-- ---------------------------------------------------------------------------------------------------------------------

/* Adapt: a table of your own with each purchase as it stands now. What comes twice, or late, changes nothing.

create table if not exists tollgate.purchases (
    store text, transaction_id text, user_id uuid, product text, plan text, credit_usd numeric, state text not null,
    until timestamptz, environment text not null, revision bigint not null, primary key (store, transaction_id));
alter table tollgate.purchases enable row level security;
create or replace function tollgate.on_purchase(entry jsonb) returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $function$
    insert into tollgate.purchases as p
    select (jsonb_populate_record(null::tollgate.purchases, entry)).*
    on conflict (store, transaction_id) do update
        set user_id = excluded.user_id, product = excluded.product, plan = excluded.plan, credit_usd = excluded.credit_usd,
            state = excluded.state, until = excluded.until, environment = excluded.environment, revision = excluded.revision
        where p.revision < excluded.revision
$function$;
revoke all on function tollgate.on_purchase(jsonb) from public, anon, authenticated;
*/

-- ---------------------------------------------------------------------------------------------------------------------
-- 3. What Tollgate calls. Do not edit: every run restores these.
--
-- All of it runs with its owner's rights, so no name in it may resolve to something that a caller created: temporary
-- types, domains and tables of the caller's session come first wherever search_path does not name pg_temp last.
-- ---------------------------------------------------------------------------------------------------------------------

-- Your own functions get that setting too. Names from the other schemas of their search_path still resolve as before.
do $script$
declare
    one record;
begin
    for one in
        select p.oid::regprocedure as name,
               (select nullif(substr(c, 13), '""') from unnest(p.proconfig) c where c like 'search\_path=%') as path
        from pg_proc p
        where p.pronamespace = 'tollgate'::regnamespace and p.prokind = 'f'
          and p.proname in ('check_user_limits', 'log_request', 'on_purchase')
    loop
        continue when one.path ~ ', ?pg_temp$';
        one.path := nullif(regexp_replace(coalesce(one.path, ''), '(^|, ?)pg_temp($|(?=, ?))', '', 'g'), '');
        execute format('alter function %s set search_path = %s, pg_temp', one.name,
                       coalesce(ltrim(one.path, ', '), 'pg_catalog'));
    end loop;
end
$script$;

-- Called before one of your functions if the session has temporary objects. A function whose search_path lets these come
-- first is then not called. (Somebody may have edited it without the setting, and not run this script since.)
create or replace function tollgate.refuse_shadows(called regprocedure) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $function$
declare
    path text := (select substr(c, 13) from pg_proc p, unnest(p.proconfig) c
                  where p.oid = called and c like 'search\_path=%');
begin
    if path ~ ', ?pg_temp$' or path is null or not exists (select from pg_type where typnamespace = pg_my_temp_schema()) then
        return;
    end if;
    raise exception '% is not called while this session has temporary objects', called
        using errcode = 'insufficient_privilege',
              hint = format('alter function %s set search_path = pg_catalog, pg_temp;', called);
end
$function$;

-- Returns the answer of check_user_limits. With a session_id, and if Supabase Auth's tables exist, also session_alive (the
-- user has not signed out of it) and banned. Not marked `stable`, since your function may write.
create or replace function tollgate.check_user(user_id uuid, session_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    answer jsonb;
begin
    if pg_my_temp_schema() <> 0 then
        perform tollgate.refuse_shadows('tollgate.check_user_limits(uuid)');
    end if;
    answer := nullif(tollgate.check_user_limits(check_user.user_id), 'null');
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

-- The same for a user of another issuer than your Supabase project ([[auth.issuers]]): your function can read whom the token
-- names as current_setting('tollgate.issuer', true) and current_setting('tollgate.subject', true).
create or replace function tollgate.check_caller(user_id uuid, session_id uuid, issuer text, subject text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    perform set_config('tollgate.issuer', check_caller.issuer, true), set_config('tollgate.subject', check_caller.subject, true);
    return tollgate.check_user(check_caller.user_id, check_caller.session_id);
end
$function$;

-- Records the entries of an array in order; all of them, or none if one fails.
create or replace function tollgate.log_requests(entries jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    entry jsonb;
begin
    if pg_my_temp_schema() <> 0 then
        perform tollgate.refuse_shadows('tollgate.log_request(jsonb)');
    end if;
    for entry in select e.value from jsonb_array_elements(entries) with ordinality e (value, place) order by e.place loop
        perform tollgate.log_request(entry);
    end loop;
end
$function$;

-- Hands the entries of an array to on_purchase, in order; all of them, or none if one fails. False: there is no such function.
create or replace function tollgate.on_purchases(entries jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    entry jsonb;
begin
    if to_regprocedure('tollgate.on_purchase(jsonb)') is null then
        return false;
    end if;
    if pg_my_temp_schema() <> 0 then
        perform tollgate.refuse_shadows('tollgate.on_purchase(jsonb)');
    end if;
    for entry in select e.value from jsonb_array_elements(entries) with ordinality e (value, place) order by e.place loop
        perform tollgate.on_purchase(entry);
    end loop;
    return true;
end
$function$;

-- The same in `public`, for the REST API, so that the schema tollgate need not be exposed.
create or replace function public.tollgate_check_user_limits(user_id uuid, session_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    return tollgate.check_user(tollgate_check_user_limits.user_id, tollgate_check_user_limits.session_id);
end
$function$;

create or replace function public.tollgate_check_caller(user_id uuid, session_id uuid, issuer text, subject text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    return tollgate.check_caller(tollgate_check_caller.user_id, tollgate_check_caller.session_id,
                                 tollgate_check_caller.issuer, tollgate_check_caller.subject);
end
$function$;

create or replace function public.tollgate_log_requests(entries jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    perform tollgate.log_requests(tollgate_log_requests.entries);
end
$function$;

create or replace function public.tollgate_on_purchases(entries jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    return tollgate.on_purchases(tollgate_on_purchases.entries);
end
$function$;

-- What `tollgate doctor` calls. It finds functions whose search_path lets a caller's temporary objects come first, and tables
-- that check_user_limits reads and that the app's users can write. It reads only the catalogue, no rows of yours.
create or replace function public.tollgate_examine() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp set jit = off
as $function$
    with recursive ours (oid) as (
        select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where p.prokind = 'f' and (n.nspname = 'tollgate' or (n.nspname = 'public' and p.proname like 'tollgate\_%'))
    ), texts (oid, text) as (
        -- The text of a function, without comments, quotes around names, and spaces around dots.
        select p.oid, regexp_replace(regexp_replace(regexp_replace(regexp_replace(lower(pg_get_functiondef(p.oid)),
                   '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g'), '"', '', 'g'), '\s*\.\s*', '.', 'g')
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where p.prokind = 'f' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and (n.nspname = 'tollgate' or p.prolang in (select oid from pg_language where lanname in ('sql', 'plpgsql')))
    ), called (oid, text) as (
        -- Your own functions, and those of yours that they call.
        select t.oid, t.text from texts t join pg_proc p on p.oid = t.oid
        where p.pronamespace = (select oid from pg_namespace where nspname = 'tollgate')
          and p.proname in ('check_user_limits', 'log_request', 'on_purchase')
        union
        select t.oid, t.text from called c, texts t join pg_proc p on p.oid = t.oid
            join pg_namespace n on n.oid = p.pronamespace
        where strpos(c.text, lower(n.nspname || '.' || p.proname || '(')) > 0
    ), unsafe as (
        select p.oid::regprocedure::text as function,
               (select substr(c, 13) from unnest(p.proconfig) c where c like 'search\_path=%') as path
        from pg_proc p
        where p.oid in (select oid from ours union select oid from called)
          and (p.prosecdef or p.oid in (select oid from ours))
          and (select coalesce(bool_and(c !~ ', ?pg_temp$'), true)
               from unnest(p.proconfig) c where c like 'search\_path=%')
    ), reading (oid, text) as (
        select c.oid, c.text from called c join pg_proc p on p.oid = c.oid where p.proname = 'check_user_limits'
        union
        select t.oid, t.text from reading r, called t join pg_proc p on p.oid = t.oid
            join pg_namespace n on n.oid = p.pronamespace
        where strpos(r.text, lower(n.nspname || '.' || p.proname || '(')) > 0
    ), named (oid, text) as (
        -- Tables that the text names with their schema, or after `from` and `join` without it.
        select c.oid, r.text
        from reading r, pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and (r.text ~ ('(^|[^a-z0-9_$.])' || regexp_replace(lower(n.nspname || '.' || c.relname), '([^a-z0-9_])', '\\\1', 'g')
                         || '($|[^a-z0-9_$(])')
               or r.text ~ ('\m(from|join|only)\s+' || regexp_replace(lower(c.relname), '([^a-z0-9_])', '\\\1', 'g')
                            || '($|[^a-z0-9_$.(])'))
        union
        -- The tables below a view.
        select d.refobjid, v.text
        from named v join pg_rewrite w on w.ev_class = v.oid
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid
    ), touched (oid, read, text) as (
        select oid, oid, text from named
        union
        -- A view of a table is another way to write to it, with the rights of the view's owner.
        select w.ev_class, t.read, t.text
        from touched t join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid
                and d.classid = 'pg_rewrite'::regclass
            join pg_rewrite w on w.oid = d.objid and w.ev_class <> t.oid
    ), strangers as (
        select oid, rolname from pg_roles where rolname in ('anon', 'authenticated')
    ), writes as (
        select distinct s.rolname as role, t.oid::regclass::text as relation, t.read::regclass::text as read, v.verb,
               (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
                  and has_column_privilege(s.oid, t.oid, a.attnum, v.verb)
                  and (t.text ~ ('\m' || regexp_replace(lower(a.attname), '([^a-z0-9_])', '\\\1', 'g') || '\M')
                       or t.text ~ 'to_jsonb?\(|row_to_json\(|\*' and t.text !~ 'count\(\*\)')) as columns,
               exists (select from pg_trigger g where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled <> 'D'
                         and (g.tgtype & 2) <> 0 and (g.tgtype & case v.verb when 'update' then 16 else 4 end) <> 0) as guarded
        from touched t join pg_class c on c.oid = t.oid, strangers s,
             (values ('update', 'w', 4), ('insert', 'a', 8)) as v (verb, letter, event)
        where has_schema_privilege(s.oid, c.relnamespace, 'usage')
          and (c.relkind <> 'v' or (pg_relation_is_updatable(c.oid, true) & v.event) <> 0)
          and (not c.relrowsecurity or exists (
              select from pg_policy p
              where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('*', v.letter::"char")
                and exists (select from unnest(p.polroles) r where case r when 0 then true else pg_has_role(s.oid, r, 'usage') end)))
    )
    select jsonb_build_object(
        'unsafe', (select coalesce(jsonb_agg(jsonb_build_object('function', u.function, 'path', u.path) order by u.function), '[]')
                   from unsafe u),
        'writable', (select coalesce(jsonb_agg(to_jsonb(w) order by w.relation, w.verb, w.role), '[]')
                     from writes w where w.columns is not null))
$function$;

-- ---------------------------------------------------------------------------------------------------------------------
-- 4. Who may do what. Every run restores this; roles that this database does not have are left out.
-- ---------------------------------------------------------------------------------------------------------------------
alter table tollgate.subscriptions enable row level security;
alter table tollgate.usage enable row level security;

do $script$
declare
    -- Older Supabase projects grant new objects to the API roles by name, so revoking from PUBLIC alone is not enough.
    strangers constant text := (
        select string_agg(name, ', ')
        from (select 'public' as name union all
              select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated')) everybody);
    functions constant text :=
        'tollgate.check_user_limits(uuid), tollgate.log_request(jsonb), tollgate.check_user(uuid, uuid), '
        'tollgate.check_caller(uuid, uuid, text, text), tollgate.log_requests(jsonb), tollgate.on_purchases(jsonb), '
        'tollgate.refuse_shadows(regprocedure), public.tollgate_check_user_limits(uuid, uuid), '
        'public.tollgate_check_caller(uuid, uuid, text, text), public.tollgate_log_requests(jsonb), '
        'public.tollgate_on_purchases(jsonb), public.tollgate_examine()'
        || case when to_regprocedure('tollgate.on_purchase(jsonb)') is null then '' else ', tollgate.on_purchase(jsonb)' end;
    caller regrole;
begin
    execute format('revoke all on schema tollgate from %s', strangers);
    execute format('revoke all on tollgate.subscriptions, tollgate.usage from %s', strangers);
    execute format('revoke all on function %s from %s', functions, strangers);

    -- A role of your own that may call the one may call the other: older scripts had only the first.
    for caller in
        select a.grantee::regrole from pg_proc p, aclexplode(p.proacl) a
        where p.oid = 'tollgate.log_requests(jsonb)'::regprocedure and a.grantee <> 0
    loop
        execute format('grant execute on function tollgate.on_purchases(jsonb), '
                       'tollgate.check_caller(uuid, uuid, text, text) to %s', caller);
    end loop;

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

/* Adapt: let the app read the user's own usage over the REST API without exposing the schema tollgate. The view runs
   with the rights of whoever reads it, so row-level security applies.

create or replace view public.my_usage with (security_invoker = true) as
    select id, started_at, model, input_tokens, output_tokens, cost_usd from tollgate.usage;
revoke all on public.my_usage from public, anon, authenticated;
grant select on public.my_usage to authenticated;
*/

/* Adapt: a separate role for DATABASE_URL that has only the rights Tollgate needs: the functions, and a schema for the ledger.
   Choose a password. On Supabase's pooler the user is called tollgate_app.<project ref>.

create role tollgate_app login password 'choose-one';
grant usage on schema tollgate to tollgate_app;
grant execute on function tollgate.check_user(uuid, uuid), tollgate.check_caller(uuid, uuid, text, text),
    tollgate.log_requests(jsonb), tollgate.on_purchases(jsonb) to tollgate_app;
create schema if not exists tollgate_ledger;
grant usage, create on schema tollgate_ledger to tollgate_app;
*/

-- The REST API learns of the new functions.
notify pgrst, 'reload schema';

commit;
