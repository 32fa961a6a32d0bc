//! Reading numbers out of a file at any place; nothing where the file ends before. Pure.

/// So many bytes from a place on.
pub(super) fn piece(file: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    file.get(at..at.checked_add(length)?)
}

/// The same, and fewer where the file ends.
pub(super) fn piece_there(file: &[u8], at: usize, length: usize) -> &[u8] {
    let rest = file.get(at..).unwrap_or_default();
    rest.get(..length).unwrap_or(rest)
}

/// A number of up to eight bytes, the greatest first.
pub(super) fn be(file: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = piece(file, at, length)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// A number of up to eight bytes, the least first.
pub(super) fn le(file: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = piece(file, at, length)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// A length as a place in memory; the greatest where it is more.
pub(super) fn size(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// A place or a count as a number.
pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A length in four bytes of which each has seven bits, as ID3 writes it.
pub(super) fn seven_bits(file: &[u8], at: usize) -> Option<u64> {
    let number = be(file, at, 4)?;
    let part = |shift: u32| (number >> shift) & 0x7F;
    Some(part(24) << 21 | part(16) << 14 | part(8) << 7 | part(0))
}
