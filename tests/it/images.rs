//! Images inline: read as browsers read them, bounded by their real size, refused by their place.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::door::Door;
use crate::support::settings::Settings;

/// The file of a phone's photo: a thumbnail within its EXIF, a progressive frame, and some megabytes of noise.
fn photo(width: u16, height: u16) -> Vec<u8> {
    let thumbnail = [&b"\xFF\xD8\xFF\xC0\0\x0B\x08\0\x78\0\xA0\x01\x01\x11\0\xFF\xD9"[..]].concat();
    let exif = [&b"Exif\0\0MM\0*\0\0\0\x08"[..], &thumbnail].concat();
    let length = u16::try_from(exif.len() + 2).unwrap();
    let sizes = [height.to_be_bytes(), width.to_be_bytes()].concat();
    let pixels = vec![0x5A; 2_500_000];
    [
        &b"\xFF\xD8\xFF\xE1"[..],
        &length.to_be_bytes(),
        &exif,
        b"\xFF\xC2\0\x11\x08",
        &sizes,
        &[3; 10],
        &pixels,
    ]
    .concat()
}

fn ask(url: &str) -> Value {
    let parts = json!([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]);
    json!({"messages": [{"role": "user", "content": parts}]})
}

/// The quick start's settings, with the fake in OpenAI's place.
fn built_in() -> Settings {
    Settings::without_file().env("TOLLGATE_UPSTREAMS__0__DIALECT", "openai")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phones_photo_fits_the_built_in_plan() {
    let door = Door::open(built_in()).await;
    let alice = door.user("alice");
    for (width, height) in [(4032, 3024), (3024, 4032)] {
        let url = format!(
            "data:image/jpeg;base64,{}",
            STANDARD.encode(photo(width, height))
        );
        let answer = alice.ask(ask(&url)).await.expect(200);
        let held = door.row(&answer).await.held_micros.unwrap();
        assert!(
            (1_200..3_000).contains(&held),
            "10,000 patches at 1.2 tokens, some words and 1,024 of output: {held}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_url_is_read_by_the_rule_of_browsers_and_sent_in_one_form() {
    let door = Door::open(built_in()).await;
    let alice = door.user("alice");
    let encoded = STANDARD.encode(include_bytes!("../../src/endpoint/images/plain.jpg"));
    let lines = encoded
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect::<Vec<_>>();
    let forms = [
        format!("data:image/jpg;base64,{encoded}"),
        format!("data:image/JPEG;base64,{}", lines.join("\r\n")),
        format!(
            " data:image/jpeg;name=a.jpg;charset=utf-8 ; base64,{}\n",
            lines.join("\n")
        ),
        format!("DATA:image/jpeg;base64,{}", encoded.trim_end_matches('=')),
        format!(
            "data:image/jpeg;base64,{}",
            encoded.replace('+', "%2B").replace('/', "%2f")
        ),
    ];
    for url in forms {
        alice.ask(ask(&url)).await.expect(200);
        let sent = &door.upstream.last().seen.body["messages"][0]["content"][1]["image_url"]["url"];
        assert_eq!(
            *sent,
            json!(format!("data:image/jpeg;base64,{encoded}")),
            "{url:.60}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_image_is_named() {
    let door = Door::open(built_in()).await;
    let alice = door.user("alice");
    let cases = [
        // No header that says its size.
        (
            "data:image/png;base64,AAAA",
            1,
            "messages[0].content[1].image_url.url",
        ),
        (
            "data:image/svg+xml;base64,AAAA",
            1,
            "messages[0].content[1].image_url.url",
        ),
        // Of unknown size, each the most that the model bills: 12,000.
        (
            "https://example.com/a.png",
            3,
            "messages[0].content[1].image_url",
        ),
    ];
    for (url, count, param) in cases {
        let mut body = ask(url);
        let parts = body["messages"][0]["content"].as_array_mut().unwrap();
        parts.resize(1 + count, parts[1].clone());
        let answer = alice.ask(body).await.expect(400);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text());
    }
    assert_eq!(door.upstream.count(), 0);
    door.close().await;
}
