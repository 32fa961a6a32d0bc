//! The oracle: what must hold after every test, whatever the test was about.
//!
//! Pure: it is given everything that is known at the end ([`Evidence`]) and says what is wrong with it. The upstream's
//! log is the ground truth; the ledger, the answers and the output of the product are held against it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::caller::Answer;
use super::leaks::{Canary, no_secret_got_out};
use super::reply::WORD;
use super::settings::{Settings, micros};
use super::upstream::Served;
use super::wire::Request;
use super::zoo;

/// A row of the ledger, as `tollgate usage --requests --json` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) plan: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) requested_model: Option<String>,
    pub(crate) upstream: Option<String>,
    /// `plan` or `credits`.
    pub(crate) paid_by: Option<String>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    pub(crate) input_tokens: Option<i64>,
    pub(crate) cached_input_tokens: Option<i64>,
    pub(crate) output_tokens: Option<i64>,
    pub(crate) reasoning_tokens: Option<i64>,
    pub(crate) audio_seconds: Option<i64>,
    pub(crate) characters: Option<i64>,
    pub(crate) images: Option<i64>,
    pub(crate) held_micros: Option<i64>,
    pub(crate) cost_micros: Option<i64>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
}

impl Row {
    /// Whether it is charged for and counts as a request.
    pub(crate) fn is_charged(&self) -> bool {
        matches!(self.state.as_str(), "settled" | "lost")
    }

    /// Whether it carries a flag.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|carried| carried == flag)
    }

    /// What it cost, in micro-dollars.
    pub(crate) fn cost(&self) -> i64 {
        self.cost_micros.unwrap_or(0)
    }

    /// What it used, input and output.
    pub(crate) fn tokens(&self) -> i64 {
        self.input_tokens.unwrap_or(0) + self.output_tokens.unwrap_or(0)
    }
}

/// Everything that is known when a test ends.
#[derive(Clone)]
pub(crate) struct Evidence {
    pub(crate) settings: Settings,
    pub(crate) rows: Vec<Row>,
    pub(crate) served: Vec<Served>,
    pub(crate) heard: Vec<Answer>,
    /// What the operator's listener answered, `/metrics` included.
    pub(crate) operators: Vec<Answer>,
    /// What the project was asked.
    pub(crate) project: Vec<Request>,
    /// What the collector of traces and metrics was sent.
    pub(crate) collected: Vec<Request>,
    /// The last `/api/me` of each user.
    pub(crate) me: Vec<(Uuid, Value)>,
    /// What the process and its commands wrote.
    pub(crate) output: String,
    /// The files it left: name and contents.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// What must be nowhere but in its one place.
    pub(crate) canaries: Vec<Canary>,
    pub(crate) operator_key: String,
    /// Keys of the operator that a test changed to.
    pub(crate) other_keys: Vec<String>,
    /// How often the process was killed without warning.
    pub(crate) kills: usize,
    /// A limit was lowered or a plan made smaller: what was used may be above it.
    pub(crate) lowered: bool,
    /// How often the test made it panic.
    pub(crate) panics: usize,
}

/// All that is wrong; empty when the laws hold.
pub(crate) fn violations(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(looks_were_well_formed(evidence));
    let (served, _) = evidence
        .served
        .iter()
        .cloned()
        .partition(|served| !is_look(served) && !is_check(served, &evidence.rows));
    let evidence = &Evidence {
        served,
        ..evidence.clone()
    };
    found.extend(rows_are_sound(evidence));
    found.extend(rows_match_what_was_served(evidence));
    found.extend(charges_match_the_invoice(evidence));
    found.extend(windows_match_the_rows(evidence));
    found.extend(limits_held(evidence));
    found.extend(requests_were_well_formed(evidence));
    found.extend(answers_are_documented(evidence));
    found.extend(no_secret_got_out(evidence));
    if evidence.output.matches("panicked at").count() != evidence.panics {
        found.push(format!(
            "the process panicked, and not {} times",
            evidence.panics
        ));
    }
    found
}

