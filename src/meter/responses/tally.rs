//! How much was delivered of each part of an answer, so that what is told again does not count again. Pure.
//!
//! A stream tells most of it three times: piece by piece, whole at the end of the part, and whole at the end of its item and
//! of the answer. Servers leave out any of these. Whatever is told, at least as much text is counted as was shown.

/// The most parts that are told apart.
const PARTS_MAX: usize = 4096;

/// Where a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartPlace {
    /// The item, by its index or its id.
    pub(super) item: u64,
    /// The part of the item, by its index.
    pub(super) part: u64,
    /// The kind of the part.
    pub(super) kind: u64,
}

/// What a text is all of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// A part, of one kind.
    Part(PartPlace),
    /// A part of an item, of whatever kind.
    AnyPart(PartPlace),
    /// An item.
    Item(u64),
    /// The answer.
    Answer,
}

impl Span {
    fn has(self, place: PartPlace) -> bool {
        match self {
            Self::Part(part) => part == place,
            Self::AnyPart(part) => part.item == place.item && part.part == place.part,
            Self::Item(item) => item == place.item,
            Self::Answer => true,
        }
    }

    /// Where the rest of a whole is noted.
    const fn rest(self) -> PartPlace {
        match self {
            Self::Part(place) | Self::AnyPart(place) => place,
            Self::Item(item) => PartPlace {
                item,
                part: u64::MAX,
                kind: u64::MAX,
            },
            Self::Answer => PartPlace {
                item: u64::MAX,
                part: u64::MAX,
                kind: u64::MAX,
            },
        }
    }
}

/// The bytes of each part.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    parts: Vec<(PartPlace, usize)>,
}

impl Tally {
    /// So many bytes more were delivered of a part. False: there are too many parts to be told apart.
    pub(super) fn add(&mut self, place: PartPlace, bytes: usize) -> bool {
        // The last one is nearly always the one.
        if let Some((_, known)) = self.parts.iter_mut().rev().find(|(at, _)| *at == place) {
            *known = known.saturating_add(bytes);
            return true;
        }
        if self.parts.len() >= PARTS_MAX {
            return false;
        }
        self.parts.push((place, bytes));
        true
    }

    /// What of a text was not delivered yet, if it is all of `span`. It is noted as delivered.
    pub(super) fn rest_of<'t>(&mut self, span: Span, whole: &'t str) -> (&'t str, bool) {
        let parts = self.parts.iter().filter(|(place, _)| span.has(*place));
        let known = parts.fold(0_usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let from = whole.floor_char_boundary(known);
        let rest = whole.get(from..).unwrap_or_default();
        if rest.is_empty() {
            return (rest, true);
        }
        (rest, self.add(span.rest(), rest.len()))
    }

    /// How many bytes it holds.
    pub(super) const fn bytes_held(&self) -> usize {
        self.parts
            .capacity()
            .saturating_mul(size_of::<(PartPlace, usize)>())
    }
}
