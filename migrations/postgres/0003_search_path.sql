-- Nothing that a session brings along comes before what is built in: temporary types, domains and tables do, wherever a
-- search_path does not name pg_temp last. Each function that is called from outside has a search_path, and gives it to
-- those that it calls. (They run with their caller's rights; but an operator may call one with more.)
do $paths$
declare
    one record;
begin
    for one in
        select p.oid::regprocedure as name from pg_catalog.pg_proc p
        where p.pronamespace = 'tollgate_ledger'::regnamespace and p.prokind = 'f'
          and exists (select from unnest(p.proconfig) c where c = 'search_path=""')
    loop
        execute format('alter function %s set search_path = pg_catalog, pg_temp', one.name);
    end loop;
end $paths$;
