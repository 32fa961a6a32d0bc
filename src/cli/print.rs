//! Standard output, and a reader of it that has gone.

use std::io::{BufWriter, ErrorKind, StdoutLock, Write};

/// Writes a text to standard output. A closed pipe (`| head`) is no failure.
pub(super) fn out(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    forgive(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn forgive(done: std::io::Result<()>) -> Result<(), String> {
    match done {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write to standard output: {error}")),
        _ => Ok(()),
    }
}

/// Many lines, buffered.
pub(super) struct Lines(BufWriter<StdoutLock<'static>>);

impl Lines {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(std::io::stdout().lock()))
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), String> {
        forgive(writeln!(self.0, "{text}"))
    }

    pub(super) fn finish(mut self) -> Result<(), String> {
        forgive(self.0.flush())
    }
}
