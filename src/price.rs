//! Tokens to money, and the price table. Pure.
//!
//! Money is whole micro-dollars. A price is micro-dollars a million tokens; the cost of a request is computed on its
//! totals and rounded up once. Sums saturate; no float touches them. [`Price::bound`] is never below [`Price::cost`] of
//! any usage within its arguments: what is held is enough.

use std::collections::BTreeMap;
use std::fmt;

/// The shipped table, in the format of `[prices."name"]`.
const SHIPPED: &str = include_str!("../prices.toml");

/// No amount of money and no price that is read from text is above a billion dollars.
const MICROS_MAX: u64 = 1_000_000_000_000_000;

/// The longest name of a model that is looked up.
const MODEL_NAME_BYTES_MAX: usize = 128;

/// Millionths of a US dollar. Never negative where it is a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(pub i64);

/// What a request used, in tokens, as the upstream reported it or as it was estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, those from the cache included.
    pub input_tokens: u64,
    /// The part of `input_tokens` read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// The part of `input_tokens` written to the provider's prompt cache.
    pub cache_write_tokens: u64,
    /// All generated tokens, hidden reasoning included.
    pub output_tokens: u64,
    /// The part of `output_tokens` that nobody sees.
    pub reasoning_tokens: u64,
}

/// Which tokenizer counts a model's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// `o200k_base`: gpt-4o and later.
    O200k,
    /// `cl100k_base`: gpt-4, gpt-3.5.
    Cl100k,
    /// Unknown: a prompt is bounded by its bytes; estimates of output use `o200k_base`.
    #[default]
    Unknown,
}

/// Micro-dollars a million tokens (so US dollars a million tokens, times a million).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMillion(pub u64);

/// What a model costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Prompt tokens that came neither from nor went to a cache.
    pub input: PerMillion,
    /// Prompt tokens read from the cache.
    pub cached_input: PerMillion,
    /// Prompt tokens written to the cache.
    pub cache_write: PerMillion,
    /// Generated tokens.
    pub output: PerMillion,
    /// Prices of the whole request when its prompt is longer than so many tokens.
    pub long: Option<LongPrice>,
    /// The model bills tokens nobody sees: an answer without usage is charged its hold.
    pub reasoning: bool,
    /// What counts its text.
    pub tokenizer: Tokenizer,
}

/// Prices beyond a prompt length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongPrice {
    /// Prompts of more tokens than this.
    pub above: u64,
    /// As in [`Price`].
    pub input: PerMillion,
    /// As in [`Price`].
    pub cached_input: PerMillion,
    /// As in [`Price`].
    pub cache_write: PerMillion,
    /// As in [`Price`].
    pub output: PerMillion,
}

/// Every priced model by its canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Canonical name to price.
    pub models: BTreeMap<String, Price>,
}

/// A price as it is written in `prices.toml` and under `[prices."name"]`: US dollars a million tokens, as strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceEntry {
    /// Needed, unless `free`.
    pub input: Option<String>,
    /// Default: `input`.
    pub cached_input: Option<String>,
    /// Default: `input`.
    pub cache_write: Option<String>,
    /// Needed, unless `free`.
    pub output: Option<String>,
    /// Prices beyond a prompt length.
    pub long: Option<LongEntry>,
    /// The model bills tokens nobody sees. Default: no.
    pub reasoning: Option<bool>,
    /// Everything costs nothing; no price may stand beside it.
    pub free: bool,
    /// What counts its text. Default: unknown.
    pub tokenizer: Option<Tokenizer>,
}

impl PriceEntry {
    /// This entry in place of another price of the same model: what a model is does not change with what it costs.
    #[must_use]
    pub fn over(mut self, shipped: Option<&Price>) -> Self {
        if let Some(shipped) = shipped {
            self.reasoning = self.reasoning.or(Some(shipped.reasoning));
            self.tokenizer = self.tokenizer.or(Some(shipped.tokenizer));
        }
        self
    }
}