/// Law 3: each row ended once, within its hold, and nothing is negative.
fn rows_are_sound(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut count: BTreeMap<Uuid, usize> = BTreeMap::new();
    for row in &evidence.rows {
        if row.ended_at.as_ref().is_some_and(|ended| millis(ended) < 0)
            || millis(&row.started_at) < 0
        {
            found.push(format!("row of another time: {row:?}"));
        }
        *count.entry(row.id).or_default() += 1;
        let numbers = [
            row.input_tokens,
            row.cached_input_tokens,
            row.output_tokens,
            row.reasoning_tokens,
            row.held_micros,
            row.cost_micros,
        ];
        let complaint = match row.state.as_str() {
            "settled" | "lost" if row.ended_at.is_none() => "ended and has no end",
            "settled" | "lost"
                if row.cost() > row.held_micros.unwrap_or(0) && !row.has("overrun") =>
            {
                "cost more than it held, and is not flagged"
            }
            "voided" if row.cost() != 0 => "was voided and charged",
            "settled" | "lost" | "voided" => "",
            "held" => "still held when all is quiet",
            _ => "in a state that nobody documented",
        };
        if !complaint.is_empty() {
            found.push(format!("row {complaint}: {row:?}"));
        }
        if numbers.iter().flatten().any(|number| *number < 0) {
            found.push(format!("row with a negative number: {row:?}"));
        }
    }
    found.extend(
        count
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(|(id, count)| format!("{count} rows of request {id}")),
    );
    found
}

/// Each request that the upstream served has one charged row, and none is charged that it never got.
fn rows_match_what_was_served(evidence: &Evidence) -> Vec<String> {
    let settled = evidence
        .rows
        .iter()
        .filter(|row| row.state == "settled")
        .count();
    let lost = evidence
        .rows
        .iter()
        .filter(|row| row.state == "lost")
        .count();
    let surely = evidence
        .served
        .iter()
        .filter(|served| served.is_owed())
        .count();
    // A redirect is an answer, and no refusal: the contract leaves open which.
    let perhaps = evidence
        .served
        .iter()
        .filter(|served| matches!(served.answered, Some(300..=399)))
        .count();
    let mut found = Vec::new();
    if settled + lost < surely {
        found.push(format!(
            "the upstream served {surely} requests, and only {settled} settled and {lost} lost rows pay for them"
        ));
    }
    // A process that was killed cannot know what it had sent: only such rows may be charged for nothing.
    let unexplained = if evidence.kills == 0 {
        settled + lost
    } else {
        settled
    };
    if unexplained > surely + perhaps {
        found.push(format!(
            "{settled} settled and {lost} lost rows, and the upstream served only {surely} requests"
        ));
    }
    found
}

/// Where an answer, a line of the upstream's log and a row are about the same request, they agree to the micro-dollar.
fn charges_match_the_invoice(evidence: &Evidence) -> Vec<String> {
    let rows: BTreeMap<Uuid, &Row> = evidence.rows.iter().map(|row| (row.id, row)).collect();
    // By the id of the row, where the product tells it to the upstream.
    let id_of = |served: &Served| -> Option<Uuid> {
        served
            .seen
            .request
            .header("x-client-request-id")?
            .parse()
            .ok()
    };
    // A key that the upstream does not know is tried for nothing: the same request goes again with the one before it.
    // So is one that did nothing, where another is asked after it.
    let is_followed = |served: &Served| {
        served.is_free()
            && served.seen.serial().is_some()
            && evidence.served.iter().any(|other| {
                !other.is_free()
                    && other.seen.serial() == served.seen.serial()
                    && id_of(other) == id_of(served)
            })
    };
    let tried = |served: &&Served| {
        (evidence.other_keys.is_empty() || served.answered != Some(401)) && !is_followed(served)
    };
    let by_serial = evidence
        .served
        .iter()
        .filter(tried)
        .rev()
        .filter_map(|served| Some((served.seen.serial()?, served)));
    let by_serial: BTreeMap<u64, &Served> = by_serial.collect();
    let by_id = evidence.served.iter().filter(tried);
    let by_id: BTreeMap<Uuid, &Served> = by_id
        .filter_map(|served| Some((id_of(served)?, served)))
        .collect();
    let mut heard: BTreeMap<u64, usize> = BTreeMap::new();
    for serial in evidence.heard.iter().filter_map(|answer| answer.serial) {
        *heard.entry(serial).or_default() += 1;
    }
    let mut found = Vec::new();
    for answer in &evidence.heard {
        let (Some(serial), Some(id)) = (answer.serial, answer.id()) else {
            continue;
        };
        // What is sent again has the serial of the first, and an id of its own: then the serial tells nothing of this row.
        let is_alone = heard[&serial] == 1;
        let of_serial = by_serial
            .get(&serial)
            .filter(|served| is_alone && id_of(served).is_none_or(|served| served == id));
        let served = by_id.get(&id).or(of_serial);
        let complaint = match (served, rows.get(&id)) {
            (Some(served), Some(row)) => disagreement(evidence, served, row)
                .or_else(|| unlike_what_was_heard(answer, served, row)),
            (Some(served), None)
                if served.is_owed() && id_of(served).is_none_or(|id| !rows.contains_key(&id)) =>
            {
                Some("was served and has no row".to_owned())
            }
            (None, Some(row)) if row.is_charged() && evidence.kills == 0 => {
                Some(format!("was never served and is charged: {row:?}"))
            }
            _ => None,
        };
        found.extend(complaint.map(|complaint| {
            format!(
                "request {id} (ask-{serial}, answered {}) {complaint}",
                answer.status
            )
        }));
    }
    found
}

