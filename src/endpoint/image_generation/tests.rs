//! Which size and quality is chosen, and that what is held is above what images are billed as.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers, in tests")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::endpoint::Route;
use crate::model::ModelTable;
use crate::plan::{ImageCaps, ImageQuality, ImageSize};
use crate::price::{PriceTable, Rate};
use crate::prompt::Prompts;

/// What the plan allows.
fn caps(size: &str, quality: ImageQuality) -> ImageCaps {
    ImageCaps {
        most: 4,
        size: ImageSize::parse(size).unwrap(),
        quality,
    }
}

fn parse(caps: ImageCaps, fields: &Value) -> Result<ImagesOrder, Refusal> {
    let names = [
        "gpt-image-1.5",
        "gpt-image-2",
        "gpt-image-2.5-flare",
        "painter",
    ];
    let mut prices = PriceTable::shipped_for(&names.into());
    let mut painter = Price::default();
    for (kind, micros) in [
        ("1024x1024-standard", 40_000),
        ("1024x1024-hd", 80_000),
        ("1024x1792-hd", 120_000),
        ("1792x1024-hd", 120_000),
        ("256x256", 16_000),
    ] {
        painter.images.insert(kind.to_owned(), Rate(micros));
    }
    prices.models.insert("painter".to_owned(), painter);
    let plan = Plan {
        name: "free".to_owned(),
        models: names.map(str::to_owned).to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 1000,
        max_choices: 1,
        images: caps,
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: None,
        limits: Vec::new(),
    };
    let mut body = json!({"prompt": "an otter"});
    let members = body.as_object_mut().unwrap();
    members.extend(fields.as_object().unwrap().clone());
    let incoming = Incoming {
        route: Route::plain("/v1/images/generations"),
        content_type: None,
        body: Bytes::from(body.to_string()),
    };
    let terms = Terms {
        plan: &plan,
        prices: &prices,
        models: &ModelTable::shipped().with_endpoints("painter", vec![Capability::Images]),
        prompts: &Prompts::new(),
        now: Timestamp::EPOCH,
        candidate: None,
    };
    ImagesOrder::parse(&incoming, Operation::Generation, &terms)
}

/// What is sent for what the caller leaves to the model.
fn chosen(caps: ImageCaps, fields: &Value) -> (String, Option<String>) {
    let order = parse(caps, fields).unwrap();
    (order.kind.size_word, order.kind.quality_word)
}

fn param(caps: ImageCaps, fields: &Value) -> Option<String> {
    parse(caps, fields).unwrap_err().param
}

fn words(size: &str, quality: &str) -> (String, Option<String>) {
    (size.to_owned(), Some(quality.to_owned()))
}

#[test]
fn what_is_left_open_is_the_highest_of_the_plan_that_the_model_has() {
    use ImageQuality::{High, Low, Max, Medium};
    for (model, size, quality, expected) in [
        (
            "gpt-image-2",
            "1024x1024",
            Medium,
            words("1024x1024", "medium"),
        ),
        ("gpt-image-2", "3840x2160", Max, words("3840x2160", "high")),
        (
            "gpt-image-2.5-flare",
            "2048x2048",
            Max,
            words("2048x2048", "max"),
        ),
        ("gpt-image-1.5", "1024x1024", Low, words("1024x1024", "low")),
        (
            "gpt-image-1.5",
            "4096x4096",
            Max,
            words("1024x1536", "high"),
        ),
        (
            "gpt-image-1.5",
            "1536x1024",
            High,
            words("1536x1024", "high"),
        ),
        (
            "painter",
            "1024x1024",
            Medium,
            words("1024x1024", "standard"),
        ),
        ("painter", "1024x1024", High, words("1024x1024", "hd")),
        ("painter", "1024x1792", High, words("1024x1792", "hd")),
        ("painter", "512x512", High, ("256x256".to_owned(), None)),
    ] {
        let caps = caps(size, quality);
        for open in [
            json!({}),
            json!({"size": "auto", "quality": "auto"}),
            json!({"size": null}),
        ] {
            let mut fields = open;
            fields["model"] = json!(model);
            assert_eq!(
                chosen(caps, &fields),
                expected,
                "{model} {size} {quality:?}"
            );
        }
    }
    let small = caps("512x512", High);
    assert_eq!(
        param(small, &json!({"model": "gpt-image-1.5"})).as_deref(),
        Some("size")
    );
    assert_eq!(
        param(caps("128x128", High), &json!({"model": "painter"})).as_deref(),
        Some("size")
    );
}

