//! What the statements cost, and what a transaction that failed leaves in memory.

use jiff::tz::TimeZone;

use super::batch::{END_REQUEST, END_TEXT_REQUEST};
use super::insert::{INSERT_PLAIN_REQUEST, INSERT_REQUEST};
use super::*;
use crate::ledger::{HoldRequest, NoHold};
use crate::plan::window;

#[test]
fn what_is_sorted_lies_beside_the_ledger() {
    let folder = std::env::temp_dir().join(format!("tollgate-sorted-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let book = Book::open(&folder.join("tollgate.db"), Uuid::now_v7()).unwrap();
    // Another test may open a ledger in between: it is one place for the process.
    let is_beside = (0..100).any(|_| {
        sort_beside(&folder.join("tollgate.db"), &book.db);
        let told: String = book
            .db
            .pragma_query_value(None, "temp_store_directory", |row| row.get(0))
            .unwrap();
        Path::new(&told) == std::fs::canonicalize(&folder).unwrap()
    });
    assert!(is_beside);
    drop(book);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A B-tree made for one statement costs more than the statement. It appears with `x in (…)` of three values, also in
/// a check, and with what `returning` gives back.
#[test]
fn no_statement_of_a_request_makes_a_table_of_its_own() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    for sql in [
        INSERT_REQUEST,
        INSERT_PLAIN_REQUEST,
        &END_REQUEST,
        &END_TEXT_REQUEST,
    ] {
        let mut explain = book.db.prepare(&format!("explain {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let mut steps = 0;
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get(1).unwrap();
            assert!(!step.contains("Ephemeral"), "{sql}");
            steps += 1;
        }
        assert!(steps > 9, "{sql}");
    }
    let refused = |column: &str, value: &str| {
        let sql = format!(
            "insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                 held_output_tokens, held_micros, started_at, owner, unsent)
             select '1', '', '', '', '', '', {}, 0, 0, 0, 0, '', {}",
            if column == "state" { value } else { "'held'" },
            if column == "unsent" { value } else { "0" },
        );
        book.db
            .execute(&sql, [])
            .is_err_and(|error| error.to_string().contains("CHECK"))
    };
    assert!(
        refused("state", "'open'") && refused("unsent", "3") && refused("unsent", "-1"),
        "checked as before"
    );
    assert!(!refused("state", "'lost'"));
    drop(book);
    drop(std::fs::remove_file(&path));
}

/// A hold of a user under a ceiling, and the day of that ceiling.
fn hold(id: u128) -> (HoldRequest, Window) {
    let price = crate::price::PriceTable::shipped()
        .models
        .remove("gpt-4o-mini")
        .unwrap();
    let now = Timestamp::parse("2026-11-24T10:00:00Z").unwrap();
    let day = window(Per::Day, now, &TimeZone::UTC, None);
    let request = HoldRequest {
        id: Uuid::from_u128(id),
        user_id: Uuid::from_u128(7),
        now,
        plan: "free".to_owned(),
        endpoint: "/v1/chat/completions".into(),
        model: "gpt-4o-mini".to_owned(),
        plan_model: None,
        requested_model: None,
        feature: None,
        prompt_version: None,
        upstream: "openai".to_owned(),
        quote: crate::plan::Quote {
            price,
            base: crate::price::Quantities::of_input(1000),
            output_cap: 1000,
            output_floor: 10,
            choices: 1,
        },
        limits: Vec::new(),
        concurrent: None,
        ceiling: Some((1_000_000, day)),
        idempotency: None,
        replaces: None,
        credits: false,
    };
    (request, day)
}

#[test]
fn what_was_rolled_back_is_in_nobodys_memory() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let ((first, day), (second, _)) = (hold(1), hold(2));
    let app = |book: &Book| book.app_standing(first.now, &day);
    book.begin().unwrap();
    book.batch().hold(&first).unwrap().unwrap();
    book.roll_back();
    assert_eq!(app(&book), None);
    book.begin().unwrap();
    let held = book.batch().hold(&second).unwrap().unwrap().amounts;
    book.commit().unwrap();
    assert_eq!(app(&book).unwrap().held, held, "one hold");
    let end = |id| Ending {
        id,
        user_id: first.user_id,
        settlement: crate::ledger::Settlement::lost(),
    };
    book.begin().unwrap();
    assert!(
        !book.end(&end(first.id), first.now).unwrap(),
        "it was never held"
    );
    assert!(book.end(&end(second.id), first.now).unwrap());
    book.roll_back();
    assert_eq!(app(&book).unwrap().held, held, "still");
    book.begin().unwrap();
    assert!(
        book.end(&end(second.id), first.now).unwrap(),
        "an ending that was rolled back ends again"
    );
    assert!(!book.end(&end(second.id), first.now).unwrap(), "and once");
    book.commit().unwrap();
    assert_eq!(
        app(&book).unwrap(),
        Balance {
            used: held,
            held: Amounts::default()
        }
    );
    drop(book);
    drop(std::fs::remove_file(&path));
}

/// Most holds are written by the shorter statement; their rows are those of the longer one.
#[test]
fn both_statements_write_the_same_row_of_a_plain_hold() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let (plain, _) = hold(1);
    let named = HoldRequest {
        feature: Some("chat".to_owned()),
        ..hold(2).0
    };
    book.begin().unwrap();
    for request in [&plain, &named] {
        book.batch().hold(request).unwrap().unwrap();
    }
    book.commit().unwrap();
    book.db
        .execute("update requests set feature = null", [])
        .unwrap();
    let others: String = book
        .db
        .query_row(
            "select group_concat(name) from pragma_table_info('requests') where name <> 'id'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let distinct = format!("select count(*) from (select distinct {others} from requests)");
    let count = |sql: &str| {
        book.db
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(
        (count(&distinct), count("select count(*) from requests")),
        (1, 2)
    );
    drop(book);
    drop(std::fs::remove_file(&path));
}

#[test]
fn what_somebody_else_has_written_is_read_again() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let ((first, day), (second, _)) = (hold(1), hold(2));
    let held = |request: &HoldRequest| {
        book.begin().unwrap();
        let answer = book.batch().hold(request).unwrap();
        book.commit().unwrap();
        answer
    };
    held(&first).unwrap();
    // As if a ledger had been brought over, or pruned, by the command line.
    let other = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    other
        .execute(
            "update window_sums set micros_used = 1000000 where user_id = 'app'",
            [],
        )
        .unwrap();
    assert_eq!(held(&second), Err(NoHold::Ceiling(day.end)));
    assert_eq!(
        book.app_standing(first.now, &day).unwrap().used.cost,
        1_000_000
    );
    drop((book, other));
    drop(std::fs::remove_file(&path));
}

/// A file of an earlier version, with a window that says more than its rows: rows may have been forgotten.
#[test]
fn what_was_used_is_carried_over_and_what_was_held_is_summed_anew() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let old = connect(
        &path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )
    .unwrap();
    old.execute_batch("pragma journal_mode = wal").unwrap();
    for script in &MIGRATIONS[..4] {
        old.execute_batch(script).unwrap();
    }
    let user = Uuid::from_u128(7).to_string();
    let (request, day) = hold(1);
    let (start, end) = (day.start.millis(), day.end.millis());
    old.execute_batch(&format!(
        "pragma user_version = 4;
         insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens,
                               held_micros, started_at, owner)
         values ('{id}', '{user}', '', '', '', '', 'held', 7, 8, 9, {now}, 'o');
         insert into windows values ('{user}', {end}, 'day', {start}, 5, 50, 500, 1, 15, 9),
                                    ('app', {end}, 'day', {start}, 6, 60, 600, 3, 99, 99);",
        id = request.id,
        now = request.now.millis(),
    ))
    .unwrap();
    drop(old);
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let held = Amounts {
        requests: 1,
        tokens: 15,
        cost: 9,
        ..Amounts::default()
    };
    let spent = |n| Amounts {
        requests: n,
        tokens: 10 * n,
        cost: 100 * n,
        ..Amounts::default()
    };
    let said = book
        .standing(
            request.user_id,
            request.now,
            &[LimitCounter {
                window: day,
                tally: None,
            }],
        )
        .unwrap();
    assert_eq!(
        said.windows,
        [Balance {
            used: spent(5),
            held
        }]
    );
    assert_eq!(
        book.app_standing(request.now, &day),
        Some(Balance {
            used: spent(6),
            held
        }),
        "the rows say it"
    );
    drop(book);
    drop(std::fs::remove_file(&path));
}

#[test]
fn a_large_file_has_more_memory_and_log_than_a_small_one_and_not_without_bound() {
    let gib = 1024 * 1024;
    assert_eq!(room_for(0), (8_000, 16_000));
    assert_eq!(room_for(gib), (16_384, 16_384));
    assert_eq!(room_for(3 * gib), (49_152, 49_152));
    assert_eq!(room_for(100 * gib), (64_000, 64_000));
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let told = |what| {
        book.db
            .pragma_query_value(None, what, |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(
        (told("cache_size"), told("wal_autocheckpoint")),
        (-8_000, 4_000)
    );
    drop(book);
    drop(std::fs::remove_file(&path));
}
