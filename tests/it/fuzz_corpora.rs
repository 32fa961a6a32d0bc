//! What fuzzing has kept: every input of `fuzz/corpus` again, without an engine. `just fuzz` looks for more.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::reply::{Reply, Step};
use crate::support::responses::{Play, Server};
use crate::support::upstream::Seen;
use crate::support::wire::Request;
use crate::support::zoo::{FAMILIES, Habit, Scene, Trouble};

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
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
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
fn kept_responses_pass_the_same_however_they_are_cut() {
    replay("responses", targets::responses::check);
}

#[test]
fn kept_answers_are_charged_what_they_say() {
    replay("usage", targets::usage::check);
}

#[test]
fn kept_files_of_audio_have_a_length() {
    replay("audio", targets::audio::check);
}

#[test]
fn kept_forms_are_sent_as_they_are_held() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    replay("multipart", |form| {
        TAKEN.fetch_add(targets::multipart::taken(form), Ordering::Relaxed);
    });
    assert!(
        TAKEN.load(Ordering::Relaxed) >= 8,
        "most kept forms are refused: {TAKEN:?}"
    );
}

#[test]
fn kept_images_have_one_size() {
    replay("image_size", targets::image_size::check);
}

#[test]
fn kept_settings_are_taken_or_each_fault_has_its_place() {
    replay("config", targets::config::check);
}

#[test]
fn kept_webhooks_prove_nothing_without_a_secret_and_are_read_or_refused() {
    replay("webhooks", targets::webhooks::check);
}

#[test]
fn kept_raw_answers_are_read_the_same_however_they_are_cut() {
    replay("http1", targets::http1::check);
}

/// The body of an answer.
fn body(reply: &Reply) -> Vec<u8> {
    let bytes = |step: &Step| match step {
        Step::Body(bytes) | Step::Generated(bytes, _) => bytes.clone(),
        _ => Vec::new(),
    };
    reply.steps.iter().flat_map(bytes).collect()
}

/// What the zoo answers, by the target that reads it and a name.
fn answers_of_the_zoo() -> Vec<(String, Vec<u8>)> {
    let mut answers = Vec::new();
    let scene = Scene {
        thinks: 3,
        cached: true,
        ..Scene::words(4)
    };
    for family in FAMILIES {
        let mut say = |what: &str, scene: &Scene| {
            for (target, stream) in [("usage", false), ("stream", true)] {
                let message = json!({"role": "user", "content": "tell me about it"});
                let body_of =
                    json!({"model": family.thinks(), "messages": [message], "stream": stream});
                let seen = Seen {
                    request: Request::default(),
                    body: body_of,
                };
                let name = format!("{target}/zoo-{}{what}", family.name);
                answers.push((name, body(&family.reply(scene, &seen))));
            }
        };
        say("", &scene);
        say(
            "-tool",
            &Scene {
                calls_a_tool: true,
                ..scene.clone()
            },
        );
        say("-error", &Scene::trouble(Trouble::ErrorFirst));
        if family.name == "groq" {
            for habit in Habit::ALL {
                say(
                    &format!("-{habit:?}"),
                    &Scene {
                        habit: *habit,
                        ..scene.clone()
                    },
                );
            }
        }
    }
    answers.extend(responses_of_the_servers());
    answers
}

/// What the servers that speak OpenAI's Responses answer, streamed and whole.
fn responses_of_the_servers() -> impl Iterator<Item = (String, Vec<u8>)> {
    let plays = |server: &'static Server| {
        let plain = Play {
            thinks: 3,
            ..Play::words(4)
        };
        [
            ("", plain.clone()),
            (
                "-tool",
                Play {
                    calls: true,
                    ..plain.clone()
                },
            ),
            (
                "-fails",
                Play {
                    fails: Some((2, false)),
                    ..plain.clone()
                },
            ),
            (
                "-whole",
                Play {
                    other_form: true,
                    ..plain
                },
            ),
        ]
        .map(|(what, play)| {
            let body = json!({"model": server.model, "input": "tell me about it", "stream": true});
            let mut request = Request::default();
            "/v1/responses".clone_into(&mut request.target);
            let name = format!("responses/{}{what}", server.model);
            (
                name,
                self::body(&server.reply(&play, &Seen { request, body })),
            )
        })
    };
    Server::ALL.into_iter().flat_map(plays)
}

/// The fuzzers begin with what every family says. `TOLLGATE_WRITE_PAGES=1` writes it anew.
#[test]
fn every_family_of_the_zoo_is_among_the_kept_inputs() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, bytes) in answers_of_the_zoo() {
        let path = directory.join(&name);
        if std::env::var_os("TOLLGATE_WRITE_PAGES").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == bytes,
            "{name} is not what the zoo says: run this test with TOLLGATE_WRITE_PAGES=1"
        );
    }
}
