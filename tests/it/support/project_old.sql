-- Projects of before 2026-05-30, and what many still have: whatever is made in `public` is granted to the API's roles.
alter default privileges for role editor in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges for role editor in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges for role editor in schema public grant all on sequences to anon, authenticated, service_role;
