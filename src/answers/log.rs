//! The bytes of one answer, as they are delivered. Pure.
//!
//! Of a stream only events are stored: comments keep one connection alive, and each follower has its own. The writer of a
//! stream ends each event with an empty line and writes none inside of it, so an event ends where one is.

use bytes::{BufMut, BytesMut};
use memchr::memmem;

/// What ends an event.
const END: &[u8] = b"\n\n";

/// What is taken at first.
const SMALLEST: usize = 1024;

/// The delivered part of an answer, or what is left of it.
#[derive(Debug, Default)]
pub(super) struct AnswerLog {
    bytes: Vec<u8>,
    /// How many were there before them.
    dropped: usize,
    /// It is read event by event.
    is_events: bool,
}

/// Where a reader is in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Bytes before it.
    pub(super) bytes: usize,
    /// Events before it. Only a reader who wants numbers counts them.
    pub(super) events: u64,
}

impl AnswerLog {
    /// Nothing yet, of a stream of events or of anything else.
    pub(super) fn new(is_events: bool) -> Self {
        Self {
            is_events,
            ..Self::default()
        }
    }

    pub(super) const fn is_events(&self) -> bool {
        self.is_events
    }

    /// How many bytes it takes.
    pub(super) const fn size(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many bytes were written, those that were dropped as well.
    pub(super) const fn end(&self) -> usize {
        self.dropped.saturating_add(self.bytes.len())
    }

    /// Takes a whole answer.
    pub(super) fn fill(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// What of these bytes is to be written: whole events, where it is made of events.
    pub(super) fn written<'b>(&self, mut bytes: &'b [u8]) -> &'b [u8] {
        while self.is_events && bytes.starts_with(b":") {
            let end = end_of_event(bytes).unwrap_or(bytes.len());
            bytes = bytes.get(end..).unwrap_or_default();
        }
        bytes
    }

    /// How many bytes it takes once so many more are written.
    pub(super) fn size_with(&self, more: usize) -> usize {
        let needed = self.bytes.len().saturating_add(more);
        let had = self.bytes.capacity();
        if needed <= had {
            return had;
        }
        // By a half, so that growing costs little.
        needed
            .max(had.saturating_add(had.div_euclid(2)))
            .max(SMALLEST)
    }

    /// Writes what is to be written.
    pub(super) fn push(&mut self, more: &[u8]) {
        let room = self.size_with(more.len()).saturating_sub(self.bytes.len());
        self.bytes.reserve_exact(room);
        self.bytes.extend_from_slice(more);
    }

    /// Gives back what was taken for growth.
    pub(super) fn is_complete(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Drops what stands before a position.
    pub(super) fn drop_before(&mut self, bytes: usize) {
        let unneeded = bytes.saturating_sub(self.dropped).min(self.bytes.len());
        // Moving the rest costs as much as it has bytes: not for each event.
        if unneeded.saturating_mul(2) >= self.bytes.len() {
            self.bytes.drain(..unneeded);
            self.dropped = self.dropped.saturating_add(unneeded);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.dropped = self.end();
        self.bytes = Vec::new();
    }

    /// The next bytes from a position, at most so many; none at the end.
    pub(super) fn read(&self, at: &mut Position, most: usize) -> BytesMut {
        let rest = self.after(*at);
        let piece = rest.get(..most).unwrap_or(rest);
        at.bytes = at.bytes.saturating_add(piece.len());
        piece.into()
    }

    /// The next events from a position, each with its number, but those up to `skip`; at least one where there is one, and
    /// no more once there are `most` bytes.
    pub(super) fn read_numbered(&self, at: &mut Position, skip: u64, most: usize) -> BytesMut {
        let mut read = BytesMut::new();
        let mut rest = self.after(*at);
        while read.len() < most
            && let Some(end) = end_of_event(rest)
        {
            let (event, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            at.bytes = at.bytes.saturating_add(end);
            at.events = at.events.saturating_add(1);
            if at.events > skip {
                read.put_slice(format!("id: {}\n", at.events).as_bytes());
                read.put_slice(event);
            }
            rest = after;
        }
        read
    }

    fn after(&self, at: Position) -> &[u8] {
        let from = at.bytes.saturating_sub(self.dropped);
        self.bytes.get(from..).unwrap_or_default()
    }
}

fn end_of_event(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, END).map(|end| end.saturating_add(END.len()))
}
