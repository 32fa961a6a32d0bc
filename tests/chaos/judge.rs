//! The end of a run: the upstream's log, request by request, against the ledger.

use std::collections::{HashMap, HashSet};

use crate::ledger::{Row, Snapshot};
use crate::support::oracle::{Charged, invoice, off_the_books};
use crate::support::settings::Settings;
use crate::support::upstream::Served;

/// All that is wrong once nothing is open any more.
pub(crate) fn violations(seen: &Snapshot, served: &[Served], settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    let rows: HashMap<&str, &Row> = seen.rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut paid: HashSet<&str> = HashSet::new();
    for served in served {
        // The id of the row: the product tells it to the upstream.
        let Some(id) = served.seen.request.header("x-client-request-id") else {
            found.push(format!("the upstream was asked without an id: {:?}", served.seen.request));
            continue;
        };
        let Some(row) = rows.get(id) else {
            found.push(format!("{id} was served (answered {:?}) and has no row", served.answered));
            continue;
        };
        if !paid.insert(&row.id) {
            found.push(format!("{id} was served twice"));
        }
        found.extend(disagreement(served, row, settings).map(|what| format!("{id} {what}: {row:?}")));
    }
    for row in &seen.rows {
        if row.state == "held" {
            found.push(format!("still held when all is quiet: {row:?}"));
        }
        // A process that was killed cannot know whether it had sent what it held.
        if row.is_charged() && !paid.contains(row.id.as_str()) && !row.has("swept") {
            found.push(format!("charged, and never served: {row:?}"));
        }
    }
    for window in seen.windows.iter().filter(|window| window.held != [0; 3]) {
        found.push(format!("something is held when all is quiet: {window:?}"));
    }
    found
}

fn disagreement(served: &Served, row: &Row, settings: &Settings) -> Option<String> {
    // Charged its hold, whatever was answered: its process died.
    if row.state == "lost" && row.has("swept") {
        return None;
    }
    let refused = served.is_free();
    // Whoever leaves cuts the upstream with `abort`: its refusal was on the way, and nobody has read it.
    if refused && row.has("cancelled") && row.has("estimated") {
        return None;
    }
    if refused != (row.state == "voided") {
        return Some(format!("was answered {:?} upstream and is {}", served.answered, row.state));
    }
    if served.books.is_some() {
        let price = settings.price(served.seen.body["model"].as_str()?)?;
        let flags: Vec<String> = row.flags.split(',').map(str::to_owned).collect();
        let [_, tokens, cost] = row.used;
        let charged = Charged { cost, tokens, held: row.held[2], flags: &flags, state: &row.state };
        return off_the_books(served, &charged, price);
    }
    let bill = served.billed.filter(|_| served.finished && row.flags.is_empty() && row.state == "settled")?;
    let price = settings.price(served.seen.body["model"].as_str()?)?;
    let (cost, tokens) = (invoice(served, price), (bill.prompt + bill.completion) as i64);
    (row.used[1..] != [tokens, cost]).then(|| format!("was billed {bill:?}, {cost} micro-dollars"))
}
