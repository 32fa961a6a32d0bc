//! EBML: elements, each with a name and a length before it. Pure.

use super::bytes::{be, size};

/// An element's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Its name, with the bits that say how long that is.
    pub(super) name: u64,
    /// Where its content begins.
    pub(super) start: usize,
    /// How long its content is; `None` where that was not known when it was begun.
    pub(super) length: Option<usize>,
}

/// The element at a place.
pub(super) fn element(file: &[u8], at: usize) -> Option<Element> {
    let name_bytes = width(file, at).filter(|width| *width <= 4)?;
    let name = be(file, at, name_bytes)?;
    let (length, start) = number(file, at.checked_add(name_bytes)?)?;
    Some(Element {
        name,
        start,
        length: length.map(size),
    })
}

/// A number that says how long it is, and where it ends; `None` where all its bits are set.
pub(super) fn number(file: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let width = width(file, at)?;
    let bits = u32::try_from(width.checked_mul(7)?).ok()?;
    let mask = 1_u64.checked_shl(bits)?.checked_sub(1)?;
    let number = be(file, at, width)? & mask;
    Some(((number != mask).then_some(number), at.checked_add(width)?))
}

fn width(file: &[u8], at: usize) -> Option<usize> {
    let zeros = be(file, at, 1).and_then(|first| u8::try_from(first).ok())?;
    let zeros = usize::try_from(zeros.leading_zeros()).ok()?;
    (zeros < 8).then(|| zeros.saturating_add(1))
}
