//! Which size and quality an image gets, and what one of it can cost at most. Pure.
//!
//! More than the plan allows is refused by name. What is left to the model (`auto`, or nothing) becomes the highest that the
//! plan allows and the model has: so what is priced is what is made.

use crate::endpoint::field_error::FieldError;
use crate::plan::{ImageCaps, ImageQuality, ImageSize};
use crate::price::{Price, Rate};

/// The sizes that the first generation of OpenAI's models has (its guide on image generation).
const FIRST_SIZES: [&str; 3] = ["1024x1024", "1536x1024", "1024x1536"];
/// At most so many tokens has one image of that generation, of 1024 × 1024 pixels and of one and a half times that, in low,
/// medium and high quality: the published counts (272 to 6240; by their prices some more for its small model), rounded up.
const FIRST_TOKENS: [[u64; 3]; 2] = [[640, 1_408, 4_608], [768, 2_048, 6_656]];
/// The same of any other model for each 1024 × 1024 pixels, and never less than that: twice what an image of gpt-image-2 has
/// by its price; each of the two higher qualities twice the one below it.
const OTHER_TOKENS: [u64; 5] = [640, 3_600, 14_400, 28_800, 57_600];
/// The pixels that those are for.
const UNIT_AREA: u64 = 1024 * 1024;
/// What a model may write beside an image, in tokens.
const TEXT_TOKENS: u64 = 512;
/// What each partial image adds (OpenAI's guide), in tokens.
const PARTIAL_TOKENS: u64 = 100;
/// How many sizes a refusal lists.
const LISTED_MAX: usize = 8;

/// What is made of each image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImageKind {
    pub(super) size: ImageSize,
    /// The request's words for both, as they are sent.
    pub(super) size_word: String,
    pub(super) quality_word: Option<String>,
    /// Its price, with that of one image where the table has one.
    pub(super) price: Price,
    /// The most tokens of one image.
    pub(super) tokens: u64,
}

/// A size or a quality that a request asks for.
#[derive(Clone, Copy)]
struct Wish<'a> {
    size: Option<(ImageSize, &'a str)>,
    quality: Option<(ImageQuality, &'a str)>,
}

/// A row of the table of prices for images: `1024x1024-high`, or `1024x1024` for any quality.
#[derive(Clone, Copy)]
struct PricedKind<'a> {
    key: &'a str,
    size: ImageSize,
    size_word: &'a str,
    quality: Option<(ImageQuality, &'a str)>,
}

/// Decides by the plan, the model and the request.
///
/// # Errors
/// `size` or `quality`: not one, above the plan's, or not one that the model has a price for.
pub(super) fn choose(
    (size, quality): (Option<&str>, Option<&str>),
    caps: &ImageCaps,
    (model, price): (&str, &Price),
) -> Result<ImageKind, FieldError> {
    let wish = Wish {
        size: wished_size(size, caps)?,
        quality: wished_quality(quality, caps)?,
    };
    let priced: Vec<_> = price
        .images
        .keys()
        .filter_map(|key| priced_kind(key))
        .collect();
    if !priced.is_empty() {
        let found = by_table(&priced, wish, caps);
        match found {
            Ok(kind) => return Ok(made(kind, wish, model, price)),
            Err(error) if !has_token_price(price) => return Err(error),
            Err(_) => {}
        }
    }
    by_tokens(wish, caps, (model, price))
}

/// An image, or what stands for it, costs something in tokens.
pub(super) fn has_token_price(price: &Price) -> bool {
    let rates = &price.rates;
    rates.output != Rate::default() || rates.image_output != Rate::default()
}

/// The most that partial images add to one, in tokens.
pub(super) const fn partial_tokens(count: u64) -> u64 {
    count.saturating_mul(PARTIAL_TOKENS)
}

fn wished_size<'a>(
    size: Option<&'a str>,
    caps: &ImageCaps,
) -> Result<Option<(ImageSize, &'a str)>, FieldError> {
    let Some(word) = size.filter(|size| *size != "auto") else {
        return Ok(None);
    };
    let Some(size) = ImageSize::parse(word) else {
        let what = "must be `auto`, or width and height in pixels, such as `1024x1024`";
        return Err(FieldError::invalid("size", what));
    };
    if size.area() > caps.size.area() {
        let what = format!(
            "is larger than this plan allows: at most as large as {}",
            caps.size
        );
        return Err(FieldError::invalid("size", what));
    }
    Ok(Some((size, word)))
}

fn wished_quality<'a>(
    quality: Option<&'a str>,
    caps: &ImageCaps,
) -> Result<Option<(ImageQuality, &'a str)>, FieldError> {
    let Some(word) = quality.filter(|quality| *quality != "auto") else {
        return Ok(None);
    };
    let Some(quality) = rank(word) else {
        let what = "must be `auto`, `low`, `medium`, `high`, `xhigh`, `max`, `standard` or `hd`";
        return Err(FieldError::invalid("quality", what));
    };
    if quality > caps.quality {
        let what = format!(
            "is higher than this plan allows: at most `{}`",
            caps.quality.as_str()
        );
        return Err(FieldError::invalid("quality", what));
    }
    Ok(Some((quality, word)))
}

/// How good a word is. Older models have two words of their own.
fn rank(word: &str) -> Option<ImageQuality> {
    match word {
        "standard" => Some(ImageQuality::Medium),
        "hd" => Some(ImageQuality::High),
        word => ImageQuality::parse(word),
    }
}

fn priced_kind(key: &str) -> Option<PricedKind<'_>> {
    let (size_word, quality) = match key.split_once('-') {
        None => (key, None),
        Some((size, word)) => (size, Some((rank(word)?, word))),
    };
    Some(PricedKind {
        key,
        size: ImageSize::parse(size_word)?,
        size_word,
        quality,
    })
}

