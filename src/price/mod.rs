//! Quantities to money, and the price table. Pure.
//!
//! Money is whole micro-dollars. The cost of a request is computed on its totals and rounded up once. Sums saturate; no
//! float touches them. [`Price::bound`] is never below [`Price::cost`] of any usage within its argument: what is held is
//! enough.

mod quantities;
mod rates;
mod stored;
mod table;
#[cfg(test)]
mod tests;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::fmt;

use crate::model::Tokenizer;

pub use quantities::{Quantities, Usage};
pub use rates::{Rate, Rates};
pub use table::{LongEntry, PriceEntry, PriceTable};

/// No amount of money and no price that is read from text is above a billion dollars.
const MICROS_MAX: u64 = 1_000_000_000_000_000;

/// Millionths of a US dollar. Never negative where it is a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(pub i64);

/// What a model costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// The rates; the one of an image is zero until [`Price::for_image`] chooses it.
    pub rates: Rates,
    /// Rates of the whole request when its prompt is longer than so many tokens.
    pub long: Option<LongPrice>,
    /// What one image costs, by size and quality: `1024x1024-high`.
    pub images: BTreeMap<String, Rate>,
    /// The model bills tokens nobody sees: an answer without usage is charged its hold.
    pub reasoning: bool,
    /// What counts its text.
    pub tokenizer: Tokenizer,
}

/// Prices beyond a prompt length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LongPrice {
    /// Prompts of more tokens than this.
    pub above: u64,
    /// In place of the others.
    pub rates: Rates,
}

impl MicroUsd {
    /// Reads US dollars: digits, and at most six more after a point.
    ///
    /// # Errors
    /// What is wrong with the text and how to write it; also above a billion dollars.
    pub fn parse(text: &str) -> Result<Self, String> {
        let micros = micros(text)?;
        i64::try_from(micros).map(Self).map_err(|_| too_large())
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for MicroUsd {
    /// US dollars with six places: `0.000123`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let (dollars, micros) = (
            magnitude.div_euclid(1_000_000),
            magnitude.rem_euclid(1_000_000),
        );
        write!(f, "{sign}{dollars}.{micros:06}")
    }
}

/// Millionths of a decimal number.
fn micros(text: &str) -> Result<u64, String> {
    let wrong = || "is not an amount: write US dollars with digits and at most six after a point, such as \"0.15\"";
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return Err(wrong().to_owned());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let part: u64 = format!("{part:0<6}")
        .parse()
        .map_err(|_| wrong().to_owned())?;
    let micros = whole
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(part));
    micros
        .filter(|micros| *micros <= MICROS_MAX)
        .ok_or_else(too_large)
}

fn too_large() -> String {
    "is more than a billion dollars: write US dollars, such as \"0.15\"".to_owned()
}

impl Price {
    /// What a request cost. Parts of the input or the output are never more than it. A prompt longer than `long.above`
    /// makes the whole request long.
    #[must_use]
    pub fn cost(&self, used: &Quantities) -> MicroUsd {
        let long = self.long.filter(|long| used.input_tokens > long.above);
        let rates = long.map_or(self.rates, |long| long.rates);
        rates.cost(used).rounded_up()
    }

    /// The most that a request within these quantities can cost, whatever the provider's cache does and however short
    /// its prompt turns out to be: a shorter prompt may fall below `long.above`, where other prices apply. Of the parts
    /// of the input only those may be dearer that `most` names: images, audio, what is written for an hour.
    /// Grows with every quantity.
    #[must_use]
    pub fn bound(&self, most: &Quantities) -> MicroUsd {
        let Some(long) = self.long.filter(|long| most.input_tokens > long.above) else {
            return self.rates.most(most).rounded_up();
        };
        let short = Quantities {
            input_tokens: long.above,
            ..*most
        };
        let if_short = self.rates.most(&short);
        let if_long = long.rates.most(most);
        if_short.max(if_long).rounded_up()
    }

    /// Everything costs nothing.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let is_zero = |rates: &Rates| *rates == Rates::default();
        let long = self.long.as_ref().map(|long| &long.rates);
        is_zero(&self.rates) && long.is_none_or(is_zero) && self.images.is_empty()
    }

    /// Some token costs something.
    #[must_use]
    pub fn is_paid_in_tokens(&self) -> bool {
        let of_tokens = |rates: &Rates| Rates {
            minute: Rate::default(),
            characters: Rate::default(),
            image: Rate::default(),
            ..*rates
        };
        let is_paid = |rates: &Rates| of_tokens(rates) != Rates::default();
        is_paid(&self.rates) || self.long.is_some_and(|long| is_paid(&long.rates))
    }

    /// The price of images of one size and quality (`1024x1024-high`); none where the table has none for them.
    #[must_use]
    pub fn for_image(&self, kind: &str) -> Option<Self> {
        let image = *self.images.get(kind)?;
        let mut price = self.clone();
        price.images.clear();
        price.rates.image = image;
        if let Some(long) = &mut price.long {
            long.rates.image = image;
        }
        Some(price)
    }
}
