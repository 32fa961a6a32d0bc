//! Log lines: where they go, their format, and which are written.
//!
//! All of them go to stderr, so that stdout stays data. Each caller decides what stands in its line; secrets are
//! `SecretString`, which cannot be printed.

use std::fmt::{Debug, Write};
use std::io::IsTerminal;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;
use crate::config::LogFormat;
use crate::observe::visible::{visible, visible_but};

/// Begins to write log lines to stderr, in `[server] log_format` and at `log_level` (a level, or directives such as
/// `info,tollgate=debug`). The first call in a process decides; later ones change nothing.
pub fn init(format: LogFormat, level: &str) {
    let is_terminal = std::io::stderr().is_terminal();
    let is_json = match format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let installed = if is_json {
        json(level, std::io::stderr).try_init()
    } else {
        pretty(level, is_terminal, std::io::stderr).try_init()
    };
    if installed.is_err() {
        tracing::debug!("log lines are already being written");
    }
}

/// One JSON object a line.
fn json<W>(level: &str, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = JsonLines {
        clock: Clock::system(),
    };
    registry()
        .with(layer().event_format(lines).with_writer(writer))
        .with(filter(level))
}

/// An event as one JSON object: `timestamp`, `level`, its fields, `target`. There are no spans to tell of.
///
/// tracing-subscriber has such a format of its own, which takes three times as long: a tenth of all that a request costs.
struct JsonLines {
    clock: Clock,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut object = JsonObject {
            text: Vec::with_capacity(768),
            fails: false,
        };
        object.text.push(b'{');
        object.member("timestamp", &self.clock.now().rfc3339());
        object.member("level", event.metadata().level().as_str());
        event.record(&mut object);
        object.member("target", event.metadata().target());
        object.text.extend_from_slice(b"}\n");
        let text = std::str::from_utf8(&object.text)
            .ok()
            .filter(|_| !object.fails);
        writer.write_str(text.ok_or(std::fmt::Error)?)
    }
}

/// A JSON object that is being written.
struct JsonObject {
    text: Vec<u8>,
    fails: bool,
}

impl JsonObject {
    /// A member's name, which is one of ours; its value follows.
    fn name(&mut self, name: &str) {
        let begin: &[u8] = if self.text.len() > 1 { b",\"" } else { b"\"" };
        let name = name.strip_prefix("r#").unwrap_or(name).as_bytes();
        for part in [begin, name, b"\":"] {
            self.text.extend_from_slice(part);
        }
    }

    fn member(&mut self, name: &str, text: &str) {
        self.name(name);
        self.quoted(text);
    }

    /// A string. Nearly none has anything to be escaped, and that is seen at a glance.
    fn quoted(&mut self, text: &str) {
        let is_odd = |byte: &u8| *byte < b' ' || *byte >= 0x7f || *byte == b'"' || *byte == b'\\';
        if text
            .as_bytes()
            .iter()
            .fold(false, |odd, byte| odd | is_odd(byte))
        {
            let json = serde_json::to_string(text)
                .inspect_err(|_| self.fails = true)
                .unwrap_or_default();
            self.text.extend_from_slice(visible(&json).as_bytes());
            return;
        }
        for part in [b"\"", text.as_bytes(), b"\""] {
            self.text.extend_from_slice(part);
        }
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) {
        self.fails |= serde_json::to_writer(&mut self.text, value).is_err();
    }
}

impl Visit for JsonObject {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::with_capacity(64);
        self.fails |= write!(text, "{value:?}").is_err();
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field.name());
        self.json(&value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field.name());
        self.json(&value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field.name());
        self.json(&value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field.name());
        self.json(&value);
    }
}

