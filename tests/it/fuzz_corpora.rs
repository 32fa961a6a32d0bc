//! What fuzzing has kept: every input of `fuzz/corpus` again, without an engine. `just fuzz` looks for more.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::pedantic,
    reason = "it is a crate of its own, used here in part"
)]
mod targets;

/// Tries every input of a target, and says which one it was that broke a promise.
fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut tried = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let held = std::panic::catch_unwind(|| check(&input));
        assert!(held.is_ok(), "{} breaks a promise", path.display());
        tried += 1;
    }
    assert!(tried > 10, "only {tried} inputs in {}", directory.display());
}

#[test]
fn kept_tokens_let_in_only_whom_another_library_would() {
    replay("token", targets::token::check);
}

#[test]
fn kept_bodies_are_sent_as_they_are_priced() {
    replay("order", targets::order::check);
}

#[test]
fn kept_streams_pass_the_same_however_they_are_cut() {
    replay("stream", targets::stream::check);
}

#[test]
fn kept_answers_are_charged_what_they_say() {
    replay("usage", targets::usage::check);
}

#[test]
fn kept_settings_are_taken_or_each_fault_has_its_place() {
    replay("config", targets::config::check);
}
