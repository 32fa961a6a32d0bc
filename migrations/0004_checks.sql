-- The same checks in other words. For `x in (…)` with three values or more SQLite builds a B-tree each time that it checks a
-- row, which took a tenth of all that a request costs. Checks are not on the disk but in the table's text, so only that is
-- changed (https://www.sqlite.org/lang_altertable.html, "changes that do not affect the on-disk content").

pragma writable_schema = on;

update sqlite_schema
set sql = replace(replace(sql,
    'check (state in (''held'', ''settled'', ''voided'', ''lost''))',
    'check (state = ''held'' or state = ''settled'' or state = ''voided'' or state = ''lost'')'),
    'check (unsent in (0, 1, 2))',
    'check (unsent between 0 and 2)')
where type = 'table' and name = 'requests';

pragma writable_schema = reset;
