//! Reads the part of CBOR (RFC 8949) that authenticators write: whole numbers, bytes, text, lists and maps of a known length.
//!
//! Invariants: what it gives points into what it was given; depth and number of items are bounded; what it does not know is an
//! error, not a guess.

/// How deep items may lie in each other.
const DEPTH_MAX: usize = 8;
/// How many items a list or a map may have.
const ITEMS_MAX: u64 = 64;

/// An item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cbor<'a> {
    Int(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    List(Vec<Cbor<'a>>),
    Map(Vec<(Cbor<'a>, Cbor<'a>)>),
    /// A negative number, or a simple value, which nobody here asks for.
    Other,
}

impl<'a> Cbor<'a> {
    /// The item that `bytes` begin with, and what stands behind it.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut rest = bytes;
        let item = item(&mut rest, DEPTH_MAX)?;
        Some((item, rest))
    }

    /// The one item that `bytes` are.
    pub(super) fn whole(bytes: &'a [u8]) -> Option<Self> {
        let (item, rest) = Self::read(bytes)?;
        rest.is_empty().then_some(item)
    }

    /// What a map has under a name; nothing if it has that twice.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(members) = self else {
            return None;
        };
        let mut found = members.iter().filter(|(key, _)| *key == Cbor::Text(name));
        let first = found.next().map(|(_, value)| value);
        first.filter(|_| found.next().is_none())
    }

    /// The bytes, if it is some.
    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn item<'a>(rest: &mut &'a [u8], depth: usize) -> Option<Cbor<'a>> {
    let depth = depth.checked_sub(1)?;
    let [first] = take(rest, 1)? else { return None };
    let (major, info) = (first >> 5, first & 31);
    let number = argument(rest, info)?;
    Some(match major {
        0 => Cbor::Int(number),
        1 | 7 => Cbor::Other,
        2 => Cbor::Bytes(take(rest, usize::try_from(number).ok()?)?),
        3 => {
            let text = take(rest, usize::try_from(number).ok()?)?;
            Cbor::Text(std::str::from_utf8(text).ok()?)
        }
        4 if number <= ITEMS_MAX => {
            let items = (0..number).map(|_| item(rest, depth));
            Cbor::List(items.collect::<Option<_>>()?)
        }
        5 if number <= ITEMS_MAX => {
            let members = (0..number).map(|_| Some((item(rest, depth)?, item(rest, depth)?)));
            Cbor::Map(members.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// The number in the first byte, or in the one, two, four or eight behind it. An unknown length (31) is none.
fn argument(rest: &mut &[u8], info: u8) -> Option<u64> {
    let length = match info {
        0..=23 => return Some(u64::from(info)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let bytes = take(rest, length)?;
    let digit = |sum: u64, byte: &u8| sum.wrapping_shl(8) | u64::from(*byte);
    Some(bytes.iter().fold(0, digit))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_the_rfc_writes_them() {
        let map = [
            0xa2, 0x61, b'a', 0x19, 0x01, 0x00, 0x20, 0x82, 0x41, 7, 0xf5,
        ];
        let read = Cbor::whole(&map).unwrap();
        assert_eq!(read.get("a"), Some(&Cbor::Int(256)));
        assert_eq!(read.get("b"), None);
        let Cbor::Map(members) = read else { panic!() };
        assert_eq!(
            members[1],
            (
                Cbor::Other,
                Cbor::List(vec![Cbor::Bytes(&[7]), Cbor::Other])
            )
        );
    }

    #[test]
    fn what_is_cut_endless_deep_or_large_is_nothing() {
        for wrong in [
            &[0x41][..],
            &[0x5f, 0x41, 1, 0xff],
            &[0xc0, 0x00],
            &[0x1c],
            &[0x61, 0xff],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x81; 20],
            &[0x00, 0x00],
        ] {
            assert_eq!(Cbor::whole(wrong), None, "{wrong:?}");
        }
        let twice = [0xa2, 0x61, b'a', 1, 0x61, b'a', 2];
        assert_eq!(Cbor::whole(&twice).unwrap().get("a"), None);
    }
}
