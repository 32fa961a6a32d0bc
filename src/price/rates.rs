//! What each quantity costs, and the arithmetic of money. Pure.

use super::quantities::{Quantities, named_fields};
use super::{MicroUsd, micros};

/// Micro-dollars for so much of a quantity as its field in [`Rates`] says: a million tokens or characters, a minute of
/// audio, or one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

impl Rate {
    /// Reads US dollars, as [`MicroUsd::parse`] does.
    ///
    /// # Errors
    /// As [`MicroUsd::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        micros(text).map(Self)
    }

    /// How much more this is than another.
    const fn above(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

named_fields! {
    /// The rates that apply to one request.
    Rates of Rate {
        /// A million prompt tokens that no other rate is for.
        input,
        /// A million prompt tokens read from the cache.
        cached_input,
        /// A million prompt tokens written to the cache.
        cache_write,
        /// A million prompt tokens written to the cache for an hour.
        cache_write_1h,
        /// A million generated tokens that no other rate is for.
        output,
        /// A million prompt tokens of images.
        image_input,
        /// A million prompt tokens of images read from the cache.
        cached_image_input,
        /// A million generated tokens of images.
        image_output,
        /// A million prompt tokens of audio.
        audio_input,
        /// A million generated tokens of audio.
        audio_output,
        /// A minute of audio.
        minute,
        /// A million characters.
        characters,
        /// One image, of the size and quality that was ordered.
        image,
    }
}

/// Money in parts of 60 millionths of a micro-dollar, which every rate comes to exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exact(u128);

impl Exact {
    const PARTS: u128 = 60_000_000;

    const fn nothing() -> Self {
        Self(0)
    }

    const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// One rounding, up, at the end.
    pub(super) fn rounded_up(self) -> MicroUsd {
        MicroUsd(i64::try_from(self.0.div_ceil(Self::PARTS)).unwrap_or(i64::MAX))
    }
}

/// What one of something costs at a rate of one micro-dollar for a million of it, for a minute of it, or for each.
const A_MILLION: u128 = Exact::PARTS / 1_000_000;
const A_MINUTE: u128 = Exact::PARTS / 60;
const EACH: u128 = Exact::PARTS;

/// So much of something at a rate. Most requests use none of most things.
fn of(count: u64, Rate(rate): Rate, parts: u128) -> Exact {
    if count == 0 {
        return Exact::nothing();
    }
    let product = u128::from(count).saturating_mul(u128::from(rate));
    Exact(product.saturating_mul(parts))
}

/// Tokens of which each belongs to one part only.
struct Parts {
    left: u64,
    sum: Exact,
}

impl Parts {
    /// Takes a part, which is never more than what is left.
    fn take(self, part: u64, rate: Rate) -> Self {
        let part = part.min(self.left);
        Self {
            left: self.left.saturating_sub(part),
            sum: self.sum.plus(of(part, rate, A_MILLION)),
        }
    }

    /// What no part took.
    fn rest(self, rate: Rate) -> Exact {
        self.sum.plus(of(self.left, rate, A_MILLION))
    }
}

impl Rates {
    /// What quantities cost. Parts of the input and of the output are never more than those.
    pub(super) fn cost(&self, used: &Quantities) -> Exact {
        let begin = |left| Parts {
            left,
            sum: Exact::nothing(),
        };
        let input = begin(used.input_tokens)
            .take(used.cached_input_tokens, self.cached_input)
            .take(used.cache_write_tokens, self.cache_write)
            .take(used.cache_write_1h_tokens, self.cache_write_1h)
            .take(used.cached_image_input_tokens, self.cached_image_input)
            .take(used.image_input_tokens, self.image_input)
            .take(used.audio_input_tokens, self.audio_input)
            .rest(self.input);
        let output = begin(used.output_tokens)
            .take(used.image_output_tokens, self.image_output)
            .take(used.audio_output_tokens, self.audio_output)
            .rest(self.output);
        // Images that are billed in tokens are not billed by the piece as well. Where no token of theirs has a price, they are.
        let pieces = if output == Exact::nothing() {
            used.images
        } else {
            0
        };
        input
            .plus(output)
            .plus(of(pieces, self.image, EACH))
            .plus(self.beside_tokens(used))
    }

    /// The most that a request within these quantities can cost. Grows with each of them.
    ///
    /// Whatever the provider's cache does with a prompt, no token of it costs more than the highest input rate; a token
    /// that may be an image, audio, or written for an hour may cost what that is dearer.
    pub(super) fn most(&self, most: &Quantities) -> Exact {
        let base = self.highest_input_rate();
        let images = most
            .image_input_tokens
            .saturating_add(most.cached_image_input_tokens);
        let image = self.image_input.max(self.cached_image_input);
        let tokens = [
            (most.input_tokens, base),
            (most.cache_write_1h_tokens, self.cache_write_1h.above(base)),
            (images, image.above(base)),
            (most.audio_input_tokens, self.audio_input.above(base)),
            (most.output_tokens, self.output),
            (
                most.image_output_tokens,
                self.image_output.above(self.output),
            ),
            (
                most.audio_output_tokens,
                self.audio_output.above(self.output),
            ),
        ];
        tokens
            .into_iter()
            .map(|(count, rate)| of(count, rate, A_MILLION))
            .fold(of(most.images, self.image, EACH), Exact::plus)
            .plus(self.beside_tokens(most))
    }

    fn highest_input_rate(&self) -> Rate {
        self.input.max(self.cached_input).max(self.cache_write)
    }

    fn beside_tokens(&self, used: &Quantities) -> Exact {
        of(used.audio_seconds, self.minute, A_MINUTE).plus(of(
            used.characters,
            self.characters,
            A_MILLION,
        ))
    }
}
