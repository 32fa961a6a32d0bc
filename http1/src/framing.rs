//! Where the body of an answer ends, and what of the bytes that are read is the body (RFC 9112 §6 and §7).
//!
//! It knows bytes and no connection. It keeps none of them: a size that is cut in the middle is a number and a state.
//! Invariant: a body that was cut is never at its end, and what is read in vain is bounded.

use std::{fmt, io};

use bytes::Bytes;

/// The longest line with the size of a chunk, and all trailers of a body together, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 16 * 1024;

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// Its head is none of HTTP/1.
    Head(httparse::Error),
    /// Its head, or a line between its chunks, has no end within the bound.
    TooLong,
    /// No length, or several.
    Length,
    /// Coded otherwise than in chunks.
    Coding,
    /// A chunk that is none.
    Chunk,
    /// The connection was closed in the middle of it.
    Cut,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Head(error) => return write!(formatter, "the head of the answer: {error}"),
            Self::TooLong => "the head of the answer, or a line between its chunks, is too long",
            Self::Length => "the length of the answer is no number, or several",
            Self::Coding => "the answer has a transfer coding that was not asked for",
            Self::Chunk => "the chunks of the answer are malformed",
            Self::Cut => "the connection was closed in mid-answer",
        })
    }
}

impl std::error::Error for ProtocolError {}

impl From<ProtocolError> for io::Error {
    fn from(malformed: ProtocolError) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection is closed.
    UntilClose,
}

/// Between or in which bytes of chunks the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// What is left of the chunk, or the part of its size that was read.
    left: u64,
    /// Read since the last payload.
    passed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    SizeStart,
    Size,
    AfterSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Framing {
    /// A body in chunks, of which nothing was read.
    #[must_use]
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks {
            at: At::SizeStart,
            left: 0,
            passed: 0,
        })
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
            Self::UntilClose => false,
        }
    }

    /// The payload in what was read, in one piece, and what of it is left: it lies behind the end of the body, or is an error
    /// that is told when it is taken, after what came before it. Nothing read means that the connection was closed.
    ///
    /// # Errors
    /// It is no body, or it was cut.
    pub fn take(&mut self, read: &[u8]) -> Result<(Bytes, Bytes), ProtocolError> {
        let (payload, rest): (Bytes, &[u8]) = match self {
            Self::UntilClose if read.is_empty() => {
                *self = Self::Length(0);
                (Bytes::new(), &[])
            }
            Self::UntilClose => (Bytes::copy_from_slice(read), &[]),
            _ if read.is_empty() && !self.is_ended() => return Err(ProtocolError::Cut),
            Self::Length(left) => {
                let (payload, rest) = split(read, left);
                (Bytes::copy_from_slice(payload), rest)
            }
            Self::Chunked(chunks) => chunks.take(read)?,
        };
        Ok((payload, Bytes::copy_from_slice(rest)))
    }
}

/// At most `left` bytes of what was read, which are not left any more, and the rest.
fn split<'a>(read: &'a [u8], left: &mut u64) -> (&'a [u8], &'a [u8]) {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
    read.split_at_checked(here).unwrap_or((read, &[]))
}

impl Chunks {
    fn take<'a>(&mut self, read: &'a [u8]) -> Result<(Bytes, &'a [u8]), ProtocolError> {
        let mut rest = read;
        // Most often one event comes at a time, in one chunk: it is copied once.
        let (mut first, mut joined): (&[u8], Vec<u8>) = (&[], Vec::new());
        while let Some((byte, behind)) = rest.split_first().filter(|_| self.at != At::End) {
            if self.at != At::Data {
                match self.step(*byte) {
                    Ok(()) => rest = behind,
                    Err(malformed) if first.is_empty() => return Err(malformed),
                    Err(_) => break,
                }
                continue;
            }
            let (piece, behind) = split(rest, &mut self.left);
            rest = behind;
            if self.left == 0 {
                self.at = At::DataCr;
            }
            if first.is_empty() {
                first = piece;
                continue;
            }
            if joined.is_empty() {
                joined.reserve_exact(read.len());
                joined.extend_from_slice(first);
            }
            joined.extend_from_slice(piece);
        }
        let payload = if joined.is_empty() {
            Bytes::copy_from_slice(first)
        } else {
            Bytes::from(joined)
        };
        Ok((payload, rest))
    }

    /// One byte that is no payload. A bare line feed is nowhere the end of a line: others may read it differently.
    fn step(&mut self, byte: u8) -> Result<(), ProtocolError> {
        self.passed = self.passed.saturating_add(1);
        if self.passed > CHUNK_LINE_BYTES_MAX {
            return Err(ProtocolError::TooLong);
        }
        self.at = match (self.at, byte) {
            (At::SizeStart | At::Size, digit) if digit.is_ascii_hexdigit() => {
                let value = char::from(digit).to_digit(16).map(u64::from);
                let size = self
                    .left
                    .checked_mul(16)
                    .zip(value)
                    .and_then(|(high, low)| high.checked_add(low));
                self.left = size.ok_or(ProtocolError::Chunk)?;
                At::Size
            }
            (At::Size | At::AfterSize, b' ' | b'\t') => At::AfterSize,
            (At::Size | At::AfterSize, b';') => At::Extension,
            (At::Size | At::AfterSize | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, other) if other != b'\n' => At::Extension,
            (At::SizeLf, b'\n') => {
                self.passed = 0;
                if self.left == 0 {
                    At::TrailerStart
                } else {
                    At::Data
                }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::SizeStart,
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            // Trailers are of no use to us.
            (At::TrailerStart | At::Trailer, other) if other != b'\n' => At::Trailer,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::End,
            _ => return Err(ProtocolError::Chunk),
        };
        Ok(())
    }
}