fn disagreement(evidence: &Evidence, served: &Served, row: &Row) -> Option<String> {
    if row.state == "lost" && evidence.kills > 0 {
        return None;
    }
    if served.is_free() != (row.state == "voided") && !matches!(served.answered, Some(300..=399)) {
        let billed = served.bill();
        return Some(format!(
            "was answered {:?} upstream, billed {billed:?}, and is {}",
            served.answered, row.state
        ));
    }
    if served.books.is_some() {
        let price = evidence
            .settings
            .price(served.seen.body["model"].as_str()?)?;
        let charged = Charged {
            cost: row.cost(),
            tokens: row.tokens(),
            held: row.held_micros.unwrap_or(0),
            flags: &row.flags,
            state: &row.state,
        };
        return off_the_books(served, &charged, price);
    }
    let bill = served
        .billed
        .filter(|_| served.finished && row.flags.is_empty() && row.state == "settled")?;
    let price = evidence
        .settings
        .price(served.seen.body["model"].as_str()?)?;
    let (cost, tokens) = (
        invoice(served, price),
        (bill.prompt + bill.completion) as i64,
    );
    let agrees = row.cost() == cost
        && row.tokens() == tokens
        && row.cached_input_tokens.unwrap_or(0) == bill.cached as i64;
    (!agrees)
        .then(|| format!("was billed {bill:?}, {cost} micro-dollars, and the row says {row:?}"))
}

/// What a row was charged, wherever it was read.
pub(crate) struct Charged<'a> {
    pub(crate) cost: i64,
    pub(crate) tokens: i64,
    pub(crate) held: i64,
    pub(crate) flags: &'a [String],
    pub(crate) state: &'a str,
}

impl Charged<'_> {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|carried| carried == flag)
    }
}

/// A row beside the books of a family of the zoo: the hold is above what is billed, and so is the charge, but for an
/// estimate of what was delivered; work that nobody saw is charged as it was held; and what was reported as it is billed
/// is charged to the micro-dollar.
pub(crate) fn off_the_books(
    served: &Served,
    row: &Charged<'_>,
    price: (u128, u128, u128),
) -> Option<String> {
    let books = served.books.filter(|books| !books.is_free())?;
    let (bill, cost) = (served.bill(), invoice(served, price));
    let tokens = (bill.prompt + bill.completion) as i64;
    if cost > row.held && !row.has("overrun") {
        return Some(format!(
            "was billed {bill:?}, {cost} micro-dollars, and held {}",
            row.held
        ));
    }
    let is_estimate = row.has("estimated");
    // A report that lacks the prompt may have told the hidden part of the output.
    let hides = books.hidden > 0 && !row.has("usage_nonsense");
    let is_unseen = hides || (!served.seen.is_stream() && !served.finished);
    if is_estimate && is_unseen && row.cost != row.held {
        return Some(format!(
            "was billed {bill:?}, unseen, and is charged {} of a hold of {}",
            row.cost, row.held
        ));
    }
    if !is_estimate && row.state == "settled" && row.cost < cost {
        return Some(format!(
            "was billed {bill:?}, {cost} micro-dollars, and is charged {}",
            row.cost
        ));
    }
    let is_plain = row.state == "settled" && !is_estimate && !row.has("usage_nonsense");
    (is_plain && (row.cost, row.tokens) != (cost, tokens)).then(|| {
        format!(
            "was billed {bill:?}, {cost} micro-dollars, and is charged {} for {}",
            row.cost, row.tokens
        )
    })
}

