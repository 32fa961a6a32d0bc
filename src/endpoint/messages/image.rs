//! Pictures in a prompt: which are passed on, and the most tokens that one can be billed as.
//!
//! By Anthropic's page on vision: a picture is padded to patches of 28 × 28 pixels, each of them a token; an older rule
//! says width × height ÷ 750. One that is too large is scaled down first, to at most 2576 pixels a side (older models: to
//! 1568). The dearer reading of both rules counts, and of a picture by URL, whose size is not known, the largest.

use super::wire::Source;
use crate::endpoint::data_url::is_padded_base64;
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::image::is_public_https;
use crate::endpoint::image_size;

const KINDS: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// A side of a patch, in pixels.
const PATCH: u64 = 28;
/// By the older rule, so many pixels are a token.
const PIXELS: u64 = 750;
/// What a square of 2576 pixels comes to by the older rule, which is more than by the other.
const TOKENS_MAX: u64 = 8_848;

/// Checks a picture, inline or by the `https:` URL of a public host.
pub(super) fn check(source: &Source) -> Checked {
    if let Some(url) = &source.url {
        if is_public_https(url) {
            return Ok(());
        }
        let what = "must be the https: URL of a public host";
        return Err(FieldError::invalid("url", what));
    }
    let kind = source.media_type.as_deref().unwrap_or_default();
    if !KINDS.contains(&kind) {
        let what = format!("must be one of: {}", KINDS.join(", "));
        return Err(FieldError::invalid("media_type", what));
    }
    let data = source.data.as_deref().unwrap_or_default();
    if !is_padded_base64(data) {
        let what = "must be padded base64 without line breaks";
        return Err(FieldError::invalid("data", what));
    }
    if image_size::size(data).is_none() {
        let what = "must be a PNG, JPEG, WebP or GIF: its width and height cannot be read";
        return Err(FieldError::invalid("data", what));
    }
    Ok(())
}

/// The most tokens that a picture can be billed as.
pub(super) fn tokens_max(source: &Source) -> u64 {
    let Some((width, height)) = source.data.as_deref().and_then(image_size::size) else {
        return TOKENS_MAX;
    };
    let patches = width.div_ceil(PATCH).saturating_mul(height.div_ceil(PATCH));
    let pixels = width.saturating_mul(height).div_ceil(PIXELS);
    patches.max(pixels).min(TOKENS_MAX)
}
