//! A list whose entries have entries of their own, bounded by all that is in it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// How many entries a list may have, with all that is in them. Three bytes of a body (`{},`) may become hundreds in memory, so
/// what bounds the bytes does not bound this.
const ITEMS_MAX: usize = 8192;

/// An entry of a [`NestedList`].
pub(super) trait NestedEntry {
    /// The most entries of the list itself.
    const MOST: usize;
    /// What may stand where the list does.
    const EXPECTED: &str;
    /// What is counted, in words.
    const COUNTED: &str;

    /// It, and all that is in it.
    fn count(&self) -> usize;
}

/// Entries, at most [`NestedEntry::MOST`], and at most [`ITEMS_MAX`] with all that is in them.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct NestedList<T>(pub(super) Vec<T>);

impl<'de, T: NestedEntry + Deserialize<'de>> Deserialize<'de> for NestedList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: NestedEntry + Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = NestedList<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NestedList<T>, A::Error> {
        let (mut entries, mut items) = (Vec::new(), 0_usize);
        while let Some(entry) = seq.next_element::<T>()? {
            if entries.len() >= T::MOST {
                let most = T::MOST;
                return Err(A::Error::custom(format_args!(
                    "must be an array of at most {most} items"
                )));
            }
            items = items.saturating_add(entry.count());
            if items > ITEMS_MAX {
                let counted = T::COUNTED;
                return Err(A::Error::custom(format_args!(
                    "must have at most {ITEMS_MAX} {counted} together"
                )));
            }
            entries.push(entry);
        }
        // A vector that has grown may be half empty.
        entries.shrink_to_fit();
        Ok(NestedList(entries))
    }
}
