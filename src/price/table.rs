//! The price table: what stands in `prices.toml` and under `[prices."name"]`, read and checked. Pure.

use std::collections::{BTreeMap, HashSet};

use super::{LongPrice, Price, Rate, Rates};
use crate::model::{Capability, ModelTable, Tokenizer};

/// The shipped table, in the format of `[prices."name"]`, each row on a line of its own. `scripts/prices.py` writes it.
pub(super) const SHIPPED: &str = include_str!("../../prices.toml");

/// The longest name of a model that is looked up.
const MODEL_NAME_BYTES_MAX: usize = 128;

/// The longest name of a size and quality of images.
const IMAGE_KIND_BYTES_MAX: usize = 32;

/// Every priced model by its canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Canonical name to price.
    pub models: BTreeMap<String, Price>,
    /// What `[prices."name"] endpoints` says that a model serves.
    pub endpoints: BTreeMap<String, Vec<Capability>>,
}

/// A price as it is written in `prices.toml` and under `[prices."name"]`: US dollars as strings, a million tokens where
/// nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceEntry {
    /// Needed beside `output`.
    pub input: Option<String>,
    /// Default: `input`.
    pub cached_input: Option<String>,
    /// Default: `input`.
    pub cache_write: Option<String>,
    /// Default: twice `input`.
    pub cache_write_1h: Option<String>,
    /// Needed beside `input`. Default beside `image_output` or `audio_output`: the higher of them.
    pub output: Option<String>,
    /// Default: `input`.
    pub image_input: Option<String>,
    /// Default: `image_input`.
    pub cached_image_input: Option<String>,
    /// Default: `output`.
    pub image_output: Option<String>,
    /// Default: `input`.
    pub audio_input: Option<String>,
    /// Default: `output`.
    pub audio_output: Option<String>,
    /// A minute of audio. Default: nothing.
    pub minute: Option<String>,
    /// A million characters. Default: nothing.
    pub characters: Option<String>,
    /// One image, by size and quality: `"1024x1024-high" = "0.167"`.
    pub image: BTreeMap<String, String>,
    /// Prices beyond a prompt length.
    pub long: Option<LongEntry>,
    /// The model bills tokens nobody sees. Default: no.
    pub reasoning: Option<bool>,
    /// Everything costs nothing; no price may stand beside it.
    pub free: bool,
    /// What counts its text. Default: unknown.
    pub tokenizer: Option<Tokenizer>,
    /// Which endpoints it serves. Default: what `models.toml` says, else chat and responses.
    pub endpoints: Option<Vec<Capability>>,
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
    /// Default: twice the long `input`.
    pub cache_write_1h: Option<String>,
    /// As in [`PriceEntry`].
    pub output: String,
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

    /// The price of one quantity, if it is given.
    fn rate(&self, key: &str) -> Option<&str> {
        let text = match key {
            "input" => &self.input,
            "cached_input" => &self.cached_input,
            "cache_write" => &self.cache_write,
            "cache_write_1h" => &self.cache_write_1h,
            "output" => &self.output,
            "image_input" => &self.image_input,
            "cached_image_input" => &self.cached_image_input,
            "image_output" => &self.image_output,
            "audio_input" => &self.audio_input,
            "audio_output" => &self.audio_output,
            "minute" => &self.minute,
            "characters" => &self.characters,
            _ => &None,
        };
        text.as_deref()
    }

    /// Some key that is a price, if any is given.
    fn priced_key(&self) -> Option<&'static str> {
        let rate = Rates::NAMES
            .into_iter()
            .find(|key| self.rate(key).is_some());
        rate.or((!self.image.is_empty()).then_some("image"))
            .or(self.long.is_some().then_some("long"))
    }

    /// Tokens are not what is paid for.
    fn is_without_tokens(&self) -> bool {
        let others = ["minute", "characters"];
        let names = Rates::NAMES.into_iter();
        let has_tokens = names
            .filter(|key| !others.contains(key))
            .any(|key| self.rate(key).is_some());
        !has_tokens && self.long.is_none() && self.priced_key().is_some()
    }
}

impl TryFrom<PriceEntry> for Price {
    /// The key at fault and the fix: `` `output` is missing: … ``.
    type Error = String;