/// An estimate is of all that the caller has heard, at least.
fn unlike_what_was_heard(answer: &Answer, served: &Served, row: &Row) -> Option<String> {
    let heard = answer.said().matches(WORD).count() as i64;
    let is_less =
        served.books.is_some() && row.has("estimated") && row.output_tokens.unwrap_or(0) < heard;
    (is_less && row.cost_micros != row.held_micros)
        .then(|| format!("was heard to say {heard} words: {row:?}"))
}

/// What the upstream bills for a request, in micro-dollars, rounded up once.
pub(crate) fn invoice(served: &Served, (input, cached, output): (u128, u128, u128)) -> i64 {
    let bill = served.bill();
    let parts = bill.cached + bill.written + bill.written_1h;
    let fresh = u128::from(bill.prompt.saturating_sub(parts));
    let written =
        u128::from(bill.written) * input * 5 / 4 + u128::from(bill.written_1h) * input * 2;
    let total = fresh * input
        + written
        + u128::from(bill.cached) * cached
        + u128::from(bill.completion) * output
        + u128::from(bill.other_micros) * 1_000_000;
    total.div_ceil(1_000_000) as i64
}

/// Law 4: what a window says is used is the sum of its rows; and law 5: nothing is held when all is quiet.
fn windows_match_the_rows(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for (user, me) in &evidence.me {
        if me["concurrent"]["open"]
            .as_i64()
            .is_some_and(|open| open != 0)
        {
            found.push(format!(
                "{user} has open requests when all is quiet: {}",
                me["concurrent"]
            ));
        }
        for limit in me["limits"].as_array().into_iter().flatten() {
            if amount(limit, "held") != 0 {
                found.push(format!(
                    "{user} has something held when all is quiet: {limit}"
                ));
            }
            let Some((from, to)) = window_of(limit, evidence.settings.is_utc()) else {
                continue;
            };
            let rows = evidence
                .rows
                .iter()
                .filter(|row| row.user_id == *user && row.is_charged());
            // No test asks by a name that is not the plan's own.
            let rows = rows.filter(|row| match limit["model"].as_str() {
                Some(model) => row.requested_model.as_deref() == Some(model),
                None => true,
            });
            let inside = rows.filter(|row| (from..to).contains(&millis(&row.started_at)));
            // Beyond a user's credits an overrun counts in the window: how much of it, no command tells.
            let is_overrun = |row: &&Row| {
                row.paid_by.as_deref() == Some("credits")
                    && row.has("overrun")
                    && limit["unit"] == "cost_usd"
            };
            let perhaps: i64 = inside
                .clone()
                .filter(|row| is_overrun(row))
                .map(Row::cost)
                .sum();
            let sum: i64 = inside
                .map(|row| match limit["unit"].as_str() {
                    Some("requests") => 1,
                    Some("tokens") => row.tokens(),
                    Some("audio_seconds") => row.audio_seconds.unwrap_or(0),
                    Some("characters") => row.characters.unwrap_or(0),
                    Some("images") => row.images.unwrap_or(0),
                    _ if row.paid_by.as_deref() == Some("credits") => 0,
                    _ => row.cost(),
                })
                .sum();
            if !(sum..=sum + perhaps).contains(&amount(limit, "used")) {
                found.push(format!(
                    "{user}: the rows of the window sum to {sum}, and it says {limit}"
                ));
            }
        }
    }
    found
}

