//! Bytes as text: digests, and what is made of keys.

/// As hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| {
        [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'))
    };
    bytes.iter().flat_map(digits).collect()
}
