-- What is held is the sum of the rows that are held, and stands nowhere else: a hold writes its row and no window, and
-- nothing that leaked can stay held. `window_sums` has what was used; `windows` has both, for whoever reads.

drop index requests_held;
create index requests_held on requests (user_id, started_at) where state = 'held';

create table window_sums (
    user_id        text    not null,
    ends_at        integer not null,
    per            text    not null,
    starts_at      integer not null,
    requests_used  integer not null default 0 check (requests_used >= 0),
    tokens_used    integer not null default 0 check (tokens_used >= 0),
    micros_used    integer not null default 0 check (micros_used >= 0),
    primary key (user_id, ends_at, per, starts_at)
) strict, without rowid;

insert into window_sums
select user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used from windows
order by user_id, ends_at, per, starts_at;

drop table windows;
create index window_sums_by_end on window_sums (ends_at) where per <> 'lifetime';

create view windows as
select s.user_id, s.ends_at, s.per, s.starts_at, s.requests_used, s.tokens_used, s.micros_used,
       case when s.user_id = 'app'
            then (select count(*) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select count(*) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as requests_held,
       case when s.user_id = 'app'
            then (select coalesce(sum(r.held_input_tokens + r.held_output_tokens), 0) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select coalesce(sum(r.held_input_tokens + r.held_output_tokens), 0) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as tokens_held,
       case when s.user_id = 'app'
            then (select coalesce(sum(r.held_micros), 0) from requests as r
                  where r.state = 'held' and r.started_at >= s.starts_at and r.started_at < s.ends_at)
            else (select coalesce(sum(r.held_micros), 0) from requests as r
                  where r.state = 'held' and r.user_id = s.user_id
                    and r.started_at >= s.starts_at and r.started_at < s.ends_at)
       end as micros_held
from window_sums as s;

-- For an import, which writes both databases by the same names. What is held comes with the rows.
create trigger windows_insert instead of insert on windows begin
    insert into window_sums (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
    values (new.user_id, new.ends_at, new.per, new.starts_at, coalesce(new.requests_used, 0),
            coalesce(new.tokens_used, 0), coalesce(new.micros_used, 0));
end;
create trigger windows_delete instead of delete on windows begin
    delete from window_sums where user_id = old.user_id and ends_at = old.ends_at and per = old.per
                              and starts_at = old.starts_at;
end;
