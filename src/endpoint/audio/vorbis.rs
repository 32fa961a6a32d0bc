//! The headers of Vorbis: how long its long and its short blocks are, and which packet is which. Pure.
//!
//! The modes stand at the end of the third header, after books of codes that would have to be decoded. They are read from
//! the end backwards, where their constant parts (window and transform are zero) show where they begin. Where that cannot be
//! done every packet counts as long.

use super::bytes::{be, le, piece, size};
use super::span::AudioSpan;

/// The most modes.
const MODES_MAX: u64 = 64;
/// A mode: which block, window, transform, mapping.
const MODE_BITS: u64 = 41;

/// What the packets of one stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VorbisModes {
    /// Samples a second.
    pub(super) rate: u64,
    short: u64,
    long: u64,
    /// Which of the modes are of long blocks, the first mode first; empty where that is not known.
    is_long: Vec<bool>,
}

impl VorbisModes {
    /// From the first and the third header.
    pub(super) fn read(first: &[u8], third: &[u8]) -> Option<Self> {
        if piece(first, 0, 7) != Some(b"\x01vorbis") {
            return None;
        }
        let rate = le(first, 12, 4)?;
        let sizes = be(first, 28, 1)?;
        let block = |power: u64| 1_u64.checked_shl(u32::try_from(power & 0x0F).ok()?);
        (rate > 0).then_some(())?;
        Some(Self {
            rate,
            short: block(sizes)?.min(block(sizes >> 4)?),
            long: block(sizes >> 4)?.max(block(sizes)?),
            is_long: modes(third).unwrap_or_default(),
        })
    }

    /// How long a packet is: half its block, as blocks overlap.
    pub(super) fn span(&self, packet: &[u8]) -> AudioSpan {
        let Some(&first) = packet.first() else {
            return AudioSpan::NONE;
        };
        if first & 1 == 1 {
            // A header.
            return AudioSpan::NONE;
        }
        let last = self.is_long.len().saturating_sub(1);
        let bits = usize::BITS.saturating_sub(last.leading_zeros());
        let mask = 1_usize.checked_shl(bits).unwrap_or(0).saturating_sub(1);
        let mode = usize::from(first >> 1) & mask;
        let is_long = self.is_long.get(mode).copied().unwrap_or(true);
        let block = if is_long { self.long } else { self.short };
        AudioSpan::of(block >> 1, self.rate)
    }

    /// The longest that a packet can be.
    pub(super) fn longest(&self) -> AudioSpan {
        AudioSpan::of(self.long >> 1, self.rate)
    }
}

/// Bits of a header, from its last one back.
#[derive(Clone, Copy)]
struct Backwards<'a> {
    header: &'a [u8],
    left: u64,
}

impl Backwards<'_> {
    fn bit(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let byte = self.header.get(size(self.left >> 3))?;
        Some(u64::from(*byte) >> (self.left & 7) & 1)
    }

    /// The last `count` bits, as the number that they are.
    fn number(&mut self, count: u32) -> Option<u64> {
        (0..count).try_fold(0, |number, _| Some(number << 1 | self.bit()?))
    }
}

/// Which modes are of long blocks.
fn modes(header: &[u8]) -> Option<Vec<bool>> {
    let bits = u64::try_from(header.len()).ok()?.checked_mul(8)?;
    let mut back = Backwards { header, left: bits };
    // The last bit of all that is set ends the header.
    while back.bit()? == 0 {}
    let mut is_long = Vec::new();
    let mut found = None;
    while u64::try_from(is_long.len()).ok()? < MODES_MAX && back.left >= MODE_BITS {
        let (mapping, transform, window) = (back.number(8)?, back.number(16)?, back.number(16)?);
        if mapping > 63 || transform != 0 || window != 0 {
            break;
        }
        is_long.insert(0, back.bit()? == 1);
        let mut ahead = back;
        if ahead.number(6)?.saturating_add(1) == u64::try_from(is_long.len()).ok()? {
            found = Some(is_long.clone());
        }
    }
    found
}