#[test]
fn what_is_above_the_plan_is_refused_by_area_and_by_quality() {
    let caps = caps("1024x1024", ImageQuality::Medium);
    for (fields, refused) in [
        (json!({"size": "2048x512"}), None),
        (json!({"size": "1025x1024"}), Some("size")),
        (json!({"quality": "standard"}), None),
        (json!({"quality": "high"}), Some("quality")),
        (json!({"quality": "xhigh"}), Some("quality")),
        (json!({"model": "painter", "quality": "standard"}), None),
        (
            json!({"model": "painter", "size": "1024x1024", "quality": "medium"}),
            Some("quality"),
        ),
        (
            json!({"model": "painter", "size": "256x256", "quality": "low"}),
            None,
        ),
        (json!({"model": "painter", "size": "512x512"}), Some("size")),
    ] {
        let mut fields = fields;
        if fields["model"].is_null() {
            fields["model"] = json!("gpt-image-2");
        }
        let told = parse(caps, &fields).err().and_then(|refusal| refusal.param);
        assert_eq!(told.as_deref(), refused, "{fields}");
    }
}

#[test]
fn an_answer_that_would_be_too_long_is_not_ordered() {
    let caps = caps("3840x2160", ImageQuality::High);
    let large = |fields: Value| {
        let mut fields = fields;
        (fields["model"], fields["size"]) = (json!("gpt-image-2"), json!("3840x2160"));
        parse(caps, &fields).err().and_then(|refusal| refusal.param)
    };
    assert_eq!(large(json!({})), None);
    assert_eq!(large(json!({"n": 2})).as_deref(), Some("n"));
    assert_eq!(large(json!({"n": 2, "output_format": "jpeg"})), None);
}

#[test]
fn a_kind_has_its_price_of_the_table_and_no_tokens_without_a_price_for_them() {
    let caps = caps("1024x1024", ImageQuality::High);
    let order = parse(caps, &json!({"model": "painter", "n": 3})).unwrap();
    let quote = order.quote(64);
    assert_eq!(quote.price.rates.image, Rate(80_000));
    assert_eq!((quote.base.images, quote.base.output_tokens), (3, 0));
    assert_eq!(quote.price.bound(&quote.base).0, 240_000);
}

proptest! {
    /// The published counts, and what gpt-image-2 costs, are within the bound at every size.
    #[test]
    fn no_image_has_more_tokens_than_are_held(
        n in 1_u64..=4, partial in 0_u64..=3, width in 16_u64..=240, height in 16_u64..=135, rank in 0_usize..3,
    ) {
        let caps = caps("3840x2160", ImageQuality::High);
        let (width, height) = (width * 16, height * 16);
        let quality = ImageQuality::ALL[rank].as_str();
        let fields = json!({
            "model": "gpt-image-2", "n": n, "size": format!("{width}x{height}"), "quality": quality,
            "stream": true, "partial_images": partial, "output_format": "jpeg",
        });
        let Ok(order) = parse(caps, &fields) else { return Ok(()) };
        let dearest = [200, 1_767, 7_033][rank] * (width * height).max(1 << 20) / (1 << 20) + 100 * partial;
        prop_assert!(order.quote(64).base.output_tokens >= n * dearest);
        for (size, tokens) in [
            ("1024x1024", [272, 1_056, 4_160]), ("1024x1536", [408, 1_584, 6_240]), ("1536x1024", [400, 1_568, 6_208]),
        ] {
            let fields = json!({"model": "gpt-image-1.5", "n": n, "size": size, "quality": quality});
            let held = parse(caps, &fields).unwrap().quote(64).base;
            prop_assert!(held.output_tokens >= n * tokens[rank]);
            prop_assert_eq!(held.image_output_tokens, held.output_tokens);
        }
    }
}
