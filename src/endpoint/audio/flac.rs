//! FLAC: every place that begins as a frame does, with the right checksum, counts as one. Pure.
//!
//! A frame does not say how long it is in bytes, so no decoder finds a frame that is not found here.

use super::bytes::{be, piece, size};
use super::mp3;
use super::span::AudioSpan;

/// The rates that a frame names by a number.
const RATES: [u64; 12] = [
    0, 88_200, 176_400, 192_000, 8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000,
];
/// The longest header of a frame.
const HEADER_BYTES_MAX: usize = 16;

/// Whether a file of FLAC begins at a place.
pub(super) fn is_after(file: &[u8], at: usize) -> bool {
    piece(file, at, 4) == Some(b"fLaC")
}

/// How long it is.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let start = mp3::tag_end(file);
    let rate = stream_rate(file, start)?;
    let mut sum = AudioSpan::NONE;
    for place in memchr::memchr_iter(0xFF, file) {
        if let Some(frame) = frame(file.get(place..).unwrap_or_default(), rate) {
            sum = sum.plus(frame);
        }
    }
    Some(sum)
}

/// The rate that a stream of FLAC at a place says it has.
pub(super) fn stream_rate(file: &[u8], at: usize) -> Option<u64> {
    if !is_after(file, at) {
        return None;
    }
    // Four bytes of name, four of the block's head, ten into it.
    let rate = be(file, at.checked_add(18)?, 3)? >> 4;
    (rate > 0).then_some(rate)
}

/// How long the frame is that begins with these bytes, at the slower of its own rate and the stream's.
pub(super) fn frame(bytes: &[u8], stream_rate: u64) -> Option<AudioSpan> {
    let [0xFF, 0xF8 | 0xF9, sizes, channels, first, ..] = *bytes else {
        return None;
    };
    let (block, rate) = (sizes >> 4, sizes & 0x0F);
    let is_sound = block != 0 && rate != 15 && channels >> 4 <= 10 && channels & 1 == 0;
    if !is_sound {
        return None;
    }
    let mut at = 4_usize.saturating_add(number_bytes(first)?);
    let samples = match block {
        1 => 192,
        2..=5 => 576 << block.saturating_sub(2),
        6 => next(bytes, &mut at, 1)?.saturating_add(1),
        7 => next(bytes, &mut at, 2)?.saturating_add(1),
        _ => 256 << block.saturating_sub(8),
    };
    let own = match rate {
        0 => stream_rate,
        12 => next(bytes, &mut at, 1)?.saturating_mul(1000),
        13 => next(bytes, &mut at, 2)?,
        14 => next(bytes, &mut at, 2)?.saturating_mul(10),
        rate => RATES.get(usize::from(rate)).copied()?,
    };
    let header = bytes.get(..at.min(HEADER_BYTES_MAX))?;
    if checksum(header) != *bytes.get(at)? {
        return None;
    }
    Some(AudioSpan::of(samples, own.min(stream_rate).max(1)))
}

/// How many bytes its number takes, in the way of UTF-8.
fn number_bytes(first: u8) -> Option<usize> {
    match first.leading_ones() {
        0 => Some(1),
        ones @ 2..=7 => Some(size(u64::from(ones))),
        _ => None,
    }
}

/// The next number of so many bytes.
fn next(bytes: &[u8], at: &mut usize, length: usize) -> Option<u64> {
    let number = be(bytes, *at, length)?;
    *at = at.checked_add(length)?;
    Some(number)
}

/// CRC-8 with the polynomial x⁸ + x² + x + 1.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| {
        (0..8).fold(sum ^ byte, |sum, _| {
            let carry = if sum & 0x80 == 0 { 0 } else { 0x07 };
            (sum << 1) ^ carry
        })
    })
}
