//! The oracle is tried on forged evidence: each law is broken once, and must be missed.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::caller::Answer;
use crate::support::leaks::{Canary, Kind};
use crate::support::oracle::{Evidence, Row, violations};
use crate::support::reply::{Bill, Books, WORD};
use crate::support::settings::Settings;
use crate::support::upstream::{Seen, Served};
use crate::support::wire::Request;

const KEY: &str = "sk-operator";
const SERVICE_KEY: &str = "sb_secret_service";
const JWT_SECRET: &str = "a \"jwt\" secret/with+odd=letters";

fn id() -> Uuid {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

fn user() -> Uuid {
    "6ba7b810-9dad-41d1-80b4-00c04fd430c8".parse().unwrap()
}

fn row() -> Row {
    serde_json::from_value(json!({
        "id": id(), "user_id": user(), "plan": "free", "endpoint": "/v1/chat/completions", "model": "gpt-4o-mini",
        "upstream": "openai", "state": "settled", "flags": [], "input_tokens": 10, "cached_input_tokens": 0,
        "output_tokens": 5, "reasoning_tokens": 0, "held_micros": 600, "cost_micros": 5,
        "started_at": "2026-11-24T10:00:00Z", "ended_at": "2026-11-24T10:00:01Z",
    }))
    .unwrap()
}

fn served() -> Served {
    let body = json!({"model": "gpt-4o-mini", "max_completion_tokens": 1000,
        "messages": [{"role": "user", "content": "hi there ask-7;"}]});
    let headers = [
        ("Host", "u"),
        ("Authorization", "Bearer sk-operator"),
        ("Content-Length", "1"),
    ];
    let request = Request {
        method: "POST".to_owned(),
        target: "/v1/chat/completions".to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        body: body.to_string().into_bytes(),
        faults: Vec::new(),
    };
    Served {
        seen: Arc::new(Seen { request, body }),
        answered: Some(200),
        generated: 5,
        books: None,
        billed: Some(Bill {
            prompt: 10,
            cached: 0,
            completion: 5,
            ..Bill::default()
        }),
        finished: true,
        peer_left: false,
    }
}

fn request_to(target: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Request {
        method: "POST".to_owned(),
        target: target.to_owned(),
        headers,
        ..Request::default()
    }
}

fn answer(status: u16, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let mut all = vec![("x-request-id".to_owned(), id().to_string())];
    all.extend(
        headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    Answer {
        what: "POST /v1/chat/completions".to_owned(),
        serial: Some(7),
        status,
        headers: all,
        body: body.to_string().into_bytes(),
        whole: true,
    }
}

fn me(used: i64, held: i64) -> Value {
    let left = (20 - used - held).max(0);
    json!({"concurrent": {"limit": 2, "open": held}, "limits": [
        {"per": "day", "unit": "requests", "limit": 20, "used": used, "held": held, "remaining": left, "resets_at": "2026-11-25T00:00:00Z"},
        {"per": "lifetime", "unit": "cost_usd", "limit": "1.000000", "used": format!("0.{:06}", used * 5), "held": "0.000000",
         "remaining": format!("0.{:06}", 1_000_000 - used * 5), "resets_at": null},
    ]})
}

/// Evidence of one honest request.
fn honest() -> Evidence {
    Evidence {
        settings: Settings::new(),
        rows: vec![row()],
        served: vec![served()],
        heard: vec![answer(200, &json!({}), &[])],
        me: vec![(user(), me(1, 0))],
        output: "listening".to_owned(),
        files: vec![("tollgate.db".to_owned(), b"rows".to_vec())],
        operators: vec![answer(200, &json!({"rows": []}), &[])],
        project: vec![request_to(
            "/rest/v1/rpc/check_plan",
            &[("apikey", SERVICE_KEY)],
        )],
        collected: vec![request_to("/v1/traces", &[])],
        canaries: vec![
            Canary::new(Kind::OperatorKey, "the operator's key", KEY),
            Canary::new(Kind::UserToken, "a token", "eyJ.x.yyyyyy"),
            Canary::new(Kind::ServiceKey, "the service key", SERVICE_KEY),
            Canary::new(Kind::JwtSecret, "the JWT secret", JWT_SECRET),
            Canary::new(Kind::Prompt, "a prompt", "hi there"),
        ],
        operator_key: KEY.to_owned(),
        other_keys: Vec::new(),
        kills: 0,
        lowered: false,
        panics: 0,
    }
}

/// What the oracle says when the evidence is bent so.
fn verdict(bend: impl FnOnce(&mut Evidence)) -> String {
    let mut evidence = honest();
    bend(&mut evidence);
    violations(&evidence).join("\n")
}

#[test]
fn an_honest_request_is_found_honest() {
    assert_eq!(verdict(|_| {}), "");
}

#[test]
fn rows_that_break_the_law_are_found() {
    for (what, change) in [
        ("still held", json!({"state": "held"})),
        ("voided and charged", json!({"state": "voided"})),
        ("nobody documented", json!({"state": "forgotten"})),
        ("no end", json!({"ended_at": null})),
        ("negative", json!({"output_tokens": -5})),
        ("cost more than it held", json!({"held_micros": 4})),
    ] {
        let found = verdict(|evidence| {
            let mut changed = json!({
                "id": id(), "user_id": user(), "state": "settled", "input_tokens": 10, "output_tokens": 5, "held_micros": 600,
                "cost_micros": 5, "started_at": "2026-11-24T10:00:00Z", "ended_at": "2026-11-24T10:00:01Z",
            });
            changed
                .as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            evidence.rows = vec![serde_json::from_value(changed).unwrap()];
        });
        assert!(found.contains(what), "{what}: {found}");
    }
    assert!(verdict(|evidence| evidence.rows.push(row())).contains("2 rows of request"));
}

#[test]
fn charges_that_differ_from_the_invoice_are_found() {
    assert!(verdict(|evidence| evidence.rows[0].cost_micros = Some(4)).contains("was billed"));
    assert!(verdict(|evidence| evidence.rows[0].output_tokens = Some(4)).contains("was billed"));
    assert!(verdict(|evidence| evidence.rows.clear()).contains("only 0 settled"));
    assert!(verdict(|evidence| evidence.served.clear()).contains("the upstream served only 0"));
    assert!(
        verdict(|evidence| evidence.served.clear()).contains("was never served and is charged")
    );
    assert!(verdict(|evidence| evidence.served.push(served())).contains("served 2 requests"));
    assert!(
        verdict(|evidence| evidence.served[0].answered = Some(500))
            .contains("was answered Some(500)")
    );
}

/// A request to a provider with books: it bills 40 tokens of output, 30 of them hidden.
fn booked(evidence: &mut Evidence) {
    let whole = Bill {
        prompt: 10,
        cached: 0,
        completion: 40,
        ..Bill::default()
    };
    let served = &mut evidence.served[0];
    served.books = Some(Books {
        whole,
        hidden: 30,
        works_on: true,
    });
    let row = &mut evidence.rows[0];
    // 10 and 40 tokens of gpt-4o-mini.
    (row.output_tokens, row.cost_micros) = (Some(40), Some(26));
    // What the windows say is not what this is about.
    evidence.me.clear();
}

#[test]
fn rows_that_differ_from_the_books_are_found() {
    let found = |bend: fn(&mut Evidence)| {
        verdict(|evidence| {
            booked(evidence);
            bend(evidence);
        })
    };
    let estimated = |evidence: &mut Evidence| evidence.rows[0].flags = vec!["estimated".to_owned()];
    assert_eq!(found(|_| {}), "");
    assert!(found(|evidence| evidence.rows[0].cost_micros = Some(25)).contains("is charged 25"));
    assert!(found(|evidence| evidence.rows[0].cost_micros = Some(27)).contains("is charged 27"));
    assert!(found(|evidence| evidence.rows[0].held_micros = Some(25)).contains("and held 25"));
    assert!(
        found(|evidence| evidence.rows[0].state = "voided".to_owned()).contains("and is voided")
    );
    assert!(
        found(|evidence| evidence.served[0].books = Some(Books::free())).contains("and is settled")
    );
    let unseen = verdict(|evidence| {
        booked(evidence);
        estimated(evidence);
    });
    assert!(
        unseen.contains("unseen, and is charged 26 of a hold of 600"),
        "{unseen}"
    );
    let heard = verdict(|evidence| {
        booked(evidence);
        estimated(evidence);
        evidence.served[0].books.as_mut().unwrap().hidden = 0;
        evidence.rows[0].output_tokens = Some(4);
        evidence.heard[0].body = json!({"choices": [{"message": {"content": WORD.repeat(5)}}]})
            .to_string()
            .into();
    });
    assert!(heard.contains("was heard to say 5 words"), "{heard}");
}

#[test]
fn windows_that_differ_from_their_rows_are_found() {
    assert!(verdict(|evidence| evidence.me[0].1 = me(2, 0)).contains("sum to 1"));
    assert!(verdict(|evidence| evidence.me[0].1 = me(0, 0)).contains("sum to 1"));
    assert!(verdict(|evidence| evidence.me[0].1 = me(1, 1)).contains("held when all is quiet"));
    assert!(
        verdict(|evidence| evidence.rows[0].started_at = "2026-11-23T23:59:59Z".to_owned())
            .contains("sum to 0")
    );
    let seen = |limits: Value| {
        verdict(|evidence| {
            let mut told = answer(200, &json!({"limits": [limits]}), &[]);
            "GET /api/me".clone_into(&mut told.what);
            told.serial = None;
            evidence.heard.push(told);
        })
    };
    let limit = |used: i64, held: i64, remaining: i64| json!({"per": "day", "unit": "requests", "limit": 3, "used": used, "held": held, "remaining": remaining});
    assert!(seen(limit(2, 2, 0)).contains("above the limit"));
    assert!(seen(limit(-1, 0, 3)).contains("negative"));
    assert!(seen(limit(1, 1, 2)).contains("not what is left"));
    assert_eq!(seen(limit(1, 1, 1)), "");
}

#[test]
fn malformed_requests_to_the_upstream_are_found() {
    let sent = |bend: fn(&mut Seen)| {
        verdict(|evidence| {
            let mut seen = (*evidence.served[0].seen).clone();
            bend(&mut seen);
            evidence.served[0].seen = Arc::new(seen);
        })
    };
    assert!(sent(|seen| seen.request.faults.push("two lengths".to_owned())).contains("malformed"));
    assert!(
        sent(|seen| "Bearer eyJ.x.yyyyyy".clone_into(&mut seen.request.headers[1].1))
            .contains("another key")
    );
    let token = sent(|seen| "Bearer eyJ.x.yyyyyy".clone_into(&mut seen.request.headers[1].1));
    assert!(token.contains("a token is sent to the upstream"), "{token}");
    assert!(
        sent(|seen| seen.body["max_completion_tokens"] = Value::Null).contains("no output cap")
    );
    assert!(sent(|seen| seen.body["stream"] = json!(true)).contains("without usage"));
    assert!(sent(|seen| "/v1/files".clone_into(&mut seen.request.target)).contains("another path"));
}

#[test]
fn refusals_that_nobody_documented_are_found() {
    let refusal = |status: u16, kind: &str, code: &str, headers: &[(&str, &str)]| {
        let body = json!({"error": {"message": "m", "type": kind, "code": code, "param": null}});
        verdict(|evidence| {
            let mut told = answer(status, &body, headers);
            told.serial = None;
            evidence.heard.push(told);
        })
    };
    let code = ("x-tollgate-error", "missing_token");
    let asks = ("www-authenticate", r#"Bearer realm="tollgate""#);
    assert_eq!(
        refusal(401, "authentication_error", "missing_token", &[code, asks]),
        ""
    );
    for wrong in [
        "Bearer",
        r#"Bearer realm="tollgate", error="invalid_token""#,
    ] {
        let told = refusal(
            401,
            "authentication_error",
            "missing_token",
            &[code, ("www-authenticate", wrong)],
        );
        assert!(told.contains("WWW-Authenticate"), "{wrong}: {told}");
    }
    assert!(
        refusal(401, "authentication_error", "missing_token", &[code]).contains("WWW-Authenticate")
    );
    assert!(
        refusal(401, "authentication_error", "missing_token", &[]).contains("X-Tollgate-Error")
    );
    assert!(
        refusal(
            500,
            "api_error",
            "internal",
            &[("x-tollgate-error", "internal")]
        )
        .contains("nobody documented")
    );
    assert!(
        refusal(
            503,
            "api_error",
            "paused",
            &[("x-tollgate-error", "paused")]
        )
        .contains("Retry-After")
    );
    assert!(
        refusal(
            405,
            "invalid_request_error",
            "method_not_allowed",
            &[("x-tollgate-error", "method_not_allowed")]
        )
        .contains("Allow")
    );
    assert!(
        refusal(
            402,
            "insufficient_quota",
            "quota_exceeded",
            &[("x-tollgate-error", "quota_exceeded")]
        )
        .contains("names no plan")
    );
    assert!(verdict(|evidence| evidence.heard[0].headers.clear()).contains("X-Request-Id"));
}

#[test]
fn secrets_that_got_out_are_found() {
    assert!(
        verdict(|evidence| evidence.output.push_str("key=sk-operator"))
            .contains("the operator's key is in the output")
    );
    assert!(
        verdict(|evidence| evidence.heard[0].body = b"sk-operator".to_vec())
            .contains("is in an answer")
    );
    assert!(
        verdict(|evidence| evidence.operators[0].body = b"sk-operator".to_vec())
            .contains("is in an answer")
    );
    assert!(
        verdict(|evidence| evidence.files[0].1 = b"..eyJ.x.yyyyyy..".to_vec())
            .contains("is in the file")
    );
    assert!(
        verdict(|evidence| evidence.collected[0].body = b"\x0ahi there".to_vec())
            .contains("to the collector")
    );
    assert!(
        verdict(|evidence| evidence
            .output
            .push_str("thread 'main' panicked at src/x.rs"))
        .contains("panicked")
    );
    assert!(
        verdict(|evidence| evidence.panics = 1).contains("panicked"),
        "the panic that was wanted did not come"
    );
}

#[test]
fn a_secret_is_found_where_another_one_belongs() {
    let sent = |bend: fn(&mut Request)| {
        verdict(|evidence| {
            let mut seen = (*evidence.served[0].seen).clone();
            bend(&mut seen.request);
            evidence.served[0].seen = Arc::new(seen);
        })
    };
    let asked = |bend: fn(&mut Request)| verdict(|evidence| bend(&mut evidence.project[0]));
    assert!(
        sent(|request| request.body.extend(KEY.bytes()))
            .contains("the operator's key is sent to the upstream")
    );
    assert!(
        sent(|request| request.body.extend(JWT_SECRET.bytes())).contains("the JWT secret is sent")
    );
    assert!(sent(|request| request.headers[0].1.push_str("hi there")).contains("a prompt is sent"));
    assert!(
        sent(|request| request.target.push_str(SERVICE_KEY)).contains("the service key is sent")
    );
    assert!(
        asked(|request| request.body.extend(SERVICE_KEY.bytes()))
            .contains("the service key is sent")
    );
    assert!(
        asked(|request| request.headers[0].1.push_str(KEY))
            .contains("the operator's key is sent to the project")
    );
    let keys = asked(|request| "/auth/v1/.well-known/jwks.json".clone_into(&mut request.target));
    assert!(
        keys.contains("the service key is sent to the project"),
        "{keys}"
    );
}

#[test]
fn a_secret_is_found_in_every_encoding_wherever_it_begins() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let percent = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    let mut written = vec![
        JWT_SECRET
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        JWT_SECRET
            .bytes()
            .map(|byte| format!("{byte:02X}"))
            .collect(),
        JWT_SECRET.bytes().map(percent).collect(),
        JWT_SECRET
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect(),
        JWT_SECRET
            .bytes()
            .map(|byte| format!("\\u{byte:04x}"))
            .collect(),
        json!([JWT_SECRET]).to_string(),
        format!("{:?}", Some(JWT_SECRET)),
    ];
    for before in ["", "a", "ab", "abc"] {
        written.push(STANDARD.encode(format!("{before}{JWT_SECRET}")));
        written.push(URL_SAFE_NO_PAD.encode(format!("{before}{JWT_SECRET} and so on")));
    }
    for text in written {
        let found = verdict(|evidence| evidence.output.push_str(&text));
        assert!(
            found.contains("the JWT secret is in the output"),
            "{text}: {found}"
        );
    }
}
