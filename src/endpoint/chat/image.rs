//! The images in the messages of a chat.

use super::wire::{ImageUrl, Request};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::image;
use crate::endpoint::json::TextOr;

/// Checks every image of a request, and writes those inline in one form.
pub(crate) fn prepare(request: &mut Request) -> Checked {
    let messages = request
        .messages
        .iter_mut()
        .flat_map(|list| &mut list.0)
        .enumerate();
    for (at, message) in messages {
        let Some(TextOr::Other(parts)) = &mut message.content else {
            continue;
        };
        for (place, part) in parts.0.iter_mut().enumerate() {
            let Some(image) = &mut part.image_url else {
                continue;
            };
            read(image).map_err(|fault| fault.under(path(at, place)))?;
        }
    }
    Ok(())
}

/// The images of a request: the path of each, and the most tokens that it can be billed as. The first `hidden` messages are
/// not the caller's, who counts without them.
pub(crate) fn all(
    request: &Request,
    (model, openai): (&str, bool),
    hidden: usize,
) -> Vec<(String, u64)> {
    let messages = request.messages.iter().flat_map(|list| &list.0).enumerate();
    let parts = messages.flat_map(|(at, message)| {
        let parts = if let Some(TextOr::Other(parts)) = &message.content {
            parts.0.as_slice()
        } else {
            &[]
        };
        parts
            .iter()
            .enumerate()
            .map(move |(place, part)| ((at, place), part.image_url.as_deref()))
    });
    parts
        .filter_map(|((at, place), image)| {
            let path = path(at.saturating_sub(hidden), place);
            Some((path, tokens_max((model, openai), image?)))
        })
        .collect()
}

fn path(message: usize, part: usize) -> String {
    format!("messages[{message}].content[{part}].image_url")
}

/// The most tokens that an image can be billed as by a model.
pub(crate) fn tokens_max(model: (&str, bool), image: &ImageUrl) -> u64 {
    let url = image.url.as_deref().unwrap_or_default();
    image::tokens_max(model, url, image.detail.as_deref())
}

/// An image that may be passed on: a PNG, JPEG, WebP or GIF inline, or a public `https:` URL.
pub(super) fn read(image: &mut ImageUrl) -> Checked {
    if let Some(name) = &image.unknown {
        return Err(FieldError::unsupported(
            &name.name,
            "is not supported: remove it",
        ));
    }
    image::check_detail(image.detail.as_deref())?;
    let url = image
        .url
        .as_mut()
        .ok_or_else(|| FieldError::missing("url"))?;
    image::check_url(url, "url")
}
