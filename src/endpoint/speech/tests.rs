//! What is read of a request for speech, and what is held for it.

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::model::ModelTable;
use crate::plan::ImageCaps;
use crate::price::PriceTable;
use crate::prompt::Prompts;

/// One that is priced by characters, and one by tokens.
const MODELS: [&str; 2] = ["tts-1", "gpt-4o-mini-tts"];

fn parse(fields: &Value) -> Result<SpeechOrder, Refusal> {
    let mut body = json!({"input": "Grüß dich 👋", "voice": "alloy"});
    let members = body.as_object_mut().unwrap();
    members.extend(fields.as_object().unwrap().clone());
    let plan = Plan {
        name: "free".to_owned(),
        models: MODELS.map(str::to_owned).to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 8,
        max_choices: 1,
        images: ImageCaps::default(),
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: None,
        limits: Vec::new(),
    };
    let terms = Terms {
        plan: &plan,
        prices: &PriceTable::shipped_for(&MODELS.into()),
        models: &ModelTable::shipped(),
        prompts: &Prompts::new(),
        now: Timestamp::EPOCH,
        candidate: None,
    };
    SpeechOrder::parse(body.to_string().as_bytes(), &terms)
}

fn held(fields: &Value) -> Quantities {
    parse(fields).unwrap().quote(64).base
}

#[test]
fn the_code_points_of_the_input_are_what_is_held() {
    let of = |characters| Quantities {
        characters,
        ..Quantities::NONE
    };
    assert_eq!(held(&json!({})), of(11));
    assert_eq!(held(&json!({"instructions": "Whisper."})), of(11));
    assert_eq!(held(&json!({"input": "é".repeat(4096)})), of(4096));
}

#[test]
fn a_model_priced_in_tokens_is_held_by_the_rule() {
    let model = json!({"model": "gpt-4o-mini-tts", "input": "one two three"});
    let with = |fields: Value| {
        let mut body = model.clone();
        let members = body.as_object_mut().unwrap();
        members.extend(fields.as_object().unwrap().clone());
        held(&body)
    };
    let usual = with(json!({}));
    assert_eq!(
        (usual.input_tokens, usual.output_tokens, usual.characters),
        (3, 24, 13)
    );
    assert_eq!(usual.audio_output_tokens, usual.output_tokens);
    assert_eq!(with(json!({"speed": 0.25})).output_tokens, 96);
    assert_eq!(with(json!({"speed": 0.9})).output_tokens, 48);
    let told = with(json!({"instructions": "Say it like a pirate."}));
    assert!(told.input_tokens > 3 && told.output_tokens == 24);
}

#[test]
fn what_is_sent_is_what_was_understood() {
    let fields = json!({"voice": {"id": "voice_1"}, "speed": 1.5, "stream_format": "audio", "response_format": null});
    let order = parse(&fields).unwrap();
    let manner = Manner::from(crate::dialect::Dialect::Openai);
    let sent: Value = serde_json::from_slice(&order.body(0, manner, "hash")).unwrap();
    assert_eq!(
        sent,
        json!({"model": "tts-1", "input": "Grüß dich 👋", "voice": {"id": "voice_1"}, "speed": 1.5})
    );
}