/// The window of a limit, where its beginning can be told from its end. Requests per minute and hour also count what
/// the upstream refused, which no sum of charged rows shows.
fn window_of(limit: &Value, utc: bool) -> Option<(i64, i64)> {
    let end = limit["resets_at"].as_str().map(millis);
    match (limit["per"].as_str()?, end) {
        ("lifetime", None) => Some((i64::MIN, i64::MAX)),
        ("day", Some(end)) if utc => Some((end - 86_400_000, end)),
        ("month", Some(end)) if utc => {
            let next: jiff::civil::Date = limit["resets_at"].as_str()?.get(..10)?.parse().ok()?;
            let days = i64::from(next.yesterday().ok()?.days_in_month());
            Some((end - days * 86_400_000, end))
        }
        _ => None,
    }
}

/// Milliseconds since the epoch of an RFC 3339 time.
pub(crate) fn millis(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .unwrap_or_else(|error| panic!("{text:?} is no time: {error}"))
        .as_millisecond()
}

/// A member of a limit, in its unit: requests, tokens or micro-dollars.
pub(crate) fn amount(limit: &Value, member: &str) -> i64 {
    match &limit[member] {
        Value::String(dollars) if limit["unit"] == "cost_usd" => micros(dollars),
        Value::Number(number) if limit["unit"] != "cost_usd" => number
            .as_i64()
            .unwrap_or_else(|| panic!("{member} of {limit} is no whole number")),
        other => panic!("{member} of {limit} is {other}"),
    }
}

/// Law 1, at every instant somebody looked: used + held ≤ limit, and nothing is negative.
fn limits_held(evidence: &Evidence) -> Vec<String> {
    let excused = evidence.lowered || evidence.rows.iter().any(|row| row.has("overrun"));
    let mut found = Vec::new();
    for answer in evidence
        .heard
        .iter()
        .filter(|answer| answer.what == "GET /api/me" && answer.status == 200)
    {
        for limit in answer.json()["limits"].as_array().into_iter().flatten() {
            let [of, used, held, left] =
                ["limit", "used", "held", "remaining"].map(|member| amount(limit, member));
            if [of, used, held, left].iter().any(|number| *number < 0) {
                found.push(format!("something is negative: {limit}"));
            }
            if used + held > of && !excused {
                found.push(format!("used + held is above the limit: {limit}"));
            }
            if left != (of - used - held).max(0) {
                found.push(format!("remaining is not what is left: {limit}"));
            }
        }
    }
    found
}

/// `tollgate doctor` looks at the list of models and buys nothing; without a key where it only wants the `Date`.
fn is_look(served: &Served) -> bool {
    (
        served.seen.request.method.as_str(),
        served.seen.request.target.as_str(),
    ) == ("GET", "/v1/models")
}

/// Moderation that a plan asks for is free, and no request of a user's: its id is no row's.
fn is_check(served: &Served, rows: &[Row]) -> bool {
    let id = served.seen.request.header("x-client-request-id");
    let is_of = |row: &Row| Some(row.id.to_string().as_str()) == id;
    served.seen.is_moderation() && !rows.iter().any(is_of)
}

fn looks_were_well_formed(evidence: &Evidence) -> Vec<String> {
    let operator = format!("Bearer {}", evidence.operator_key);
    let foreign = |key: &str| key != operator;
    let looks = evidence
        .served
        .iter()
        .filter(|served| is_look(served))
        .map(|served| &served.seen.request);
    looks
        .filter(|look| !look.faults.is_empty() || look.header("authorization").is_some_and(foreign))
        .map(|look| {
            format!("the upstream was looked at with a malformed request or another key: {look:?}")
        })
        .collect()
}

