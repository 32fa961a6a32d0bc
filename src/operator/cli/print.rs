//! Where commands write: stdout is data, stderr is for people.
//!
//! A reader that closes early (`tollgate usage | head`) is no failure.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::observe::visible::{visible_but, visible_lines};

/// Writes a line to stdout.
///
/// # Errors
/// Stdout cannot be written, for another reason than a closed reader.
pub fn line(text: &str) -> io::Result<()> {
    line_to(&mut io::stdout().lock(), text)
}

/// Writes a line to stderr. An error of that is ignored.
pub fn error_line(text: &str) {
    drop(line_to(&mut io::stderr().lock(), text));
}

/// Whether a person sits before stderr.
#[must_use]
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Puts text in place of the current line of the terminal behind stderr; an empty one clears it.
pub fn progress(text: &str) {
    let mut out = io::stderr().lock();
    drop(write!(out, "\r\u{1b}[K{text}").and_then(|()| out.flush()));
}

/// Writes text to stdout, and sees to it that it is on screen.
///
/// # Errors
/// As [`line`].
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    forgive(
        out.write_all(visible_lines(text).as_bytes())
            .and_then(|()| out.flush()),
    )
}

/// Writes text to stdout as [`text`] does. Whether anybody reads on.
///
/// # Errors
/// As [`line`].
pub fn heard(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out
        .write_all(visible_lines(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Many lines for stdout, buffered.
pub struct Lines(io::BufWriter<io::StdoutLock<'static>>);

impl Lines {
    /// Lines for stdout, which is locked meanwhile.
    #[must_use]
    pub fn new() -> Self {
        Self(io::BufWriter::new(io::stdout().lock()))
    }

    /// One line.
    ///
    /// # Errors
    /// As [`line`].
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        forgive(writeln!(self.0, "{}", visible_but(text, is_of_lines)))
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// As [`line`].
    pub fn finish(mut self) -> io::Result<()> {
        forgive(self.0.flush())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// Nobody reads on: no failure.
fn forgive(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| {
        if error.kind() == ErrorKind::BrokenPipe {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Writes text to stderr as it is.
pub fn error_text(text: &str) {
    let mut out = io::stderr().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// What a line of ours may hold: several lines, and no colours.
const fn is_of_lines(letter: char) -> bool {
    matches!(letter, '\n' | '\t')
}

fn line_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    let text = visible_but(text, is_of_lines);
    forgive(
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        assert!(line_to(&mut Failing(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(line_to(&mut Failing(ErrorKind::StorageFull), "x").is_err());
        let mut written = Vec::new();
        line_to(&mut written, "one").unwrap();
        assert_eq!(written, b"one\n");
    }
}
