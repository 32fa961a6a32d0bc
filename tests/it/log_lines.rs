//! What strangers write, as it stands in the lines that an operator reads.

use crate::support::caller::{Call, chat};
use crate::support::door::Door;
use crate::support::settings::Settings;

/// Letters that steer a terminal, break a line, or turn around what is read.
const HIDDEN: &str = "\u{80}\u{85}\u{9b}\u{9d}\u{9f}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}\u{e0041}";

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_the_log_or_of_a_command_has_a_letter_that_steers_a_terminal() {
    for format in ["json", "pretty"] {
        let door = Door::open(Settings::new().env("TOLLGATE_SERVER__LOG_FORMAT", format)).await;
        let alice = door.user("alice");
        for letter in HIDDEN.chars() {
            let call = Call::get(&format!("/nowhere/{letter}31m"))
                .header("user-agent", &letter.to_string());
            let answer = door.send(call).await;
            assert!(
                matches!(answer.status, 400 | 404),
                "{letter:?}: {}",
                answer.status
            );
        }
        alice.ask(chat(HIDDEN)).await.expect(200);
        door.must(&["pause", "--reason", &format!("odd {HIDDEN} one")]);
        let shown = [door.must(&["top", "--once"]), door.must(&["usage"])].concat();
        door.must(&["resume"]);
        let said = door.process.output() + &shown;
        let found: Vec<char> = HIDDEN
            .chars()
            .filter(|letter| said.contains(*letter))
            .collect();
        assert!(found.is_empty(), "{format}: {found:?}");
        let wanted = if format == "json" {
            ["\\u009b31m", "\\u202e31m"]
        } else {
            ["\\u{9b}31m", "\\u{202e}31m"]
        };
        assert!(
            wanted.iter().all(|wanted| said.contains(wanted)),
            "{format}: {said}"
        );
        assert!(shown.contains("odd \\u0080"), "{shown}");
        door.close().await;
    }
}