    fn try_from(entry: PriceEntry) -> Result<Self, String> {
        if entry.free {
            return free(&entry);
        }
        let rates = rates(&entry)?;
        let long = entry.long.as_ref();
        let image = |(kind, text): (&String, &String)| {
            check_image_kind(kind)?;
            let read = Rate::parse(text).map_err(|fault| format!("`image.{kind}` {fault}"))?;
            Ok::<_, String>((kind.clone(), read))
        };
        Ok(Self {
            rates,
            long: long.map(|long| long_price(long, &rates)).transpose()?,
            images: entry.image.iter().map(image).collect::<Result<_, _>>()?,
            reasoning: entry.reasoning.unwrap_or_default(),
            tokenizer: entry.tokenizer.unwrap_or_default(),
        })
    }
}

/// What an entry does not say costs what is like it: a rate that was forgotten is never free.
fn rates(entry: &PriceEntry) -> Result<Rates, String> {
    let read = |key: &str| read(key, entry.rate(key));
    let higher = |one: &str, other: &str| Ok::<_, String>(read(one)?.max(read(other)?));
    let (input, output) = if entry.is_without_tokens() {
        (Rate::default(), Rate::default())
    } else {
        (
            needed(
                "input",
                read("input")?.or(higher("image_input", "audio_input")?),
            )?,
            needed(
                "output",
                read("output")?.or(higher("image_output", "audio_output")?),
            )?,
        )
    };
    let image_input = read("image_input")?.unwrap_or(input);
    Ok(Rates {
        input,
        cached_input: read("cached_input")?.unwrap_or(input),
        cache_write: read("cache_write")?.unwrap_or(input),
        cache_write_1h: read("cache_write_1h")?.unwrap_or(twice(input)),
        output,
        image_input,
        cached_image_input: read("cached_image_input")?.unwrap_or(image_input),
        image_output: read("image_output")?.unwrap_or(output),
        audio_input: read("audio_input")?.unwrap_or(input),
        audio_output: read("audio_output")?.unwrap_or(output),
        minute: read("minute")?.unwrap_or_default(),
        characters: read("characters")?.unwrap_or_default(),
        image: Rate::default(),
    })
}

/// Images and audio cost what they cost in a short request, unless text is dearer in a long one.
fn long_price(entry: &LongEntry, short: &Rates) -> Result<LongPrice, String> {
    if entry.above == 0 {
        return Err(
            "`long.above` is 0: give the prompt length beyond which long prices apply, in tokens"
                .to_owned(),
        );
    }
    let of = |key: &str, text: &str| needed(key, read(key, Some(text))?);
    let input = of("long.input", &entry.input)?;
    let output = of("long.output", &entry.output)?;
    let or = |key: &str, text: Option<&str>, default| {
        Ok::<_, String>(read(key, text)?.unwrap_or(default))
    };
    let rates = Rates {
        input,
        cached_input: or("long.cached_input", entry.cached_input.as_deref(), input)?,
        cache_write: or("long.cache_write", entry.cache_write.as_deref(), input)?,
        cache_write_1h: or(
            "long.cache_write_1h",
            entry.cache_write_1h.as_deref(),
            twice(input),
        )?,
        output,
        image_input: short.image_input.max(input),
        cached_image_input: short.cached_image_input.max(input),
        image_output: short.image_output.max(output),
        audio_input: short.audio_input.max(input),
        audio_output: short.audio_output.max(output),
        ..*short
    };
    Ok(LongPrice {
        above: entry.above,
        rates,
    })
}

const fn twice(Rate(rate): Rate) -> Rate {
    Rate(rate.saturating_mul(2))
}

/// A model that costs nothing. A price beside `free = true` would say two things at once.
fn free(entry: &PriceEntry) -> Result<Price, String> {
    if let Some(key) = entry.priced_key() {
        return Err(format!(
            "`{key}` stands beside `free = true`: remove one of them"
        ));
    }
    Ok(Price {
        reasoning: entry.reasoning.unwrap_or_default(),
        tokenizer: entry.tokenizer.unwrap_or_default(),
        ..Price::default()
    })
}

fn needed(key: &str, rate: Option<Rate>) -> Result<Rate, String> {
    let missing = || {
        format!(
            "`{key}` is missing: give US dollars a million tokens, such as {key} = \"0.60\", or free = true"
        )
    };
    rate.ok_or_else(missing)
}

