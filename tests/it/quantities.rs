//! What a row says of a request beside its tokens: the model that was asked for, the feature, who paid, and by which rates,
//! so that it can be priced again from the ledger alone.

use serde_json::{Value, json};

use crate::operator_commands::by_hand;
use crate::support::caller::{and, chat};
use crate::support::door::Door;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// The built-in plan, with the fake in OpenAI's place.
fn settings() -> Settings {
    Settings::without_file().env("TOLLGATE_UPSTREAMS__0__DIALECT", "openai")
}

fn objects(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_says_what_was_asked_for_by_which_feature_and_by_which_rates_it_was_priced() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let body = and(chat("Hello!"), &json!({"model": "gpt-3.5-turbo"}));
    let call = alice.call(&body).header("X-Tollgate-Feature", "coach");
    door.send(call).await.expect(200);
    let plain = and(chat("Hello!"), &json!({"model": "gpt-6-luna"}));
    alice.ask(plain).await.expect(200);
    door.quiet_rows().await;

    let rows = objects(&door.must(&["usage", "--requests", "--json"]));
    assert_eq!(rows[0]["model"], "gpt-6-luna");
    assert_eq!(rows[0]["requested_model"], "gpt-3.5-turbo");
    assert_eq!(rows[0]["feature"], "coach");
    assert_eq!(rows[1]["requested_model"], "gpt-6-luna");
    assert_eq!(rows[1]["feature"], Value::Null);
    assert_eq!(rows[0]["price_id"], rows[1]["price_id"]);
    assert_eq!(rows[0]["price_id"].as_str().unwrap().len(), 16);
    for row in &rows {
        assert_eq!(
            (&row["paid_by"], &row["prompt_version"]),
            (&json!("plan"), &Value::Null)
        );
        for name in [
            "cache_write_tokens",
            "cache_write_1h_tokens",
            "image_input_tokens",
            "cached_image_input_tokens",
            "image_output_tokens",
            "audio_input_tokens",
            "audio_output_tokens",
            "audio_seconds",
            "characters",
            "images",
        ] {
            assert_eq!(row[name], 0, "{name}");
        }
    }
    let by = |key: &str| objects(&door.must(&["usage", "--by", key, "--json"]));
    let features = by("feature");
    assert_eq!(features.len(), 2);
    assert!(
        features
            .iter()
            .any(|row| row["feature"] == "coach" && row["requests"] == 1)
    );
    assert!(
        features
            .iter()
            .any(|row| row["feature"] == "" && row["requests"] == 1)
    );
    let [endpoint] = by("endpoint").try_into().unwrap();
    assert_eq!(
        (&endpoint["endpoint"], &endpoint["requests"]),
        (&json!("/v1/chat/completions"), &json!(2))
    );

    let told = door.must(&["ledger", "check"]);
    assert!(told.contains("2 requests priced again"), "{told}");
    door.close().await;
}

/// Rates are named by their digest, and a row is priced again at those that it names: neither can be changed unseen.
async fn rates_that_were_changed_are_found(settings: Settings, is_file: bool) {
    let door = Door::open(settings).await;
    door.user("alice").ask(chat("Hello!")).await.expect(200);
    door.quiet_rows().await;
    let told = door.must(&["ledger", "check"]);
    assert!(told.contains("1 requests priced again"), "{told}");
    let row = objects(&door.must(&["usage", "--requests", "--json"])).remove(0);
    let id = row["price_id"].as_str().unwrap();
    let broken = || {
        let found = door.tollgate(&["ledger", "check", "--json"]);
        assert_ne!(found.code, Some(0), "{found:?}");
        let told = objects(&found.stdout).remove(0);
        let named = told["named"].as_array().unwrap().iter();
        named
            .map(|broken| {
                assert_eq!(broken["law"], 8, "{broken}");
                format!("{} {}", broken["what"], broken["why"])
            })
            .collect::<Vec<_>>()
    };
    // Other rates under the same name: they are told, and so is each row that is not charged by them.
    let set = |to: &str| format!("update prices set rates = {to} where id = '{id}'");
    by_hand(
        &door,
        is_file,
        &set(r#"replace(rates, '"output":', '"output":1')"#),
    )
    .await;
    let told = broken();
    assert!(
        told.len() == 2
            && told[0].contains("not what they were")
            && told[1].contains("it is charged"),
        "{told:?}"
    );
    by_hand(
        &door,
        is_file,
        &set(r#"replace(rates, '"output":1', '"output":')"#),
    )
    .await;
    // Other rates by their right name.
    let rates = r#"{"input":1,"output":1}"#;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rates.as_bytes());
    let other: String = digest.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let rename = |from: &str, to: &str| {
        format!("update requests set price_id = '{to}' where price_id = '{from}'")
    };
    by_hand(&door, is_file, &rename(id, &other)).await;
    let told = broken();
    assert!(
        told.len() == 1 && told[0].contains("which the ledger has not"),
        "{told:?}"
    );
    let before = stored(&door, is_file).await;
    let put = |id: &str, rates: &str| format!("update prices set id = '{id}', rates = '{rates}'");
    by_hand(&door, is_file, &put(&other, rates)).await;
    let told = broken();
    assert!(
        told.len() == 1 && told[0].contains("it is charged"),
        "{told:?}"
    );
    by_hand(&door, is_file, &put(id, &before)).await;
    by_hand(&door, is_file, &rename(&other, id)).await;
    door.must(&["ledger", "check"]);
    door.close().await;
}

/// The rates of a ledger that has one price.
async fn stored(door: &Door, is_file: bool) -> String {
    if is_file {
        let ledger = rusqlite::Connection::open(door.directory().join("data/tollgate.db")).unwrap();
        return ledger
            .query_row("select rates from prices", [], |row| row.get(0))
            .unwrap();
    }
    let sql = "select rates from tollgate_ledger.prices";
    let client = door.database().connect().await;
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_in_a_file_that_were_changed_are_found() {
    rates_that_were_changed_are_found(settings().on_sqlite(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_on_postgres_that_were_changed_are_found() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    rates_that_were_changed_are_found(settings().on_postgres(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_is_one_short_plain_name_or_the_request_is_refused() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let long = "a".repeat(33);
    for wrong in ["", "Coach", "a b", "ä", "a.b", &long] {
        let call = alice.call(&chat("x")).header("X-Tollgate-Feature", wrong);
        let answer = door.send(call).await.refused(400, "invalid_request");
        assert_eq!(
            answer.json()["error"]["param"],
            "X-Tollgate-Feature",
            "{wrong:?}"
        );
    }
    let twice = alice
        .call(&chat("x"))
        .header("X-Tollgate-Feature", "a")
        .header("X-Tollgate-Feature", "b");
    door.send(twice).await.refused(400, "invalid_request");
    assert_eq!(door.upstream.count(), 0);
    let longest = alice
        .call(&chat("x"))
        .header("X-Tollgate-Feature", &long[1..]);
    door.send(longest).await.expect(200);
    door.close().await;
}
