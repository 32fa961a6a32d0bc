//! `/v1/images/generations` and `/v1/images/edits` from the door: what they take, what is sent, held and charged.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, User, and};
use crate::support::door::Door;
use crate::support::pictures::{answer, books, draw, form, honest, parts, png, prompt, sent};
use crate::support::reply::{Bill, Books, Reply, Step};
use crate::support::settings::Settings;

const PATH: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";

/// A plan with a chat model, one that is paid in tokens, and two that are paid by the picture.
fn settings() -> Settings {
    Settings::new().with(
        r#"
        [plans.free]
        models = ["gpt-4o-mini", "gpt-image-2", "painter", "both"]
        max_images = 4
        max_image_size = "1536x1024"
        [prices.gpt-image-2]
        input = "5"
        cached_input = "1.25"
        image_input = "8"
        output = "30"
        endpoints = ["images"]
        [prices.painter]
        image = { "512x512-low" = "0.01", "1024x1024-low" = "0.02", "1024x1024-medium" = "0.04", "1024x1024-high" = "0.16" }
        endpoints = ["images"]
        [prices.both]
        input = "5"
        output = "30"
        image = { "1024x1024-medium" = "0.05" }
        endpoints = ["images"]
        "#,
    )
}

fn limited(limits: &str) -> Settings {
    settings().with(&format!("plans.free.limits = [{limits}]"))
}

fn call(user: &User, path: &str, body: &Value) -> Call {
    Call::post(path, body).bearer(&user.token)
}

async fn ask(user: &User, body: Value) -> Answer {
    user.post(PATH, &body).await
}

async fn edit(user: &User, fields: &[(&str, &[u8])]) -> Answer {
    user.front.send(edit_call(user, fields)).await
}

