-- The outbox for purchases: one that changed waits for the developer's `on_purchase`, as it stands then. As for requests, 0 is
-- nothing to send, or sent; 1 waiting; 2 refused for good. What was bought before this waits, too.

alter table purchases add column unsent integer not null default 0 check (unsent in (0, 1, 2));
-- Grows with each change of any purchase: the order in which they are sent.
alter table purchases add column revision integer not null default 0;

update purchases set unsent = 1;

create index purchases_unsent on purchases (revision) where unsent = 1;
create index purchases_by_revision on purchases (revision);
