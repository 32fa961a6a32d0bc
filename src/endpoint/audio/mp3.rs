//! MPEG audio, layers I to III: frame after frame, each as long as its header says. Pure.
//!
//! Outside of a tag every header counts. In an ID3 tag at the beginning, where a picture may look like anything, only a
//! header counts that two more follow where they should. Frames that are not most of the file are no proof that it is one.

use super::bytes::{piece_there, seven_bits, size};
use super::span::AudioSpan;

const KBITS_V1: [[u64; 16]; 3] = [
    [
        0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0,
    ],
    [
        0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0,
    ],
    [
        0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0,
    ],
];
const KBITS_V2: [[u64; 16]; 2] = [
    [
        0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0,
    ],
    [
        0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0,
    ],
];
const RATES_V1: [u64; 3] = [44_100, 48_000, 32_000];
/// How far into its first frame a file may say what it is: such a frame is silent.
const INFO_BYTES: usize = 64;
/// The least that a frame takes: its header.
const HEADER_BYTES: usize = 4;

/// A frame, by its header.
#[derive(Clone, Copy)]
struct MpegFrame {
    samples: u64,
    rate: u64,
    /// With its header; only that, where the bit rate is free.
    length: usize,
}

/// Where the ID3 tag ends that a file may begin with; 0 without one.
pub(super) fn tag_end(file: &[u8]) -> usize {
    if !file.starts_with(b"ID3") {
        return 0;
    }
    let length = seven_bits(file, 6).unwrap_or(0);
    size(length.saturating_add(10)).min(file.len())
}

/// How long it is.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let tag = tag_end(file);
    let mut sum = AudioSpan::NONE;
    let mut is_first = true;
    let mut covered: usize = 0;
    let mut at: usize = 0;
    while let Some(skipped) = memchr::memchr(0xFF, file.get(at..)?) {
        at = at.saturating_add(skipped);
        let Some(frame) = frame(file, at).filter(|frame| at >= tag || is_chained(file, at, frame))
        else {
            at = at.saturating_add(1);
            continue;
        };
        if !(std::mem::take(&mut is_first) && is_info(file, at)) {
            sum = sum.plus(AudioSpan::of(frame.samples, frame.rate));
        }
        let end = at.saturating_add(frame.length).min(file.len());
        covered = covered.saturating_add(end.saturating_sub(at));
        at = end;
    }
    let sound = file.len().saturating_sub(tag);
    (covered >= sound.div_ceil(2)).then_some(sum)
}

/// Two more frames follow.
fn is_chained(file: &[u8], at: usize, first: &MpegFrame) -> bool {
    let next = at.saturating_add(first.length);
    let second = frame(file, next);
    second.is_some_and(|second| frame(file, next.saturating_add(second.length)).is_some())
}

/// The first frame may hold only what is said about the others.
fn is_info(file: &[u8], at: usize) -> bool {
    let beginning = piece_there(file, at, INFO_BYTES);
    let says = |word: &[u8]| memchr::memmem::find(beginning, word).is_some();
    says(b"Xing") || says(b"Info") || says(b"VBRI")
}

/// Whether a file begins with a frame.
pub(super) fn begins(file: &[u8]) -> bool {
    frame(file, 0).is_some()
}

/// The frame that begins at a place.
fn frame(file: &[u8], at: usize) -> Option<MpegFrame> {
    let [0xFF, kind, rates, ..] = *piece_there(file, at, HEADER_BYTES) else {
        return None;
    };
    if kind & 0xE0 != 0xE0 {
        return None;
    }
    let version = (kind >> 3) & 3;
    let layer = 4_u8.checked_sub((kind >> 1) & 3).filter(|l| *l < 4)?;
    let is_v1 = version == 3;
    let slowed = match version {
        3 => 0,
        2 => 1,
        0 => 2,
        _ => return None,
    };
    let rate = RATES_V1.get(usize::from((rates >> 2) & 3))? >> slowed;
    let kbits = kbits(is_v1, layer, rates >> 4)?;
    let padding = u64::from((rates >> 1) & 1);
    let samples = match (layer, is_v1) {
        (1, _) => 384,
        (3, false) => 576,
        _ => 1152,
    };
    // Layer I counts in slots of four bytes.
    let slot = if layer == 1 { 4 } else { 1 };
    let slots = kbits
        .saturating_mul(1000)
        .saturating_mul(samples)
        .checked_div(rate.saturating_mul(8).saturating_mul(slot))?;
    let length = slots.saturating_add(padding).saturating_mul(slot);
    let length = if kbits == 0 { 0 } else { size(length) };
    Some(MpegFrame {
        samples,
        rate,
        length: length.max(HEADER_BYTES),
    })
}

fn kbits(is_v1: bool, layer: u8, index: u8) -> Option<u64> {
    let table = match (is_v1, layer) {
        (true, layer) => KBITS_V1.get(usize::from(layer.checked_sub(1)?))?,
        (false, 1) => KBITS_V2.first()?,
        (false, _) => KBITS_V2.last()?,
    };
    (index != 15)
        .then(|| table.get(usize::from(index)).copied())
        .flatten()
}