/// `long = { above = 272000, input = "…", output = "…" }`
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongEntry {
    /// Prompts of more tokens than this; at least 1.
    pub above: u64,
    /// As in [`PriceEntry`].
    pub input: String,
    /// Default: the long `input`.
    pub cached_input: Option<String>,
    /// Default: the long `input`.
    pub cache_write: Option<String>,
    /// As in [`PriceEntry`].
    pub output: String,
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
        let (dollars, micros) = (magnitude.div_euclid(1_000_000), magnitude.rem_euclid(1_000_000));
        write!(f, "{sign}{dollars}.{micros:06}")
    }
}

impl PerMillion {
    /// Reads US dollars a million tokens, as [`MicroUsd::parse`] does.
    ///
    /// # Errors
    /// As [`MicroUsd::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        micros(text).map(Self)
    }

    /// What so many tokens cost, in millionths of micro-dollars.
    fn times(self, tokens: u64) -> u128 {
        u128::from(self.0).saturating_mul(u128::from(tokens))
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
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong().to_owned())?;
    let micros = whole.checked_mul(1_000_000).and_then(|micros| micros.checked_add(part));
    micros.filter(|micros| *micros <= MICROS_MAX).ok_or_else(too_large)
}

fn too_large() -> String {
    "is more than a billion dollars: write US dollars, such as \"0.15\"".to_owned()
}

/// The four rates that apply to one request.
#[derive(Clone, Copy)]
struct Rates {
    input: PerMillion,
    cached_input: PerMillion,
    cache_write: PerMillion,
    output: PerMillion,
}

impl Rates {
    /// Whatever the provider's cache does with a prompt, no token of it costs more than this.
    fn dearest_input(self) -> PerMillion {
        self.input.max(self.cached_input).max(self.cache_write)
    }

    fn most(self, input_tokens: u64, output_tokens: u64) -> u128 {
        self.dearest_input().times(input_tokens).saturating_add(self.output.times(output_tokens))
    }
}

