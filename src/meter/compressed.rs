//! An answer that is compressed and does not say so: what it used is hidden in it. Pure.

/// How gzip (RFC 1952 §2.3.1) and zstd (RFC 8878 §3.1.1) begin. No JSON begins so, and no stream of events.
const BEGINNINGS: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];
/// So much of a body tells whether it is compressed.
const BEGINNING_BYTES_MAX: usize = 4;

/// Whether a body that begins so is compressed.
#[must_use]
pub fn is_compressed(start: &[u8]) -> bool {
    BEGINNINGS
        .iter()
        .any(|beginning| start.starts_with(beginning))
}

/// The first bytes of a stream, in whatever pieces they come.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    bytes: Vec<u8>,
    is_past: bool,
}

impl Start {
    /// Looks at the next piece, until enough was seen.
    pub(super) fn is_compressed_with(&mut self, piece: &[u8]) -> bool {
        if self.is_past {
            return false;
        }
        if self.bytes.is_empty() && piece.len() >= BEGINNING_BYTES_MAX {
            self.is_past = true;
            return is_compressed(piece);
        }
        let room = BEGINNING_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend(piece.iter().take(room));
        self.is_past = self.bytes.len() >= BEGINNING_BYTES_MAX;
        is_compressed(&self.bytes)
    }
}