/// The highest that is priced, within the plan, and what was asked for.
fn by_table<'a>(
    priced: &[PricedKind<'a>],
    wish: Wish<'_>,
    caps: &ImageCaps,
) -> Result<PricedKind<'a>, FieldError> {
    let is_allowed = |kind: &&PricedKind<'_>| {
        let quality = kind.quality.is_none_or(|(rank, _)| rank <= caps.quality);
        quality && kind.size.area() <= caps.size.area()
    };
    let has_size = |kind: &&PricedKind<'_>| wish.size.is_none_or(|(size, _)| size == kind.size);
    let has_quality = |kind: &&PricedKind<'_>| match (wish.quality, kind.quality) {
        (Some((_, wished)), Some((_, priced))) => wished == priced,
        _ => true,
    };
    let allowed = || priced.iter().filter(is_allowed);
    // Of two shapes of one area the plan's own goes first.
    let height = |kind: &&PricedKind<'_>| {
        let is_the_plans = kind.size == caps.size;
        (
            kind.size.area(),
            is_the_plans,
            kind.quality.map(|(rank, _)| rank),
        )
    };
    let fitting = allowed().filter(has_size).filter(has_quality);
    if let Some(kind) = fitting.max_by_key(height) {
        return Ok(*kind);
    }
    if allowed().any(|kind| has_size(&kind)) {
        let what = "is not one that this model has a price for in this size";
        return Err(FieldError::invalid("quality", what));
    }
    let sizes: Vec<_> = allowed()
        .map(|kind| kind.size_word)
        .take(LISTED_MAX)
        .collect();
    let what = if sizes.is_empty() {
        "cannot be chosen: this model has none that the plan allows".to_owned()
    } else {
        format!(
            "is not one that this model has a price for: {}",
            sizes.join(", ")
        )
    };
    Err(FieldError::invalid("size", what))
}

/// What the table has for it.
fn made(kind: PricedKind<'_>, wish: Wish<'_>, model: &str, price: &Price) -> ImageKind {
    let quality = kind.quality.or(wish.quality);
    let rank = quality.map_or(ImageQuality::Max, |(rank, _)| rank);
    ImageKind {
        size: kind.size,
        size_word: kind.size_word.to_owned(),
        quality_word: quality.map(|(_, word)| word.to_owned()),
        price: price.for_image(kind.key).unwrap_or_else(|| price.clone()),
        tokens: tokens(model, price, (kind.size, rank)),
    }
}

/// Without a row in the table.
fn by_tokens(
    wish: Wish<'_>,
    caps: &ImageCaps,
    (model, price): (&str, &Price),
) -> Result<ImageKind, FieldError> {
    let (size, size_word) = if let Some((size, word)) = wish.size {
        (size, word.to_owned())
    } else {
        let size = highest_size(model, caps);
        let what = "cannot be chosen: this model has none that the plan allows";
        let size = size.ok_or_else(|| FieldError::invalid("size", what))?;
        (size, size.to_string())
    };
    let (rank, word) = wish.quality.unwrap_or_else(|| {
        let best = caps.quality.min(best(model));
        (best, best.as_str())
    });
    Ok(ImageKind {
        size,
        size_word,
        quality_word: Some(word.to_owned()),
        price: price.clone(),
        tokens: tokens(model, price, (size, rank)),
    })
}

/// The first generation of OpenAI's models, of which the sizes and the tokens of each are known.
pub(super) fn is_first_generation(model: &str) -> bool {
    let bare = model.strip_prefix("openai/").unwrap_or(model);
    let names = [
        "gpt-image-1",
        "gpt-image-1.5",
        "gpt-image-1-mini",
        "chatgpt-image-latest",
    ];
    let is_named = |name: &&str| {
        bare.strip_prefix(*name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    names.iter().any(is_named)
}

/// The best quality that a model has, as far as that is known.
fn best(model: &str) -> ImageQuality {
    let bare = model.strip_prefix("openai/").unwrap_or(model);
    if is_first_generation(model) || bare == "gpt-image-2" || bare.starts_with("gpt-image-2-") {
        ImageQuality::High
    } else {
        ImageQuality::Max
    }
}

fn highest_size(model: &str, caps: &ImageCaps) -> Option<ImageSize> {
    if !is_first_generation(model) {
        return Some(caps.size);
    }
    let sizes = FIRST_SIZES.into_iter().filter_map(ImageSize::parse);
    let within = sizes.filter(|size| size.area() <= caps.size.area());
    within.max_by_key(|size| (size.area(), *size == caps.size))
}

/// The most tokens of one image; none where tokens cost nothing.
fn tokens(model: &str, price: &Price, (size, rank): (ImageSize, ImageQuality)) -> u64 {
    if !has_token_price(price) {
        return 0;
    }
    let place = ImageQuality::ALL.iter().position(|known| *known == rank);
    let area = size.area();
    let first = || {
        let counts = FIRST_TOKENS.get(usize::from(area > UNIT_AREA))?;
        // A larger one than the model has would be refused by it.
        let is_known = area.saturating_mul(2) <= UNIT_AREA.saturating_mul(3);
        counts.get(place?).copied().filter(|_| is_known)
    };
    let known = if is_first_generation(model) {
        first()
    } else {
        None
    };
    let image = known.unwrap_or_else(|| {
        let unit = place.and_then(|place| OTHER_TOKENS.get(place));
        let unit = unit.or(OTHER_TOKENS.last()).copied().unwrap_or(u64::MAX);
        unit.max(unit.saturating_mul(area).div_ceil(UNIT_AREA))
    });
    image.saturating_add(TEXT_TOKENS)
}
