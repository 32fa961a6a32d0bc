-- The outbox: a settled or lost row waits here for the developer's `log_request`. There is no second queue that could
-- disagree with the ledger. 0: nothing to send, or sent; 1: waiting; 2: refused for good and left behind.

alter table requests add column unsent integer not null default 0 check (unsent in (0, 1, 2));

create index requests_unsent on requests (ended_at, id, user_id) where unsent = 1;
create index requests_left_behind on requests (ended_at) where unsent = 2;
