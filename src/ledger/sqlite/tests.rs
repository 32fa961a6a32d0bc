//! What the statements cost, and what a transaction that failed leaves in memory.

use jiff::tz::TimeZone;

use super::*;
use crate::plan::window;

/// A B-tree made for one statement costs more than the statement. It appears with `x in (…)` of three values, also in
/// a check, and with what `returning` gives back.
#[test]
fn no_statement_of_a_request_makes_a_table_of_its_own() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    for sql in [INSERT_REQUEST, END_REQUEST] {
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
        book.db.execute(&sql, []).is_err_and(|error| error.to_string().contains("CHECK"))
    };
    assert!(refused("state", "'open'") && refused("unsent", "3") && refused("unsent", "-1"), "checked as before");
    assert!(!refused("state", "'lost'"));
    drop(book);
    drop(std::fs::remove_file(&path));
}

/// A hold of a user under a ceiling, and the day of that ceiling.
fn hold(id: u128) -> (HoldRequest, Window) {
    let price = crate::price::PriceTable::shipped().models.remove("gpt-4o-mini").unwrap();
    let now = Timestamp::parse("2026-11-24T10:00:00Z").unwrap();
    let day = window(Per::Day, now, &TimeZone::UTC, None);
    let request = HoldRequest {
        id: Uuid::from_u128(id),
        user_id: Uuid::from_u128(7),
        now,
        plan: "free".to_owned(),
        endpoint: "/v1/chat/completions",
        model: "gpt-4o-mini".to_owned(),
        upstream: "openai".to_owned(),
        ask: crate::plan::Ask { price, input_tokens: 1000, output_cap: 1000, output_floor: 10, choices: 1 },
        limits: Vec::new(),
        concurrent: None,
        ceiling: Some((1_000_000, day)),
    };
    (request, day)
}

#[test]
fn what_was_rolled_back_is_in_nobodys_memory() {
    let path = std::env::temp_dir().join(format!("tollgate-sqlite-{}.db", Uuid::now_v7()));
    let book = Book::open(&path, Uuid::now_v7()).unwrap();
    let ((first, day), (second, _)) = (hold(1), hold(2));
    let app = |book: &Book| {
        let told = book.windows(APP, first.now).unwrap();
        told.into_iter().find(|(window, _)| *window == day).map(|(_, standing)| standing)
    };
    book.begin().unwrap();
    book.hold(&first).unwrap().unwrap();
    book.roll_back();
    assert_eq!(app(&book), None);
    book.begin().unwrap();
    let held = book.hold(&second).unwrap().unwrap().amounts;
    book.commit().unwrap();
    assert_eq!(app(&book).unwrap().held, held, "one hold");
    let end = |id| Ending { id, user_id: first.user_id, settlement: crate::ledger::Settlement::lost() };
    book.begin().unwrap();
    assert!(!book.end(&end(first.id), first.now).unwrap(), "it was never held");
    assert!(book.end(&end(second.id), first.now).unwrap());
    book.roll_back();
    assert_eq!(app(&book).unwrap().held, held, "still");
    book.begin().unwrap();
    assert!(book.end(&end(second.id), first.now).unwrap(), "an ending that was rolled back ends again");
    assert!(!book.end(&end(second.id), first.now).unwrap(), "and once");
    book.commit().unwrap();
    assert_eq!(app(&book).unwrap(), Standing { used: held, held: Amounts::default() });
    drop(book);
    drop(std::fs::remove_file(&path));
}
