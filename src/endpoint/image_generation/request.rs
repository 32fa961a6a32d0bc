//! The allow-list of a request for images: what is passed on, in which type and range.
//!
//! By OpenAI's descriptions of `CreateImageRequest`, `CreateImageEditRequest` and `EditImageBodyJsonParam`. Whether a size and
//! a quality are within the plan is [`super::size`]'s.

use super::Operation;
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::image;
use crate::endpoint::json::{List, object};
use crate::plan::ImageCaps;

/// The longest prompt, in characters.
const PROMPT_CHARS_MAX: usize = 32_000;
/// The most images of a prompt.
pub(super) const IMAGES_MAX: usize = 16;
/// The most images that a request may make, in whatever plan.
const MADE_MAX: u32 = 10;
/// The most partial images of each.
const PARTIAL_MAX: i64 = 3;
/// The longest `user`, in bytes.
const USER_BYTES_MAX: usize = 1024;

object! {
    /// A request, as it is written; the images of a form stand beside it.
    Request {
        model = "model": String,
        prompt = "prompt": String,
        images = "images": List<ImageRef, IMAGES_MAX>,
        mask = "mask": ImageRef,
        input_fidelity = "input_fidelity": String,
        n = "n": i64,
        size = "size": String,
        quality = "quality": String,
        background = "background": String,
        moderation = "moderation": String,
        style = "style": String,
        response_format = "response_format": String,
        output_format = "output_format": String,
        output_compression = "output_compression": i64,
        stream = "stream": bool,
        partial_images = "partial_images": i64,
        user = "user": String,
    }
}

object! {
    /// An image in JSON.
    ImageRef {
        image_url = "image_url": String,
        file_id = "file_id": String,
    }
}

/// The fields that the operator may set.
pub(super) const SETTABLE: [&str; 9] = [
    "size",
    "quality",
    "background",
    "moderation",
    "style",
    "output_format",
    "output_compression",
    "input_fidelity",
    "partial_images",
];

/// Checks a request, and writes URLs of images in the form that is sent.
pub(super) fn check(request: &mut Request, operation: Operation, caps: &ImageCaps) -> Checked {
    if let Some(unknown) = request.unknown.as_deref() {
        return Err(FieldError::unsupported(&unknown.name, REMOVE));
    }
    check_prompt(request.prompt.as_deref())?;
    check_count(request.n, caps)?;
    let user = request.user.as_ref();
    if user.is_some_and(|user| user.len() > USER_BYTES_MAX) {
        let what = format!("must not have more than {USER_BYTES_MAX} bytes");
        return Err(FieldError::invalid("user", what));
    }
    let of_edits = [
        ("images", request.images.is_some()),
        ("mask", request.mask.is_some()),
        ("input_fidelity", request.input_fidelity.is_some()),
    ];
    let is_edit = operation == Operation::Edit;
    let misplaced = of_edits
        .into_iter()
        .find(|(_, is_there)| *is_there && !is_edit);
    if let Some((name, _)) = misplaced {
        return Err(FieldError::unsupported(name, REMOVE));
    }
    if is_edit && request.style.is_some() {
        return Err(FieldError::unsupported("style", REMOVE));
    }
    if request.partial_images.is_some_and(|partial| partial > 0) && request.stream != Some(true) {
        let what = "needs `stream` to be true";
        return Err(FieldError::invalid("partial_images", what));
    }
    check_fields(request)?;
    for (index, image) in request
        .images
        .iter_mut()
        .flat_map(|list| &mut list.0)
        .enumerate()
    {
        check_ref(image).map_err(|error| error.under(format!("images[{index}]")))?;
    }
    request.mask.as_mut().map_or(Ok(()), |mask| {
        check_ref(mask).map_err(|error| error.under("mask"))
    })
}

const REMOVE: &str = "is not supported: remove it";

fn check_prompt(prompt: Option<&str>) -> Checked {
    let prompt = prompt.ok_or_else(|| FieldError::missing("prompt"))?;
    if prompt.is_empty() {
        return Err(FieldError::invalid("prompt", "must not be empty"));
    }
    if prompt.chars().nth(PROMPT_CHARS_MAX).is_some() {
        let what = format!("must not have more than {PROMPT_CHARS_MAX} characters");
        return Err(FieldError::invalid("prompt", what));
    }
    Ok(())
}

fn check_count(n: Option<i64>, caps: &ImageCaps) -> Checked {
    let most = i64::from(caps.most.clamp(1, MADE_MAX));
    if n.is_none_or(|n| (1..=most).contains(&n)) {
        return Ok(());
    }
    let what = if most == 1 {
        "can only be 1 in this plan".to_owned()
    } else {
        format!("must be between 1 and {most} in this plan")
    };
    Err(FieldError::invalid("n", what))
}

/// The fields that the operator may set, too.
pub(super) fn check_fields(request: &Request) -> Checked {
    let words: [(&str, Option<&String>, &[&str]); 6] = [
        (
            "background",
            request.background.as_ref(),
            &["transparent", "opaque", "auto"],
        ),
        ("moderation", request.moderation.as_ref(), &["low", "auto"]),
        ("style", request.style.as_ref(), &["vivid", "natural"]),
        (
            "response_format",
            request.response_format.as_ref(),
            &["url", "b64_json"],
        ),
        (
            "output_format",
            request.output_format.as_ref(),
            &["png", "jpeg", "webp"],
        ),
        (
            "input_fidelity",
            request.input_fidelity.as_ref(),
            &["high", "low"],
        ),
    ];
    for (name, said, known) in words {
        if said.is_some_and(|said| !known.contains(&said.as_str())) {
            let what = format!("must be `{}`", known.join("`, `"));
            return Err(FieldError::invalid(name, what));
        }
    }
    let numbers = [
        ("output_compression", request.output_compression, 100),
        ("partial_images", request.partial_images, PARTIAL_MAX),
    ];
    for (name, said, most) in numbers {
        if said.is_some_and(|said| !(0..=most).contains(&said)) {
            return Err(FieldError::invalid(
                name,
                format!("must be between 0 and {most}"),
            ));
        }
    }
    Ok(())
}

fn check_ref(image: &mut ImageRef) -> Checked {
    if let Some(unknown) = image.unknown.as_deref() {
        return Err(FieldError::unsupported(&unknown.name, REMOVE));
    }
    if image.file_id.is_some() {
        let what = "is not supported: send the image itself";
        return Err(FieldError::unsupported("file_id", what));
    }
    let url = image.image_url.as_mut();
    let url = url.ok_or_else(|| FieldError::missing("image_url"))?;
    image::check_url(url, "image_url")
}