/// What the upstream was sent: framed cleanly, with the operator's key and nobody else's, capped, metered.
fn requests_were_well_formed(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for served in &evidence.served {
        let request = &served.seen.request;
        let mut complain =
            |what: &str| found.push(format!("the upstream was sent {what}: {request:?}"));
        if !request.faults.is_empty() {
            complain(&format!("a malformed request ({:?})", request.faults));
        }
        // The doctor asks a host for its clock without any key.
        let asks_the_time = request.method == "GET" && request.all("authorization").is_empty();
        let mut keys = evidence.other_keys.iter().chain([&evidence.operator_key]);
        let is_known = |key: &String| {
            if zoo::claude::is_asked(&served.seen) {
                request.all("x-api-key") == [key.as_str()]
                    && request.all("authorization").is_empty()
            } else {
                request.all("authorization") == [format!("Bearer {key}")]
            }
        };
        if !asks_the_time && !keys.any(is_known) {
            complain("another key than the operator's");
        }
        if request
            .header("accept-encoding")
            .is_some_and(|coding| coding != "identity")
        {
            complain("an invitation to compress");
        }
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/messages" | "/v1/messages/count_tokens")
                if request.header("anthropic-version") != Some("2023-06-01") =>
            {
                complain("no version");
            }
            ("POST", "/v1/chat/completions" | "/v1/messages" | "/v1/responses") => {
                if served.seen.cap().is_none_or(|cap| cap == 0) {
                    complain("no output cap");
                }
            }
            (
                "POST",
                "/v1/embeddings"
                | "/v1/moderations"
                | "/v1/messages/count_tokens"
                | "/v1/audio/speech"
                | "/v1/audio/transcriptions"
                | "/v1/images/generations"
                | "/v1/images/edits",
            ) => {}
            _ => complain("another path than an endpoint's"),
        }
        let refuses_it = || {
            zoo::claude::is_asked(&served.seen)
                || zoo::of(&served.seen)
                    .is_some_and(|family| family.refuses.contains(&"stream_options"))
        };
        let asks_usage = served.seen.include_usage()
            || served.seen.is_responses()
            || served.seen.is_images()
            || served.seen.is_transcription();
        if served.seen.is_stream() && !asks_usage && !refuses_it() {
            complain("a stream without usage");
        }
    }
    found
}

/// Every refusal of the contract: status, `error.type`, `error.code`.
pub(crate) const REFUSALS: &[(u16, &str, &str)] = &[
    (400, "invalid_request_error", "invalid_request"),
    (400, "invalid_request_error", "unsupported_field"),
    (400, "invalid_request_error", "content_flagged"),
    (401, "authentication_error", "missing_token"),
    (401, "authentication_error", "invalid_token"),
    (401, "authentication_error", "token_expired"),
    (402, "insufficient_quota", "quota_exceeded"),
    (403, "permission_error", "model_not_allowed"),
    (403, "permission_error", "anonymous_not_allowed"),
    (403, "permission_error", "user_blocked"),
    (403, "permission_error", "attestation_required"),
    (404, "invalid_request_error", "not_found"),
    (405, "invalid_request_error", "method_not_allowed"),
    (401, "authentication_error", "invalid_signature"),
    (409, "invalid_request_error", "purchase_taken"),
    (409, "invalid_request_error", "answer_gone"),
    (410, "invalid_request_error", "answer_gone"),
    (413, "invalid_request_error", "body_too_large"),
    (415, "invalid_request_error", "unsupported_media_type"),
    (422, "invalid_request_error", "idempotency_key_reused"),
    (431, "invalid_request_error", "headers_too_large"),
    (429, "rate_limit_error", "rate_limited"),
    (429, "rate_limit_error", "too_many_concurrent"),
    (502, "api_error", "upstream_error"),
    (503, "api_error", "store_unavailable"),
    (503, "api_error", "auth_unavailable"),
    (503, "api_error", "directory_unavailable"),
    (503, "api_error", "upstream_unavailable"),
    (503, "api_error", "paused"),
    (503, "api_error", "overloaded"),
    (504, "api_error", "upstream_timeout"),
];

