//! The fake upstream's speech: what it bills, and the sound that it makes.

use serde_json::{Value, json};

use super::caller::{PROMPT_CANARY, chat, serial_in};
use super::reply::{Bill, Books, Reply, Step};
use super::upstream::Seen;

/// Its price: so many micro-dollars a character, fifteen dollars a million.
pub(crate) const MICROS: u64 = 15;
/// One piece of sound: no text, and none of it valid UTF-8.
pub(crate) const SOUND: [u8; 1024] = [0xFB; 1024];

/// A request to say a text, with a serial by which the oracle finds the upstream's line.
pub(crate) fn speak(text: &str) -> Value {
    let serial = serial_in(chat("").to_string().as_bytes()).unwrap();
    json!({
        "model": "voice",
        "input": format!("{text} {PROMPT_CANARY} ask-{serial};"),
        "voice": "alloy",
    })
}

/// What is billed as soon as a request is read, whatever becomes of it: each character of the input.
pub(crate) fn books(seen: &Seen) -> Books {
    let input = seen.body["input"].as_str().unwrap_or_default();
    let whole = Bill {
        other_micros: input.chars().count() as u64 * MICROS,
        ..Bill::default()
    };
    Books {
        whole,
        works_on: true,
        ..Books::default()
    }
}

/// Sound in these steps.
pub(crate) fn sound(seen: &Seen, media_type: &str, steps: Vec<Step>) -> Reply {
    let mut reply = Reply::events(steps).booked(books(seen));
    media_type.clone_into(&mut reply.headers[0].1);
    reply
}

/// An honest answer: four pieces of sound.
pub(crate) fn honest(seen: &Seen) -> Reply {
    sound(seen, "audio/mpeg", vec![Step::Body(SOUND.to_vec()); 4])
}
