//! The end of a run: the upstream's log, request by request, against the ledger.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::endpoints::PATHS;
use crate::ledger::{Row, Snapshot};
use crate::load;
use crate::support::oracle::{Charged, invoice, off_the_books};
use crate::support::pictures;
use crate::support::settings::Settings;
use crate::support::upstream::Served;

/// How long a key stands for its request.
const KEY_KEPT_MS: i64 = 24 * 3_600_000;

/// All that is wrong once nothing is open any more.
pub(crate) fn violations(seen: &Snapshot, served: &[Served], settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    let rows: HashMap<&str, &Row> = seen.rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut paid: HashSet<&str> = HashSet::new();
    let mut last: HashMap<&str, &Served> = HashMap::new();
    for served in served {
        // The id of the row: the product tells it to the upstream.
        let Some(id) = served.seen.request.header("x-client-request-id") else {
            found.push(format!(
                "the upstream was asked without an id: {:?}",
                served.seen.request
            ));
            continue;
        };
        let Some(row) = rows.get(id) else {
            found.push(format!(
                "{id} was served (answered {:?}) and has no row",
                served.answered
            ));
            continue;
        };
        paid.insert(&row.id);
        // Another is asked only after one that did nothing: the books of both agree with the row of the last.
        let before = last.insert(id, served);
        if before.is_some_and(|before| !before.is_free() || model_of(before) == model_of(served)) {
            found.push(format!("{id} was served twice"));
        }
    }
    for (id, served) in last {
        let row = rows[id];
        let is_of_another = model_of(served).as_ref() != Some(&row.model) && row.is_charged();
        // The process died, or its caller left, on the way to the next.
        if is_of_another && !row.has("swept") && !row.has("not_connected") {
            found.push(format!("{id} is another's: {served:?}: {row:?}"));
        }
        found.extend(
            disagreement(served, row, settings).map(|what| format!("{id} {what}: {row:?}")),
        );
    }
    found.extend(charged_twice(&rows, served));
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

fn model_of(served: &Served) -> Option<String> {
    pictures::sent(&served.seen, "model")
}

/// So many requests of each endpoint were served, and so many of them are charged.
pub(crate) fn endpoints(seen: &Snapshot, served: &[Served]) -> BTreeMap<&'static str, [usize; 2]> {
    let charged = seen.rows.iter().filter(|row| row.is_charged());
    let charged: HashSet<&str> = charged.map(|row| row.id.as_str()).collect();
    let mut counts = BTreeMap::from(PATHS.map(|path| (path, [0; 2])));
    for served in served {
        let id = served.seen.request.header("x-client-request-id");
        if let Some(count) = counts.get_mut(served.seen.request.target.as_str()) {
            count[0] += 1;
            count[1] += usize::from(id.is_some_and(|id| charged.contains(id)));
        }
    }
    counts
}

/// A request that was sent again with its key is charged once within a day.
fn charged_twice(rows: &HashMap<&str, &Row>, served: &[Served]) -> Vec<String> {
    let mut by_key: HashMap<String, Vec<&Row>> = HashMap::new();
    for served in served {
        let id = served.seen.request.header("x-client-request-id");
        let row = id.and_then(|id| rows.get(id));
        if let (Some(key), Some(row)) = (load::key_of(&served.seen), row) {
            // One row may have been asked of several upstreams: the next candidate after the one that failed.
            let known = by_key.entry(key).or_default();
            if !known.iter().any(|known| known.id == row.id) {
                known.push(row);
            }
        }
    }
    let mut found = Vec::new();
    for (key, rows) in by_key {
        let begun = rows.iter().map(|row| row.started);
        let apart = begun.clone().max().unwrap_or(0) - begun.min().unwrap_or(0);
        let charged: Vec<_> = rows.iter().filter(|row| row.is_charged()).collect();
        // A clock that was set forth and back in between has forgotten the key.
        if charged.len() > 1 && apart < KEY_KEPT_MS {
            found.push(format!("{key} is charged twice: {charged:?}"));
        }
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
        return Some(format!(
            "was answered {:?} upstream and is {}",
            served.answered, row.state
        ));
    }
    if served.seen.is_moderation() && row.used[2] != 0 {
        return Some("is free, and is charged".to_owned());
    }
    if served.books.is_some() {
        let Some(price) = model_of(served).and_then(|model| settings.price(&model)) else {
            return Some(format!("has no price: {:?}", model_of(served)));
        };
        let flags: Vec<String> = row.flags.split(',').map(str::to_owned).collect();
        let [_, tokens, cost, ..] = row.used;
        let charged = Charged {
            cost,
            tokens,
            held: row.held[2],
            flags: &flags,
            state: &row.state,
        };
        return off_the_books(served, &charged, price);
    }
    let bill = served
        .billed
        .filter(|_| served.finished && row.flags.is_empty() && row.state == "settled")?;
    let price = settings.price(served.seen.body["model"].as_str()?)?;
    let (cost, tokens) = (
        invoice(served, price),
        (bill.prompt + bill.completion) as i64,
    );
    (row.used[1..3] != [tokens, cost]).then(|| format!("was billed {bill:?}, {cost} micro-dollars"))
}