fn answers_are_documented(evidence: &Evidence) -> Vec<String> {
    let passed_on = |status: u16| {
        let comes_from = |answered: u16| match status {
            // A 413 of our own is about the size of a body.
            400 => matches!(answered, 400 | 413),
            404 | 422 => answered == status,
            _ => false,
        };
        evidence
            .served
            .iter()
            .any(|served| served.answered.is_some_and(comes_from))
    };
    let complaint = |answer: &Answer| {
        if answer.id().is_none() {
            return Some("has no X-Request-Id");
        }
        match answer.status {
            200 | 204 => None,
            503 if answer.what == "GET /health/ready" => None,
            _ if !answer.whole => None,
            status => undocumented(answer, passed_on(status)),
        }
    };
    evidence
        .heard
        .iter()
        .filter_map(|answer| complaint(answer).map(|what| format!("an answer {what}: {answer:?}")))
        .collect()
}

/// What is wrong with a refusal.
fn undocumented(answer: &Answer, passed_on: bool) -> Option<&'static str> {
    if answer.what.starts_with("HEAD ") {
        return None;
    }
    let body = answer.json();
    if answer.what.contains(" /v1/messages") {
        return unlike_anthropics(answer, passed_on);
    }
    let error = &body["error"];
    let (Some(kind), Some(code)) = (error["type"].as_str(), error["code"].as_str()) else {
        return Some("is a refusal without type and code");
    };
    if !error["message"].is_string()
        || error
            .get("param")
            .is_none_or(|param| !param.is_null() && !param.is_string())
    {
        return Some("is a refusal without message and param");
    }
    if !passed_on && !REFUSALS.contains(&(answer.status, kind, code)) {
        return Some("is a refusal that nobody documented");
    }
    if answer.header("x-tollgate-error") != code {
        return Some("does not repeat its code in X-Tollgate-Error");
    }
    let waits = answer
        .header("retry-after")
        .parse::<u64>()
        .is_ok_and(|seconds| seconds > 0);
    match answer.status {
        401 if answer.header("www-authenticate") != challenge(code) => {
            Some("is a 401 with another WWW-Authenticate than its own")
        }
        405 if answer.header("allow").is_empty() => Some("is a 405 without Allow"),
        429 | 503 if !waits => Some("has no Retry-After"),
        402 if error["plan"].as_str().is_none() => Some("is a 402 that names no plan"),
        402 | 429 if code != "too_many_concurrent" => incomplete_limit(&error["limit"]),
        _ => None,
    }
}

/// What is wrong with a refusal that Anthropic's clients are to decode.
fn unlike_anthropics(answer: &Answer, passed_on: bool) -> Option<&'static str> {
    let (body, code) = (answer.json(), answer.header("x-tollgate-error"));
    let kind = match answer.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    let error = &body["error"];
    if body["type"] != "error" || error["type"] != kind || !error["message"].is_string() {
        return Some("is no error of Anthropic's shape");
    }
    if body["request_id"] != answer.header("x-request-id") {
        return Some("names another request");
    }
    let is_known =
        |(status, _, known): &(u16, &str, &str)| (*status, *known) == (answer.status, code);
    if !passed_on && !REFUSALS.iter().any(is_known) {
        return Some("is a refusal that nobody documented");
    }
    let is_rate = answer.status == 429 && code != "too_many_concurrent";
    match answer.status {
        429 | 503 if answer.header("retry-after").is_empty() => Some("has no Retry-After"),
        402 if error["plan"].as_str().is_none() => Some("is a 402 that names no plan"),
        402 if error.get("limit").is_none() => None,
        402 | 429 if is_rate || answer.status == 402 => incomplete_limit(&error["limit"]),
        _ => None,
    }
}

fn incomplete_limit(limit: &Value) -> Option<&'static str> {
    let members = [
        "per",
        "unit",
        "limit",
        "used",
        "held",
        "requested",
        "resets_at",
    ];
    members
        .iter()
        .any(|member| limit.get(member).is_none())
        .then_some("has no complete error.limit")
}

/// RFC 6750 §3: an error only where there was a token; nothing to a store, whose proof is no token.
fn challenge(code: &str) -> &'static str {
    match code {
        "invalid_signature" => "",
        "missing_token" => r#"Bearer realm="tollgate""#,
        _ => r#"Bearer realm="tollgate", error="invalid_token""#,
    }
}
