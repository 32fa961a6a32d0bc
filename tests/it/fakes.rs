//! The fakes are tried before the product is: a fake that lies makes every other test worthless.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Call, Front, and, chat, chat_stream};
use crate::support::jwks::{Publish, Supabase};
use crate::support::keys::{self, Key};
use crate::support::reply::{Bill, Reply, Step, Talk};
use crate::support::upstream::Upstream;
use crate::support::{raw, tokens, wire};

fn front_of(url: &str) -> Arc<Front> {
    let address: SocketAddr = url
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .parse()
        .unwrap();
    Arc::new(Front::new(address))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_answers_streams_and_logs_what_it_would_bill() {
    let upstream = Upstream::start().await;
    let front = front_of(upstream.base_url());
    let body = and(
        chat_stream("hello there"),
        &json!({"max_tokens": 3, "stream_options": {"include_usage": true}}),
    );
    let serial = crate::support::caller::serial_in(body.to_string().as_bytes());

    let answer = front
        .send(Call::post("/v1/chat/completions", &body))
        .await
        .expect(200);

    assert_eq!(answer.said(), " alpha alpha alpha");
    let events = answer.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    let served = upstream.last();
    assert_eq!(
        served.bill(),
        Bill {
            prompt: 10,
            cached: 0,
            completion: 3,
            ..Bill::default()
        }
    );
    assert_eq!(
        (served.finished, served.peer_left, served.seen.serial()),
        (true, false, serial)
    );
    assert!(
        served.seen.request.faults.is_empty(),
        "{:?}",
        served.seen.request
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_breaks_off_where_it_is_told_and_sees_who_leaves() {
    let upstream = Upstream::start().await;
    let front = front_of(upstream.base_url());
    upstream.next(|seen| Talk::words(9).cut(2, Step::Reset).reply(seen));
    upstream.next(|_| Reply::headless(Step::Reset));
    upstream.next(|_| Reply::headless(Step::Stall));

    let mut open = front
        .open(Call::post("/v1/chat/completions", &chat_stream("a")))
        .await
        .unwrap();
    let blocks = open.take(99).await;
    assert!(
        blocks.len() <= 3,
        "the role and two words at most: {blocks:?}"
    );
    assert!(
        front
            .try_send(Call::post("/v1/chat/completions", &chat("b")))
            .await
            .is_err()
    );
    let begun = front
        .begin(Call::post("/v1/chat/completions", &chat("c")))
        .await
        .unwrap();
    upstream.until_served(3).await;
    begun.hang_up();

    upstream
        .until("the caller leave", |log| log[2].peer_left)
        .await;
    let log = upstream.log();
    assert_eq!(
        (log[0].generated, log[0].billed, log[0].finished),
        (2, None, false)
    );
    assert_eq!((log[1].answered, log[2].answered), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_splits_events_at_every_byte_and_bends_its_usage() {
    let upstream = Upstream::start().await;
    let front = front_of(upstream.base_url());
    upstream.always(|seen| {
        Talk::words(2)
            .slice(1)
            .crlf()
            .usage(r#"{"prompt_tokens":-1}"#)
            .reply(seen)
    });
    let body = and(
        chat_stream("a"),
        &json!({"stream_options": {"include_usage": true}}),
    );

    let answer = front
        .send(Call::post("/v1/chat/completions", &body))
        .await
        .expect(200);

    assert!(
        answer
            .text()
            .contains("\"usage\":{\"prompt_tokens\":-1}}\r\n\r\ndata: [DONE]\r\n\r\n"),
        "{}",
        answer.text()
    );
    let plain = front
        .send(Call::post("/v1/chat/completions", &chat("a")))
        .await
        .expect(200);
    assert_eq!(plain.json()["usage"]["prompt_tokens"], -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_notes_what_no_honest_client_sends() {
    let upstream = Upstream::start().await;
    let address = front_of(upstream.base_url()).address();
    let mut wire = raw::Wire::open(address).await;
    let smuggled = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    wire.send(smuggled).await.unwrap();
    let (text, _) = wire.read(Duration::from_millis(300)).await;

    assert_eq!(raw::statuses(&text)[0], 200);
    assert!(!upstream.log()[0].seen.request.faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn supabase_publishes_counts_and_fails_as_told() {
    let supabase = Supabase::start().await;
    let front = front_of(supabase.url());
    let path = "/auth/v1/.well-known/jwks.json";
    let key = Key::es256("one");
    assert_eq!(
        front.send(Call::get(path)).await.json(),
        json!({"keys": []})
    );

    supabase.publish(Publish::Keys(vec![key.jwk()]));
    assert_eq!(
        front.send(Call::get(path)).await.json()["keys"][0]["kid"],
        "one"
    );
    supabase.publish(Publish::Answer(200, "text/html", "<html>"));
    assert_eq!(front.send(Call::get(path)).await.text(), "<html>");
    supabase.publish(Publish::Down);
    assert!(front.try_send(Call::get(path)).await.is_err());

    assert_eq!(supabase.fetches(), 4);
    assert_eq!(supabase.requests().len(), 4);
}

#[test]
fn tokens_of_every_kind_verify_under_the_key_that_is_published() {
    for key in [Key::es256("e"), Key::rs256("r"), Key::eddsa("d")] {
        let token = tokens::sign(
            &key,
            &tokens::claims("alice", "https://x.test/auth/v1", tokens::now()),
        );
        let header = jsonwebtoken::decode_header(&token).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwk()).unwrap();
        let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let mut validation = jsonwebtoken::Validation::new(header.alg);
        validation.set_audience(&["authenticated"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &decoding, &validation)
            .unwrap()
            .claims;
        assert_eq!(claims["sub"], tokens::user_id("alice").to_string());
    }
}

#[test]
fn a_signature_in_der_begins_as_a_sequence_of_its_length() {
    let der = keys::der_signature(&[0x80; 64]);
    assert_eq!(&der[..4], &[0x30, 70, 2, 33]);
    assert_eq!(der.len(), 72);
}

#[test]
fn chunks_are_framed() {
    assert_eq!(
        wire::chunk(b"hello world, 16!"),
        b"10\r\nhello world, 16!\r\n"
    );
}
