//! The images that a request brings: what they are, and what they can be billed as. Pure.
//!
//! None is decoded or fetched. One that is there is billed by its width and height, which its headers say; of one by URL only
//! the model is known, so it counts as the largest.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::request::{IMAGES_MAX, Request};
use super::size::is_first_generation;
use crate::endpoint::data_url;
use crate::endpoint::field_error::FieldError;
use crate::endpoint::form::{FormBody, FormPart, FormWriter};
use crate::endpoint::image_size::{self, Size};

/// What an image of a prompt adds for the first generation of OpenAI's models: a base, and tiles of 512 pixels after its
/// shortest side was scaled to that (OpenAI's guide on images and vision). No image has more than four tiles.
const BASE: u64 = 65;
const TILE: u64 = 129;
const TILES_MAX: u64 = 4;
/// What high fidelity adds to that, at most. Later models always have it.
const HIGH_FIDELITY: u64 = 6_240;
/// What later models are taken to bill besides: patches of 32 pixels at 1.2 tokens, at most so many.
const PATCHES_MAX: u64 = 10_000;

/// The images of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FormImages {
    images: Vec<FormImage>,
    mask: Option<FormImage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FormImage {
    kind: ImageFileKind,
    size: Size,
    data: Bytes,
}

/// What a file is, by its first bytes: what its sender calls it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImageFileKind {
    Png,
    Jpeg,
    Webp,
}

impl ImageFileKind {
    fn of(data: &[u8]) -> Option<Self> {
        match data {
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [0xFF, 0xD8, ..] => Some(Self::Jpeg),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::Webp),
            _ => None,
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

impl FormImages {
    /// Takes the images of a form out of it.
    ///
    /// # Errors
    /// `image` or `mask`: missing, too many, or no image that is taken.
    pub(super) fn take(form: &mut FormBody) -> Result<Self, FieldError> {
        let (images, masks) = (form.take_files("image"), form.take_files("mask"));
        if images.is_empty() {
            return Err(FieldError::missing("image"));
        }
        if images.len() > IMAGES_MAX {
            let what = format!("must not be given more than {IMAGES_MAX} times");
            return Err(FieldError::invalid("image", what));
        }
        let images = images.into_iter().map(|part| read(part, "image"));
        let images = images.collect::<Result<_, _>>()?;
        let mask = match <[FormPart; 1]>::try_from(masks) {
            Ok([part]) => Some(read(part, "mask")?),
            Err(none) if none.is_empty() => None,
            Err(_) => return Err(FieldError::invalid("mask", "must be given only once")),
        };
        if mask
            .as_ref()
            .is_some_and(|mask| mask.kind != ImageFileKind::Png)
        {
            return Err(FieldError::invalid("mask", "must be a PNG"));
        }
        Ok(Self { images, mask })
    }

    /// Writes them as OpenAI's clients do.
    pub(super) fn write(&self, form: &mut FormWriter<'_>) {
        let name = if self.images.len() == 1 {
            "image"
        } else {
            "image[]"
        };
        for (index, image) in self.images.iter().enumerate() {
            image.write(form, name, &format!("image-{index}"));
        }
        if let Some(mask) = &self.mask {
            mask.write(form, "mask", "mask");
        }
    }

    /// How many bytes they are.
    pub(super) fn bytes(&self) -> usize {
        let lengths = self
            .images
            .iter()
            .chain(&self.mask)
            .map(|image| image.data.len());
        lengths.fold(0, usize::saturating_add)
    }

    /// The images as URLs, for who looks at them.
    pub(super) fn urls(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.images.iter().map(|image| {
            let (kind, data) = (image.kind.media_type(), STANDARD.encode(&image.data));
            Cow::Owned(format!("data:{kind};base64,{data}"))
        })
    }
}

impl FormImage {
    fn write(&self, form: &mut FormWriter<'_>, name: &str, file: &str) {
        let file = format!("{file}.{}", self.kind.extension());
        form.file(name, (&file, self.kind.media_type()), &self.data);
    }
}

fn read(part: FormPart, name: &str) -> Result<FormImage, FieldError> {
    let known = ImageFileKind::of(&part.data).zip(image_size::size_of_file(&part.data));
    let what = "must be a PNG, JPEG or WebP: its width and height cannot be read";
    let (kind, size) = known.ok_or_else(|| FieldError::invalid(name, what))?;
    Ok(FormImage {
        kind,
        size,
        data: part.data,
    })
}

/// At least as many tokens as all images of a request, and its mask, will be billed as.
pub(super) fn tokens(model: &str, request: &Request, form: Option<&FormImages>) -> u64 {
    let is_high = request.input_fidelity.as_deref() == Some("high");
    let of_form = form
        .into_iter()
        .flat_map(|form| form.images.iter().chain(&form.mask));
    let of_form = of_form.map(|image| Some(image.size));
    let refs = request
        .images
        .iter()
        .flat_map(|list| &list.0)
        .chain(&request.mask);
    let of_refs = refs.map(|image| {
        let url = image.image_url.as_deref().unwrap_or_default();
        data_url::encoded(url).and_then(image_size::size)
    });
    of_form
        .chain(of_refs)
        .map(|size| tokens_of(model, size, is_high))
        .fold(0, u64::saturating_add)
}

/// Of one image of this size; without one, of the largest.
fn tokens_of(model: &str, size: Option<Size>, is_high: bool) -> u64 {
    let tiles = size.map_or(TILES_MAX, |(width, height)| {
        let (short, long) = (width.min(height), width.max(height));
        long.div_ceil(short.max(1)).min(TILES_MAX)
    });
    let by_tiles = BASE.saturating_add(tiles.saturating_mul(TILE));
    if is_first_generation(model) {
        let fidelity = if is_high { HIGH_FIDELITY } else { 0 };
        return by_tiles.saturating_add(fidelity);
    }
    let patches = size.map_or(PATCHES_MAX, |(width, height)| {
        let patches = width.div_ceil(32).saturating_mul(height.div_ceil(32));
        patches.min(PATCHES_MAX)
    });
    let by_patches = patches.saturating_mul(12).div_ceil(10);
    by_patches.max(by_tiles).saturating_add(HIGH_FIDELITY)
}
