//! HTTP/1.1 as a client reads and sends it (RFC 9112): the head of an answer ([`HeadReader`]), where its body ends
//! ([`Framing`]), and one connection that carries a request and its answer ([`Connection`]).
//!
//! It knows nothing of providers, models or settings, and dials nobody: it is given a connection and a request as bytes.
//! There is no task and no time limit here; both are the caller's. ARCHITECTURE.md gives the measured reason why this is not
//! hyper's client, which is the oracle of the tests.
//!
//! # What is refused
//! What two readers could take for two different answers is an error ([`ProtocolError`]):
//!
//! - several lengths that are not the same, or one that is no number (RFC 9112 §6.3);
//! - a transfer coding other than `chunked` alone, or any in an answer of HTTP/1.0 (§6.1);
//! - a bare line feed between chunks, and a size of a chunk that is none or exceeds 64 bits (§7.1);
//! - a body that was cut before its end (§8).
//!
//! An answer with both a length and chunks is read as chunks, and is the last one of its connection. So is one whose end is
//! the end of its connection, one to a request that was not sent to its end, and one that says so.
//!
//! # Bounds
//! The head of an answer, with the interim answers before it, has at most 64 KiB ([`ANSWER_HEAD_BYTES_MAX`]) and 100 fields.
//! All that is kept between two reads is a head that is not whole. What is read of chunks without payload (sizes, extensions,
//! trailers) has at most 16 KiB at a stretch. The length of a body is not bounded here: it is passed on as it is read.

mod connection;
mod framing;
mod head;
#[cfg(test)]
mod tests;

pub use self::connection::{Connection, Origin, Request};
pub use self::framing::{Chunks, Framing, ProtocolError};
pub use self::head::{ANSWER_HEAD_BYTES_MAX, Head, HeadReader};
