//! WAVE: so many bytes of samples, at so many a second. Pure.
//!
//! Only samples as they are (PCM, floats, A-law, µ-law); what a codec makes of its bytes stands nowhere in the file.

use super::bytes::{count, le, piece, piece_there, size};
use super::span::AudioSpan;

/// PCM, floats, A-law, µ-law.
const PLAIN: [u64; 4] = [1, 3, 6, 7];
/// What it is stands further down.
const EXTENSIBLE: u64 = 0xFFFE;
/// A length from here on says that it was not known when the file was begun.
const UNKNOWN_LENGTH: u64 = 0xFFFF_FF00;

/// How long it is.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let mut rate: Option<u64> = None;
    let mut samples: u64 = 0;
    let mut at: usize = 12;
    while let Some(name) = piece(file, at, 4) {
        let Some(length) = le(file, at.saturating_add(4), 4) else {
            break;
        };
        let body = at.saturating_add(8);
        let there = count(file.len().saturating_sub(body));
        let is_text = name.iter().all(|byte| (0x20..0x7F).contains(byte));
        match name {
            b"fmt " => {
                let slower = byte_rate(piece_there(file, body, size(length)))?;
                rate = Some(rate.map_or(slower, |rate| rate.min(slower)));
            }
            b"data" if length == 0 || length >= UNKNOWN_LENGTH => {
                samples = samples.saturating_add(there);
                break;
            }
            b"data" => samples = samples.saturating_add(length.min(there)),
            // Samples that go on where their length says that they end.
            _ if !is_text && samples > 0 => {
                samples = samples.saturating_add(count(file.len().saturating_sub(at)));
                break;
            }
            _ => {}
        }
        at = body.saturating_add(size(length.saturating_add(length & 1)));
    }
    Some(AudioSpan::of(samples, rate?))
}

/// How many bytes a second has: the least of what the header says in three ways.
fn byte_rate(format: &[u8]) -> Option<u64> {
    let tag = match le(format, 0, 2)? {
        EXTENSIBLE => le(format, 24, 2)?,
        tag => tag,
    };
    if !PLAIN.contains(&tag) {
        return None;
    }
    let (channels, rate) = (le(format, 2, 2)?, le(format, 4, 4)?);
    let of_blocks = rate.saturating_mul(le(format, 12, 2)?);
    let of_bits = rate
        .saturating_mul(channels)
        .saturating_mul(le(format, 14, 2)?.div_ceil(8));
    let said = [le(format, 8, 4)?, of_blocks, of_bits];
    said.into_iter().filter(|rate| *rate > 0).min()
}