fn edit_call(user: &User, fields: &[(&str, &[u8])]) -> Call {
    let (kind, body) = form(fields);
    Call::new("POST", EDITS)
        .header("content-type", &kind)
        .bearer(&user.token)
        .bytes(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_charged_by_its_usage_at_the_prices_of_each_kind_of_token() {
    let door = Door::open(limited(r#"{ per = "day", images = 10 }"#)).await;
    let alice = door.user("alice");
    let body = and(
        draw("an otter"),
        &json!({"n": 2, "user": "somebody", "moderation": "low"}),
    );
    let answer = ask(&alice, body.clone()).await.expect(200);

    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer.header("content-type"), "application/json");
    let sent = door.upstream.last().seen.body.clone();
    // What is left to the model is the highest of the plan.
    assert_eq!(
        (&sent["size"], &sent["quality"]),
        (&json!("1536x1024"), &json!("medium"))
    );
    assert_eq!(
        (&sent["prompt"], &sent["n"], &sent["moderation"]),
        (&body["prompt"], &json!(2), &json!("low"))
    );
    let user = sent["user"].as_str().unwrap();
    assert!(user.len() >= 16 && user != "somebody", "{user}");
    let row = door.row(&answer).await;
    let bill = door.upstream.last().bill();
    assert_eq!(
        (row.endpoint.as_deref(), row.state.as_str(), row.images),
        (Some(PATH), "settled", Some(2))
    );
    assert_eq!(row.cost(), (bill.prompt * 5 + bill.completion * 30) as i64);
    assert!(
        row.flags.is_empty() && row.held_micros >= row.cost_micros,
        "{row:?}"
    );

    let listed = door.must(&["usage", "--requests", "--json"]);
    let listed: Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(
        (&listed["images"], &listed["image_output_tokens"]),
        (&json!(2), &json!(bill.completion))
    );
    let limit = &alice.me().await["limits"][0];
    assert_eq!(
        (&limit["unit"], &limit["used"]),
        (&json!("images"), &json!(2))
    );
    let usage = alice.get("/api/usage").await.expect(200).json();
    assert_eq!(usage["rows"][0]["images"], 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_charged_by_the_table_where_there_is_no_usage() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (model, asked, size, quality, micros) in [
        ("painter", json!({}), "1024x1024", "medium", 40_000),
        (
            "painter",
            json!({"size": "auto", "quality": "low", "n": 3}),
            "1024x1024",
            "low",
            60_000,
        ),
        (
            "painter",
            json!({"size": "512x512"}),
            "512x512",
            "low",
            10_000,
        ),
        ("both", json!({}), "1024x1024", "medium", 50_000),
    ] {
        door.upstream.next(move |seen| {
            let whole = Bill {
                other_micros: micros,
                ..Bill::default()
            };
            let books = Books {
                whole,
                works_on: true,
                ..Books::default()
            };
            Reply::status(200, "application/json", answer(seen, false).to_string()).booked(books)
        });
        let body = and(draw("an otter"), &asked);
        let heard = ask(&alice, and(body, &json!({"model": model})))
            .await
            .expect(200);
        let sent = door.upstream.last().seen.body.clone();
        assert_eq!(
            (&sent["size"], &sent["quality"]),
            (&json!(size), &json!(quality))
        );
        let row = door.row(&heard).await;
        assert_eq!(
            (row.cost(), row.tokens(), row.flags.len()),
            (micros as i64, 0, 0),
            "{row:?}"
        );
        assert_eq!(row.images, Some(asked["n"].as_i64().unwrap_or(1)));
    }
    // One that has both is charged what it reports.
    let heard = ask(&alice, and(draw("an otter"), &json!({"model": "both"})))
        .await
        .expect(200);
    let bill = door.upstream.last().bill();
    let row = door.row(&heard).await;
    assert_eq!(
        row.cost(),
        (bill.prompt * 5 + bill.completion * 30) as i64,
        "{row:?}"
    );

    // Without a table nobody can tell: what was held.
    door.upstream.next(|seen| {
        Reply::status(200, "application/json", answer(seen, false).to_string()).booked(books(seen))
    });
    let heard = ask(&alice, draw("an otter")).await.expect(200);
    let row = door.row(&heard).await;
    assert_eq!(
        (row.cost_micros, row.flags),
        (row.held_micros, vec!["estimated".to_owned()])
    );
    assert_eq!(row.images, Some(1));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_above_the_plan_or_not_taken_is_refused_by_name() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let cases = [
        (json!({"size": "1536x1536"}), "invalid_request", "size"),
        (json!({"size": "4096x4096"}), "invalid_request", "size"),
        (json!({"size": "big"}), "invalid_request", "size"),
        (json!({"quality": "high"}), "invalid_request", "quality"),
        (json!({"quality": "hd"}), "invalid_request", "quality"),
        (json!({"quality": "best"}), "invalid_request", "quality"),
        (json!({"n": 5}), "invalid_request", "n"),
        (json!({"n": 0}), "invalid_request", "n"),
        (json!({"n": "2"}), "invalid_request", "n"),
        (json!({"n": 1.5}), "invalid_request", "n"),
        (json!({"prompt": null}), "invalid_request", "prompt"),
        (json!({"prompt": ""}), "invalid_request", "prompt"),
        (
            json!({"prompt": "é".repeat(32_001)}),
            "invalid_request",
            "prompt",
        ),
        (
            json!({"partial_images": 4, "stream": true}),
            "invalid_request",
            "partial_images",
        ),
        (
            json!({"partial_images": 1}),
            "invalid_request",
            "partial_images",
        ),
        (
            json!({"output_format": "gif"}),
            "invalid_request",
            "output_format",
        ),
        (
            json!({"output_compression": 101}),
            "invalid_request",
            "output_compression",
        ),
        (
            json!({"background": "red"}),
            "invalid_request",
            "background",
        ),
        (
            json!({"moderation": "none"}),
            "invalid_request",
            "moderation",
        ),
        (json!({"style": "dull"}), "invalid_request", "style"),
        (
            json!({"response_format": "file"}),
            "invalid_request",
            "response_format",
        ),
        (json!({"stream": "yes"}), "invalid_request", "stream"),
        (json!({"seed": 1}), "unsupported_field", "seed"),
        (
            json!({"images": [{"image_url": "https://example.com/a.png"}]}),
            "unsupported_field",
            "images",
        ),
        (
            json!({"model": "painter", "size": "1024x512"}),
            "invalid_request",
            "size",
        ),
        (
            json!({"model": "painter", "size": "512x512", "quality": "medium"}),
            "invalid_request",
            "quality",
        ),
    ];
    for (fields, code, param) in cases {
        let answer = ask(&alice, and(draw("a"), &fields))
            .await
            .refused(400, code);
        let shown: String = fields.to_string().chars().take(80).collect();
        assert_eq!(
            answer.json()["error"]["param"],
            param,
            "{shown}: {}",
            answer.text()
        );
    }
    let chat = and(draw("a"), &json!({"model": "gpt-4o-mini"}));
    ask(&alice, chat).await.refused(403, "model_not_allowed");
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_byte_for_byte_and_its_last_event_is_charged() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let body = and(
        draw("an otter"),
        &json!({"stream": true, "partial_images": 2, "quality": "low"}),
    );
    let answer = ask(&alice, body).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let seen = door.upstream.last().seen;
    assert_eq!(
        answer.text(),
        crate::support::pictures::events(&seen).concat()
    );
    let row = door.row(&answer).await;
    let bill = door.upstream.last().bill();
    assert_eq!(row.cost(), (bill.prompt * 5 + bill.completion * 30) as i64);
    assert_eq!((row.images, row.flags.len()), (Some(1), 0), "{row:?}");

    // What fails before any picture is free, and told by an event of the form that clients know.
    door.upstream.next(|_| {
        let event = "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"No.\"}}\n\n";
        Reply::events(vec![Step::Body(event.into())]).booked(Books::free())
    });
    let body = and(draw("an otter"), &json!({"stream": true}));
    let answer = ask(&alice, body.clone()).await;
    let told: Value = serde_json::from_str(&answer.events()[0]).unwrap();
    assert!(
        answer.text().starts_with("event: error\n"),
        "{}",
        answer.text()
    );
    assert_eq!(
        (&told["type"], &told["error"]["code"]),
        (&json!("error"), &json!("upstream_error"))
    );
    assert_eq!(door.row(&answer).await.state, "voided");

    // What breaks off after a part of it is charged what was held.
    door.upstream.next(|seen| {
        let mut events = crate::support::pictures::events(seen);
        events.pop();
        let mut steps: Vec<_> = events
            .into_iter()
            .map(|event| Step::Body(event.into_bytes()))
            .collect();
        steps.push(Step::Close);
        Reply::events(steps).booked(books(seen))
    });
    let answer = ask(&alice, and(body, &json!({"partial_images": 1}))).await;
    let row = door.row(&answer).await;
    assert_eq!(
        (row.cost_micros, row.has("cut")),
        (row.held_micros, true),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_counts_its_pictures_and_takes_its_parts_in_any_order() {
    let door = Door::open(settings().with("plans.free.max_input_tokens = 60000")).await;
    let alice = door.user("alice");
    let (small, large) = (png(512, 512), png(2048, 1024));
    let text = prompt("a hat");
    let fields: [(&str, &[u8]); 6] = [
        ("name=\"image[]\"; filename=\"../../a.png\"", &small),
        ("name=\"n\"", b"2"),
        ("name=\"mask\"; filename=\"m\"", &small),
        ("name=\"prompt\"", text.as_bytes()),
        ("name=\"image[]\"; filename=\"b.jpg\"", &large),
        ("name=\"model\"", b"gpt-image-2"),
    ];
    for turn in 0..fields.len() {
        let mut fields = fields;
        fields.rotate_left(turn);
        // Of the pictures the order counts.
        let is_swapped = turn > 0 && turn < 5;
        let answer = edit(&alice, &fields).await.expect(200);
        let seen = door.upstream.last().seen;
        let parts = parts(&seen.request);
        let files: Vec<_> = parts.iter().filter(|part| part.file.is_some()).collect();
        let told: Vec<_> = files
            .iter()
            .map(|part| {
                (
                    part.name.as_str(),
                    part.file.as_deref().unwrap(),
                    part.data.len(),
                )
            })
            .collect();
        assert_eq!(
            told.iter().map(|told| (told.0, told.1)).collect::<Vec<_>>(),
            [
                ("image[]", "image-0.png"),
                ("image[]", "image-1.png"),
                ("mask", "mask.png")
            ]
        );
        assert!(
            files
                .iter()
                .all(|part| part.media_type.as_deref() == Some("image/png"))
        );
        let first = if is_swapped { &large } else { &small };
        assert_eq!(&files[0].data, first, "{turn}");
        let field = |name: &str| sent(&seen, name);
        assert_eq!(
            (
                field("n").as_deref(),
                field("size").as_deref(),
                field("quality").as_deref()
            ),
            (Some("2"), Some("1536x1024"), Some("medium"))
        );
        assert!(field("user").is_some_and(|user| user.len() >= 16));
        let row = door.row(&answer).await;
        let bill = door.upstream.last().bill();
        let cost = bill.prompt * 5 + bill.other_micros + bill.completion * 30;
        assert_eq!(
            (row.cost(), row.images, row.flags.len()),
            (cost as i64, Some(2), 0),
            "{row:?}"
        );
        assert!(row.held_micros > row.cost_micros);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_in_json_takes_pictures_inline() {
    let door = Door::open(settings().with("plans.free.max_input_tokens = 60000")).await;
    let alice = door.user("alice");
    let url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAgAAAAIACAYAAAA=";
    let body = and(
        draw("a hat"),
        &json!({"images": [{"image_url": url}], "mask": {"image_url": url}}),
    );
    let answer = alice.post(EDITS, &body).await.expect(200);
    let seen = door.upstream.last().seen;
    assert_eq!(
        seen.request.header("content-type"),
        Some("application/json")
    );
    assert_eq!(seen.body["images"], body["images"]);
    let row = door.row(&answer).await;
    assert_eq!((row.images, row.flags.len()), (Some(1), 0), "{row:?}");

    for (fields, code, param) in [
        (json!({"images": null}), "invalid_request", "images"),
        (json!({"images": []}), "invalid_request", "images"),
        (
            json!({"images": [{}]}),
            "invalid_request",
            "images[0].image_url",
        ),
        (
            json!({"images": [{"file_id": "file-1"}]}),
            "unsupported_field",
            "images[0].file_id",
        ),
        (
            json!({"images": [{"image_url": url}, {"image_url": "file:///a"}]}),
            "invalid_request",
            "images[1].image_url",
        ),
        (
            json!({"mask": {"file_id": "file-1"}}),
            "unsupported_field",
            "mask.file_id",
        ),
        (json!({"style": "vivid"}), "unsupported_field", "style"),
    ] {
        let refused = alice
            .post(EDITS, &and(body.clone(), &fields))
            .await
            .refused(400, code);
        assert_eq!(
            refused.json()["error"]["param"],
            param,
            "{}",
            refused.text()
        );
    }
    door.close().await;
}

/// What a part of a form is called, and what is in it.
type Part<'a> = (&'a str, &'a [u8]);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_form_is_refused_by_the_part_that_is_wrong() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let picture = png(512, 512);
    let image: Part<'_> = ("name=\"image\"; filename=\"a.png\"", &picture);
    let prompt: Part<'_> = ("name=\"prompt\"", b"a hat");
    let mask: Part<'_> = ("name=\"mask\"; filename=\"m.png\"", &picture);
    let cases: [(&[Part<'_>], &str); 9] = [
        (&[prompt], "image"),
        (&[image], "prompt"),
        (
            &[prompt, ("name=\"image\"; filename=\"a.png\"", b"GIF89a")],
            "image",
        ),
        (&[prompt, ("name=\"image\"", b"")], "image"),
        (&[prompt, image, ("name=\"n\"", b"two")], "n"),
        (&[prompt, image, ("name=\"n\"", b"5")], "n"),
        (&[prompt, image, ("name=\"size\"", b"4096x4096")], "size"),
        (&[prompt, image, mask, mask], "mask"),
        (&[prompt, prompt, image], "prompt"),
    ];
    for (fields, param) in cases {
        let refused = edit(&alice, fields).await.refused(400, "invalid_request");
        assert_eq!(
            refused.json()["error"]["param"],
            param,
            "{}",
            refused.text()
        );
    }
    let refused = edit(&alice, &[prompt, image, ("name=\"seed\"", b"1")]).await;
    let refused = refused.refused(400, "unsupported_field");
    assert_eq!(refused.json()["error"]["param"], "seed");
    let plain = Call::new("POST", EDITS).header("content-type", "text/plain");
    let plain = plain.bearer(&alice.token);
    assert_eq!(door.send(plain).await.status, 415);
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_images_is_never_passed_by_requests_at_once() {
    let door = Door::open(limited(r#"{ per = "day", images = 5 }"#)).await;
    let alice = door.user("alice");
    let watch = Door::watch(&alice);
    door.upstream
        .always(|seen| honest(seen).after(Duration::from_millis(150)));
    let asked = (0..10).map(|_| {
        let alice = alice.clone();
        tokio::spawn(async move { ask(&alice, and(draw("a"), &json!({"n": 2}))).await })
    });
    let mut drawn = 0;
    for answer in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        if answer.status == 200 {
            drawn += 1;
        } else {
            let refused = answer.refused(402, "quota_exceeded").json();
            assert_eq!(refused["error"]["limit"]["unit"], "images");
        }
    }
    assert_eq!((drawn, door.upstream.count()), (2, 2));
    drop(watch);
    ask(&alice, draw("a")).await.expect(200);
    ask(&alice, draw("a")).await.refused(402, "quota_exceeded");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_whose_caller_left_is_read_to_its_end_whatever_the_settings_say() {
    let abort = "proxy.on_disconnect = \"abort\"\nproxy.drain_timeout = \"1s\"";
    let door = Door::open(settings().with(abort)).await;
    let alice = door.user("alice");
    for stream in [false, true] {
        door.upstream.next(move |seen| {
            let wait = Duration::from_millis(1500);
            let mut reply = honest(seen);
            if stream {
                reply.steps.insert(1, Step::Wait(wait));
                return reply;
            }
            reply.after(wait)
        });
        let asked = door.upstream.count();
        let body = and(
            draw("a"),
            &json!({"stream": stream, "partial_images": if stream { json!(1) } else { Value::Null }}),
        );
        let begun = alice.front.begin(call(&alice, PATH, &body)).await.unwrap();
        door.upstream.until_served(asked + 1).await;
        if stream {
            let mut open = begun.head().await.unwrap();
            assert!(open.read_on().await);
            open.hang_up();
        } else {
            begun.hang_up();
        }
        door.upstream
            .until("the end", move |log| log[asked].finished)
            .await;
        let rows = door.quiet_rows().await;
        let row = rows
            .iter()
            .max_by_key(|row| row.started_at.clone())
            .unwrap();
        let bill = door.upstream.last().bill();
        assert_eq!(
            row.cost(),
            (bill.prompt * 5 + bill.completion * 30) as i64,
            "{row:?}"
        );
        assert_eq!(row.flags, ["cancelled"], "{row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_with_a_key_is_there_for_who_comes_back() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    door.upstream
        .always(|seen| honest(seen).after(Duration::from_millis(500)));
    let body = draw("a");
    let keyed = call(&alice, PATH, &body).header("Idempotency-Key", "draw-1");
    let begun = alice.front.begin(keyed.clone()).await.unwrap();
    door.upstream.until_served(1).await;
    begun.hang_up();
    door.upstream.until("the end", |log| log[0].finished).await;
    let row = door.quiet_rows().await.remove(0);

    let kept = alice
        .get(&format!("/api/answers/{}", row.id))
        .await
        .expect(200);
    assert_eq!(kept.json()["data"].as_array().unwrap().len(), 1);
    let again = door.send(keyed).await.expect(200);
    assert_eq!(
        (again.header("idempotent-replayed"), &again.body),
        ("true", &kept.body)
    );
    assert_eq!(door.upstream.count(), 1);

    // A form is the same whatever its boundary is.
    let picture = png(512, 512);
    let fields: [(&str, &[u8]); 2] = [
        ("name=image; filename=a.png", &picture),
        ("name=prompt", b"a hat"),
    ];
    let first = edit_call(&alice, &fields).header("Idempotency-Key", "edit-1");
    door.send(first).await.expect(200);
    let (kind, mut sent) = form(&fields);
    while let Some(at) = sent.windows(5).position(|window| window == b"--x-1") {
        sent[at..at + 5].copy_from_slice(b"--y-2");
    }
    let other = Call::new("POST", EDITS).header("content-type", &kind.replace("x-1", "y-2"));
    let other = other
        .bearer(&alice.token)
        .bytes(sent)
        .header("Idempotency-Key", "edit-1");
    let again = door.send(other).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}