/// Lines for people.
fn pretty<W>(level: &str, is_terminal: bool, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = debug_fn(|out, field: &Field, value: &dyn Debug| {
        let text = format!("{value:?}");
        // What a message says in several lines is ours.
        if field.name() == "message" {
            return write!(out, "{}", visible_but(&text, |letter| letter == '\n'));
        }
        write!(
            out,
            "{}={}",
            field.name().trim_start_matches("r#"),
            visible(&text)
        )
    });
    registry()
        .with(
            layer()
                .with_ansi(is_terminal)
                .fmt_fields(fields.delimited(" "))
                .with_writer(writer),
        )
        .with(filter(level))
}

/// The config has checked the level; what is none all the same counts as `info`.
fn filter(level: &str) -> Targets {
    level
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn write_some() {
        tracing::info!(plan = "free", "first\nsecond");
        tracing::debug!("too quiet");
    }

    #[test]
    fn a_json_line_is_one_object_whatever_it_says() {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(json("info", move || writer.clone()), write_some);
        let text = lines.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["message"], &line["plan"]),
            (&"first\nsecond".into(), &"free".into())
        );
        assert_eq!(
            (&line["level"], &line["target"]),
            (&"INFO".into(), &"tollgate::observe::log::tests".into())
        );
        assert!(
            crate::clock::Timestamp::parse(line["timestamp"].as_str().unwrap()).is_ok(),
            "{text}"
        );
    }

    #[test]
    fn every_kind_of_field_is_valid_json() {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(json("info", move || writer.clone()), || {
            let error = std::io::Error::other("a \"quoted\" \u{1} one");
            let none: Option<u64> = None;
            tracing::warn!(
                r#type = true,
                few = -3,
                many = u64::MAX,
                share = 0.5,
                odd = f64::NAN,
                none,
                text = "\u{7f}é\u{2028}\\",
                as_debug = ?["a\n"],
                %error,
                "it {}",
                "failed"
            );
        });
        let line: serde_json::Value = serde_json::from_str(&lines.text()).unwrap();
        let wanted = serde_json::json!({
            "level": "WARN", "message": "it failed", "type": true, "few": -3, "many": u64::MAX, "share": 0.5, "odd": null,
            "text": "\u{7f}é\u{2028}\\", "as_debug": "[\"a\\n\"]", "error": "a \"quoted\" \u{1} one",
            "target": "tollgate::observe::log::tests", "timestamp": line["timestamp"],
        });
        assert_eq!(line, wanted);
    }

    #[test]
    fn the_level_decides_what_is_written() {
        for (level, written) in [
            ("debug", true),
            ("info", false),
            ("info,tollgate=debug", true),
            ("off", false),
        ] {
            let lines = Lines::default();
            let writer = lines.clone();
            tracing::subscriber::with_default(
                pretty(level, false, move || writer.clone()),
                write_some,
            );
            assert_eq!(lines.text().contains("too quiet"), written, "{level}");
        }
    }

    #[test]
    fn what_a_stranger_writes_neither_steers_a_terminal_nor_makes_a_line() {
        let odd = "a\u{1b}[2J\u{9b}2J\u{202e}\u{2028}\nlevel=ERROR\u{7f}";
        let error = std::io::Error::other(odd);
        for is_json in [true, false] {
            let lines = Lines::default();
            let writer = lines.clone();
            let write = || tracing::info!(text = odd, %error, as_debug = ?odd, "it {}", odd.replace('\n', " "));
            if is_json {
                tracing::subscriber::with_default(json("info", move || writer.clone()), write);
            } else {
                tracing::subscriber::with_default(
                    pretty("info", false, move || writer.clone()),
                    write,
                );
            }
            let text = lines.text();
            assert_eq!(
                (text.lines().count(), text.ends_with('\n')),
                (1, true),
                "{text:?}"
            );
            let line = text.trim_end_matches('\n');
            assert_eq!(visible(line), line, "{text:?}");
            assert!(
                text.contains("\\u009b2J") && text.contains("\\u202e"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_second_start_is_harmless() {
        init(LogFormat::Json, "off");
        init(LogFormat::Pretty, "off");
    }
}
