-- What a Supabase project has before anybody adds to it, as far as it matters here: the roles of its API, the role of
-- its SQL editor (called postgres there; no superuser), and the tables of Supabase Auth that a script may look at.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
grant anon, authenticated, service_role to authenticator;
create role supabase_auth_admin nologin noinherit createrole;
create role editor login createrole createdb bypassrls;
grant anon, authenticated, service_role to editor;
alter database postgres owner to editor;

grant usage on schema public to anon, authenticated, service_role;
create schema auth authorization supabase_auth_admin;
grant usage on schema auth to anon, authenticated, service_role, editor;

set role supabase_auth_admin;
create table auth.users (
    id uuid primary key, email text, raw_app_meta_data jsonb, banned_until timestamptz, is_anonymous boolean not null default false
);
create table auth.sessions (
    id uuid primary key, user_id uuid not null references auth.users on delete cascade, created_at timestamptz
);
alter table auth.users enable row level security;
alter table auth.sessions enable row level security;
create function auth.uid() returns uuid language sql stable as $$
    select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
grant all on auth.users, auth.sessions to editor;
reset role;
