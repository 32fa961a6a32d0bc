//! Log lines: where they go, how they look, and which are written.
//!
//! All of them go to stderr, so that stdout stays data. What may stand in a line is decided where it is written;
//! secrets are `SecretString`, which cannot be.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;

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
    fmt().json().flatten_event(true).with_env_filter(filter(level)).with_writer(writer).finish()
}

/// Lines for people.
fn pretty<W>(level: &str, is_terminal: bool, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt().with_ansi(is_terminal).with_env_filter(filter(level)).with_writer(writer).finish()
}

/// The config has checked the level; what is none all the same counts as `info`.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse(level).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
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
        assert_eq!((&line["message"], &line["plan"]), (&"first\nsecond".into(), &"free".into()));
    }

    #[test]
    fn the_level_decides_what_is_written() {
        for (level, written) in [("debug", true), ("info", false), ("info,tollgate=debug", true), ("off", false)] {
            let lines = Lines::default();
            let writer = lines.clone();
            tracing::subscriber::with_default(pretty(level, false, move || writer.clone()), write_some);
            assert_eq!(lines.text().contains("too quiet"), written, "{level}");
        }
    }

    #[test]
    fn a_second_start_is_harmless() {
        init(LogFormat::Json, "off");
        init(LogFormat::Pretty, "off");
    }
}