/// One rounding, up, at the end.
fn rounded_up(millionths: u128) -> MicroUsd {
    MicroUsd(i64::try_from(millionths.div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

impl Price {
    const FREE: Self = Self {
        input: PerMillion(0),
        cached_input: PerMillion(0),
        cache_write: PerMillion(0),
        output: PerMillion(0),
        long: None,
        reasoning: false,
        tokenizer: Tokenizer::Unknown,
    };

    /// What a request cost. Tokens read from or written to the cache are part of the input and are never more than it.
    /// A prompt longer than `long.above` makes the whole request long.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> MicroUsd {
        let long = self.long.as_ref().filter(|long| usage.input_tokens > long.above);
        let rates = long.map_or_else(|| self.rates(), LongPrice::rates);
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let uncached = usage.input_tokens.saturating_sub(cached);
        let written = usage.cache_write_tokens.min(uncached);
        let plain = uncached.saturating_sub(written);
        let parts = [
            rates.input.times(plain),
            rates.cached_input.times(cached),
            rates.cache_write.times(written),
            rates.output.times(usage.output_tokens),
        ];
        rounded_up(parts.into_iter().fold(0, u128::saturating_add))
    }

    /// The most that a request of at most so many tokens can cost, whatever the provider's cache does and however short
    /// its prompt turns out to be: a shorter prompt may fall below `long.above`, where other prices apply.
    /// Grows with both arguments.
    #[must_use]
    pub fn bound(&self, input_tokens: u64, output_tokens: u64) -> MicroUsd {
        let Some(long) = self.long.as_ref().filter(|long| input_tokens > long.above) else {
            return rounded_up(self.rates().most(input_tokens, output_tokens));
        };
        let if_short = self.rates().most(long.above, output_tokens);
        let if_long = long.rates().most(input_tokens, output_tokens);
        rounded_up(if_short.max(if_long))
    }

    fn rates(&self) -> Rates {
        let Self { input, cached_input, cache_write, output, .. } = *self;
        Rates { input, cached_input, cache_write, output }
    }
}

impl LongPrice {
    fn rates(&self) -> Rates {
        let Self { input, cached_input, cache_write, output, .. } = *self;
        Rates { input, cached_input, cache_write, output }
    }
}

impl TryFrom<PriceEntry> for Price {
    /// The key at fault and the fix: `` `output` is missing: … ``.
    type Error = String;

    fn try_from(entry: PriceEntry) -> Result<Self, String> {
        if entry.free {
            return free(&entry);
        }
        let input = needed("input", entry.input.as_deref())?;
        Ok(Self {
            input,
            cached_input: read("cached_input", entry.cached_input.as_deref())?.unwrap_or(input),
            cache_write: read("cache_write", entry.cache_write.as_deref())?.unwrap_or(input),
            output: needed("output", entry.output.as_deref())?,
            long: entry.long.map(LongPrice::try_from).transpose()?,
            reasoning: entry.reasoning.unwrap_or_default(),
            tokenizer: entry.tokenizer.unwrap_or_default(),
        })
    }
}

impl TryFrom<LongEntry> for LongPrice {
    type Error = String;

    fn try_from(entry: LongEntry) -> Result<Self, String> {
        if entry.above == 0 {
            return Err(
                "`long.above` is 0: give the prompt length beyond which long prices apply, in tokens".to_owned()
            );
        }
        let input = needed("long.input", Some(&entry.input))?;
        Ok(Self {
            above: entry.above,
            input,
            cached_input: read("long.cached_input", entry.cached_input.as_deref())?.unwrap_or(input),
            cache_write: read("long.cache_write", entry.cache_write.as_deref())?.unwrap_or(input),
            output: needed("long.output", Some(&entry.output))?,
        })
    }
}

/// A model that costs nothing. A price beside `free = true` would say two things at once.
fn free(entry: &PriceEntry) -> Result<Price, String> {
    let priced = [
        ("input", entry.input.is_some()),
        ("cached_input", entry.cached_input.is_some()),
        ("cache_write", entry.cache_write.is_some()),
        ("output", entry.output.is_some()),
        ("long", entry.long.is_some()),
    ];
    if let Some((key, _)) = priced.into_iter().find(|(_, given)| *given) {
        return Err(format!("`{key}` stands beside `free = true`: remove one of them"));
    }
    let (reasoning, tokenizer) = (entry.reasoning.unwrap_or_default(), entry.tokenizer.unwrap_or_default());
    Ok(Price { reasoning, tokenizer, ..Price::FREE })
}

fn needed(key: &str, text: Option<&str>) -> Result<PerMillion, String> {
    let missing =
        || format!("`{key}` is missing: give US dollars a million tokens, such as {key} = \"0.60\", or free = true");
    read(key, text)?.ok_or_else(missing)
}

fn read(key: &str, text: Option<&str>) -> Result<Option<PerMillion>, String> {
    text.map(PerMillion::parse).transpose().map_err(|fault| format!("`{key}` {fault}"))
}

impl PriceTable {
    /// The table that comes with the program. A test reads every entry of it; an entry that could not be read would be
    /// missing, and a plan that names it refused at start.
    #[must_use]
    pub fn shipped() -> Self {
        let entries: BTreeMap<String, PriceEntry> = toml::from_str(SHIPPED).unwrap_or_default();
        let priced = |(name, entry)| Price::try_from(entry).ok().map(|price| (name, price));
        Self { models: entries.into_iter().filter_map(priced).collect() }
    }

    /// The canonical name and the price of a model: its exact name, or a known name with a date behind it
    /// (`gpt-4o-2024-08-06`). Nothing else is guessed: no case, no prefix, no alias.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<(&str, &Price)> {
        if name.len() > MODEL_NAME_BYTES_MAX {
            return None;
        }
        let exact = self.models.get_key_value(name);
        let found = exact.or_else(|| self.models.get_key_value(undated(name)?))?;
        Some((found.0.as_str(), found.1))
    }
}

/// The name before `-YYYY-MM-DD`.
fn undated(name: &str) -> Option<&str> {
    let (base, suffix) = name.split_at_checked(name.len().checked_sub("-YYYY-MM-DD".len())?)?;
    let date = suffix.strip_prefix('-')?;
    let shaped = date.bytes().zip("dddd-dd-dd".bytes()).all(|(byte, shape)| match shape {
        b'd' => byte.is_ascii_digit(),
        dash => byte == dash,
    });
    (shaped && date.parse::<jiff::civil::Date>().is_ok()).then_some(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shipped(name: &str) -> Price {
        PriceTable::shipped().models.remove(name).unwrap_or_else(|| panic!("{name} has no price"))
    }

    #[test]
    fn dollars_are_read_exactly_or_refused() {
        assert_eq!(MicroUsd::parse("0.50"), Ok(MicroUsd(500_000)));
        assert_eq!(MicroUsd::parse("12"), Ok(MicroUsd(12_000_000)));
        assert_eq!(MicroUsd::parse("0.000001"), Ok(MicroUsd(1)));
        assert_eq!(MicroUsd::parse("1000000000"), Ok(MicroUsd(1_000_000_000_000_000)));
        assert_eq!(PerMillion::parse("0.15"), Ok(PerMillion(150_000)));
        let wrong = ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000001", " 1", "1,5", "1_000", "NaN", "١", "1.2.3"];
        for text in wrong.into_iter().chain(["1000000000.000001", "99999999999999999999999"]) {
            assert!(MicroUsd::parse(text).is_err(), "{text:?} was read");
            assert!(PerMillion::parse(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn dollars_are_written_with_six_places() {
        assert_eq!(MicroUsd(123).to_string(), "0.000123");
        assert_eq!(MicroUsd(1_500_000).to_string(), "1.500000");
        assert_eq!(MicroUsd(-1).to_string(), "-0.000001");
        assert_eq!(MicroUsd(i64::MIN).to_string(), "-9223372036854.775808");
        assert_eq!(MicroUsd(i64::MAX).saturating_add(MicroUsd(1)), MicroUsd(i64::MAX));
    }

    #[test]
    fn well_known_prices_are_shipped() {
        // (model, input, cached input, output), micro-dollars a million tokens, as OpenAI publishes them.
        let known = [
            ("gpt-4o-mini", 150_000, 75_000, 600_000),
            ("gpt-4o", 2_500_000, 1_250_000, 10_000_000),
            ("gpt-4o-2024-05-13", 5_000_000, 5_000_000, 15_000_000),
            ("gpt-3.5-turbo", 500_000, 500_000, 1_500_000),
            ("gpt-4", 30_000_000, 30_000_000, 60_000_000),
            ("gpt-4-turbo", 10_000_000, 10_000_000, 30_000_000),
            ("gpt-4.1", 2_000_000, 500_000, 8_000_000),
            ("gpt-4.1-nano", 100_000, 25_000, 400_000),
            ("gpt-5", 1_250_000, 125_000, 10_000_000),
            ("gpt-5-mini", 250_000, 25_000, 2_000_000),
            ("gpt-5-nano", 50_000, 5_000, 400_000),
            ("gpt-5.4-mini", 750_000, 75_000, 4_500_000),
            ("gpt-5.6-luna", 200_000, 20_000, 1_200_000),
            ("gpt-6-luna", 100_000, 10_000, 500_000),
            ("gpt-6-sol", 2_000_000, 200_000, 10_000_000),
            ("gpt-6.1-terra", 1_000_000, 50_000, 5_000_000),
            ("o1", 15_000_000, 7_500_000, 60_000_000),
            ("o3", 2_000_000, 500_000, 8_000_000),
            ("o4-mini", 1_100_000, 275_000, 4_400_000),
        ];
        for (name, input, cached, output) in known {
            let price = shipped(name);
            let got = (price.input.0, price.cached_input.0, price.output.0);
            assert_eq!(got, (input, cached, output), "{name}");
        }
        let PerMillion(write) = shipped("gpt-6-luna").cache_write;
        assert_eq!(write, 125_000);
    }

    #[test]
    fn every_shipped_entry_is_read() {
        let entries: BTreeMap<String, PriceEntry> = toml::from_str(SHIPPED).unwrap();
        assert!(entries.len() > 30);
        for (name, entry) in &entries {
            assert_eq!(Price::try_from(entry.clone()).map(|_| ()), Ok(()), "{name}");
        }
        assert_eq!(PriceTable::shipped().models.len(), entries.len());
    }

    #[test]
    fn hidden_reasoning_and_tokenizers_are_known() {
        for (name, price) in PriceTable::shipped().models {
            let thinks = ["o", "gpt-5", "gpt-6"].iter().any(|start| name.starts_with(start)) && !name.contains("-chat");
            assert_eq!(price.reasoning, thinks, "{name}");
            let old = name.starts_with("gpt-3.5") || name == "gpt-4" || name.starts_with("gpt-4-");
            assert_eq!(price.tokenizer, if old { Tokenizer::Cl100k } else { Tokenizer::O200k }, "{name}");
        }
    }

    #[test]
    fn a_name_resolves_exactly_or_by_its_date_and_by_nothing_else() {
        let table = PriceTable::shipped();
        let canonical = |name: &str| table.resolve(name).map(|(name, _)| name.to_owned());
        assert_eq!(canonical("gpt-4o").as_deref(), Some("gpt-4o"));
        assert_eq!(canonical("gpt-4o-2024-08-06").as_deref(), Some("gpt-4o"));
        assert_eq!(canonical("gpt-4o-2024-05-13").as_deref(), Some("gpt-4o-2024-05-13"));
        let strangers = ["", "GPT-4o", "gpt-4O", "openai/gpt-4o", "gpt-4o ", "gpt-4o-latest", "gpt-4o-2024-13-01"];
        let dates = [
            "gpt-4o-2024-02-30",
            "gpt-4o-20240806",
            "gpt-4o-2024-8-6",
            "-2024-08-06",
            "2024-08-06",
            "gpt-4o-٢٠٢٤-08-06",
        ];
        for name in strangers.into_iter().chain(dates) {
            assert_eq!(canonical(name), None, "{name:?}");
        }
        assert_eq!(canonical(&"gpt-4o".repeat(100)), None);
        let mut long = PriceTable::default();
        long.models.insert("m".repeat(129), Price::FREE);
        assert_eq!(long.resolve(&"m".repeat(129)), None);
    }

    #[test]
    fn a_price_that_cannot_be_meant_is_refused_by_its_key() {
        let fault = |text: &str| Price::try_from(toml::from_str::<PriceEntry>(text).unwrap()).unwrap_err();
        assert!(fault("").starts_with("`input` is missing"));
        assert!(fault("input = \"1\"").starts_with("`output` is missing"));
        assert!(fault("input = \"-1\"\noutput = \"1\"").starts_with("`input` is not an amount"));
        assert!(fault("free = true\noutput = \"1\"").starts_with("`output` stands beside"));
        let long = "input = \"1\"\noutput = \"1\"\nlong = { above = 0, input = \"1\", output = \"1\" }";
        assert!(fault(long).starts_with("`long.above`"));
        assert!(toml::from_str::<PriceEntry>("inptu = \"1\"").is_err());
        let free: PriceEntry = toml::from_str("free = true\nreasoning = true").unwrap();
        assert_eq!(Price::try_from(free), Ok(Price { reasoning: true, ..Price::FREE }));
    }

    #[test]
    fn a_cost_is_rounded_up_once_on_the_total() {
        let price = Price { input: PerMillion(1), output: PerMillion(1), ..Price::FREE };
        let usage = Usage { input_tokens: 1, output_tokens: 1, ..Usage::default() };
        assert_eq!(price.cost(&usage), MicroUsd(1));
        assert_eq!(price.cost(&Usage::default()), MicroUsd(0));
        let mini = Usage { input_tokens: 1_000, cached_input_tokens: 400, output_tokens: 500, ..Usage::default() };
        assert_eq!(shipped("gpt-4o-mini").cost(&mini), MicroUsd(90 + 30 + 300));
    }

    #[test]
    fn cached_and_written_tokens_are_never_more_than_the_input() {
        let price = shipped("gpt-5.6");
        let lies =
            Usage { input_tokens: 10, cached_input_tokens: 1_000, cache_write_tokens: 1_000, ..Usage::default() };
        assert_eq!(price.cost(&lies), MicroUsd(4));
    }

    #[test]
    fn a_long_prompt_makes_the_whole_request_long() {
        let price = shipped("gpt-5.4");
        let at = |input_tokens| price.cost(&Usage { input_tokens, output_tokens: 1_000_000, ..Usage::default() });
        assert_eq!(at(272_000), MicroUsd(680_000 + 15_000_000));
        assert_eq!(at(272_001), MicroUsd(1_360_005 + 22_500_000));
    }

    #[test]
    fn a_bound_covers_a_prompt_that_turns_out_short_where_short_is_dearer() {
        let mut price = shipped("gpt-5.4");
        if let Some(long) = &mut price.long {
            (long.input, long.cached_input, long.cache_write, long.output) = Default::default();
        }
        let short = Usage { input_tokens: 272_000, output_tokens: 5, ..Usage::default() };
        assert_eq!(price.bound(300_000, 5), price.cost(&short));
    }

    #[test]
    fn huge_numbers_saturate() {
        let price = Price { input: PerMillion(u64::MAX), output: PerMillion(u64::MAX), ..Price::FREE };
        assert_eq!(price.bound(u64::MAX, u64::MAX), MicroUsd(i64::MAX));
        let usage = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(price.cost(&usage), MicroUsd(i64::MAX));
    }

    fn any_price() -> impl Strategy<Value = Price> {
        let rate = || (0u64..60_000_000).prop_map(PerMillion);
        let rates = move || (rate(), rate(), rate(), rate());
        (rates(), proptest::option::of((1u64..2_000, rates()))).prop_map(|(short, long)| Price {
            input: short.0,
            cached_input: short.1,
            cache_write: short.2,
            output: short.3,
            long: long.map(|(above, long)| LongPrice {
                above,
                input: long.0,
                cached_input: long.1,
                cache_write: long.2,
                output: long.3,
            }),
            reasoning: false,
            tokenizer: Tokenizer::Unknown,
        })
    }

    proptest! {
        #[test]
        fn no_usage_within_a_bound_costs_more(
            price in any_price(),
            input in 0u64..4_000,
            output in 0u64..4_000,
            parts in (0u64..4_000, 0u64..4_000, 0u64..4_000, 0u64..4_000),
        ) {
            let usage = Usage {
                input_tokens: parts.0.min(input),
                output_tokens: parts.1.min(output),
                cached_input_tokens: parts.2,
                cache_write_tokens: parts.3,
                reasoning_tokens: 0,
            };
            prop_assert!(price.cost(&usage) <= price.bound(input, output));
        }

        #[test]
        fn a_bound_grows_with_both_arguments(price in any_price(), input in 0u64..4_000, output in 0u64..4_000) {
            prop_assert!(price.bound(input, output) <= price.bound(input.saturating_add(1), output));
            prop_assert!(price.bound(input, output) <= price.bound(input, output.saturating_add(1)));
        }

        #[test]
        fn what_is_written_is_read_back(micros in 0i64..1_000_000_000_000_000) {
            prop_assert_eq!(MicroUsd::parse(&MicroUsd(micros).to_string()), Ok(MicroUsd(micros)));
        }
    }
}