fn read(key: &str, text: Option<&str>) -> Result<Option<Rate>, String> {
    text.map(Rate::parse)
        .transpose()
        .map_err(|fault| format!("`{key}` {fault}"))
}

/// `1024x1024-high`
fn check_image_kind(kind: &str) -> Result<(), String> {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !kind.is_empty() && kind.len() <= IMAGE_KIND_BYTES_MAX && kind.bytes().all(is_known) {
        return Ok(());
    }
    Err(format!(
        "`image` has {kind:?}: name a size and a quality, such as image = {{ \"1024x1024-high\" = \"0.167\" }}"
    ))
}

impl PriceTable {
    /// The table that comes with the program. A test reads every entry of it; an entry that could not be read would be
    /// missing, and a plan that names it refused at start.
    #[must_use]
    pub fn shipped() -> Self {
        Self::shipped_where(|_| true)
    }

    /// The rows of the shipped table for these names and for their dated forms. Most of a thousand rows are for models that
    /// nobody here asks for: they are not even parsed.
    #[must_use]
    pub fn shipped_for(names: &HashSet<&str>) -> Self {
        let bases: HashSet<&str> = names.iter().filter_map(|name| undated(name)).collect();
        let is_meant = |name: &str| names.contains(name) || bases.contains(name);
        Self::shipped_where(|name| is_meant(name) || undated(name).is_some_and(is_meant))
    }

    fn shipped_where(is_meant: impl Fn(&str) -> bool) -> Self {
        let known = ModelTable::shipped();
        let row = |line: &str| {
            let (name, _) = line.strip_prefix('"')?.split_once('"')?;
            if !is_meant(name) {
                return None;
            }
            let parsed: BTreeMap<String, PriceEntry> = toml::from_str(line).ok()?;
            let (name, mut entry) = parsed.into_iter().next()?;
            entry.reasoning = Some(known.reasons(&name));
            entry.tokenizer = Some(known.tokenizer(&name));
            Some((name, Price::try_from(entry).ok()?))
        };
        Self {
            models: SHIPPED.lines().filter_map(row).collect(),
            endpoints: BTreeMap::new(),
        }
    }

    /// The day on which the shipped table was written.
    #[must_use]
    pub fn written_on() -> Option<jiff::civil::Date> {
        let says = |line: &'static str| line.strip_prefix("# As of ");
        let (day, _) = SHIPPED.lines().find_map(says)?.split_once(':')?;
        day.parse().ok()
    }

    /// The canonical name and the price of a model: its exact name, or a known name with a date behind it
    /// (`gpt-4o-2024-08-06`, `claude-sonnet-4-5-20250929`). Nothing else is guessed: no case, no prefix, no alias.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<(&str, &Price)> {
        if name.len() > MODEL_NAME_BYTES_MAX {
            return None;
        }
        let exact = self.models.get_key_value(name);
        let found = exact.or_else(|| self.models.get_key_value(undated(name)?))?;
        Some((found.0.as_str(), found.1))
    }

    /// The entry that a plan must have for a name that an app says: one of the operator's names, or the canonical name of a
    /// model.
    #[must_use]
    pub fn entry<'a>(&'a self, name: &str, models: &'a ModelTable) -> Option<&'a str> {
        let made = models.aliases().get_key_value(name);
        let canonical = || self.resolve(name).map(|(canonical, _)| canonical);
        made.map(|(name, _)| name.as_str()).or_else(canonical)
    }
}

/// The name before `-YYYY-MM-DD`; of a Claude before `-YYYYMMDD`.
fn undated(name: &str) -> Option<&str> {
    if name.starts_with("claude-")
        && let Some((base, date)) = name.rsplit_once('-')
    {
        let is_date = date.len() == 8
            && date.bytes().all(|byte| byte.is_ascii_digit())
            && jiff::civil::Date::strptime("%Y%m%d", date).is_ok();
        return is_date.then_some(base);
    }
    let (base, suffix) = name.split_at_checked(name.len().checked_sub("-YYYY-MM-DD".len())?)?;
    let date = suffix.strip_prefix('-')?;
    let shaped = date
        .bytes()
        .zip("dddd-dd-dd".bytes())
        .all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            dash => byte == dash,
        });
    (shaped && date.parse::<jiff::civil::Date>().is_ok()).then_some(base)
}
