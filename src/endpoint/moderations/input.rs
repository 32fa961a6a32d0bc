//! What is to be sorted: a text, texts, or parts that are texts and pictures. Pure.

use crate::endpoint::chat::image_url;
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::{List, TextOr, object};
use crate::endpoint::token_bound::{BareTexts, tokens_of};

/// How many inputs a request may have.
const INPUTS_MAX: usize = 2048;

/// What is to be sorted.
pub(super) type Input = TextOr<List<TextOr<Part>, INPUTS_MAX>>;

object! {
    /// A request, as it is written.
    Request {
        model = "model": String,
        input = "input": Input,
    }
}

object! {
    /// A text, or a picture.
    Part {
        kind = "type": String,
        text = "text": String,
        image_url = "image_url": Picture,
    }
}

object! {
    /// Where a picture is, or the picture itself.
    Picture {
        url = "url": String,
    }
}

impl Request {
    /// Checks every member but the model, and writes pictures inline in one form.
    pub(super) fn prepare(&mut self) -> Checked {
        if let Some(unknown) = self.unknown.as_deref() {
            return Err(unsupported(&unknown.name));
        }
        let input = self.input.as_mut();
        let TextOr::Other(List(items)) = input.ok_or_else(|| FieldError::missing("input"))? else {
            return Ok(());
        };
        if items.is_empty() {
            return Err(FieldError::invalid("input", "must not be empty"));
        }
        let texts = items.iter().filter(|item| matches!(item, TextOr::Text(_)));
        if !matches!(texts.count(), count if count == 0 || count == items.len()) {
            let what = "must be an array of one kind of items: texts, or objects";
            return Err(FieldError::invalid("input", what));
        }
        for (place, item) in items.iter_mut().enumerate() {
            if let TextOr::Other(part) = item {
                part.prepare()
                    .map_err(|fault| fault.under(format_args!("input[{place}]")))?;
            }
        }
        Ok(())
    }

    /// What a picture costs is not known of a model that has a price.
    pub(super) fn check_has_no_images(&self) -> Checked {
        let has_image =
            |item: &TextOr<Part>| matches!(item, TextOr::Other(part) if part.image_url.is_some());
        match self.items().iter().position(has_image) {
            None => Ok(()),
            Some(place) => {
                let what = "cannot be a picture for a model that has a price: send text";
                Err(FieldError::unsupported(
                    format!("input[{place}].image_url"),
                    what,
                ))
            }
        }
    }

    fn items(&self) -> &[TextOr<Part>] {
        match &self.input {
            Some(TextOr::Other(List(items))) => items,
            _ => &[],
        }
    }

    /// Its texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let only = match &self.input {
            Some(TextOr::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let of_items = self.items().iter().filter_map(|item| match item {
            TextOr::Text(text) => Some(text.as_str()),
            TextOr::Other(part) => part.text.as_deref(),
        });
        only.into_iter().chain(of_items)
    }
}

impl BareTexts for Request {
    fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        tokens_of(self.texts(), count)
    }

    fn texts(&self) -> u64 {
        u64::try_from(self.texts().count()).unwrap_or(u64::MAX)
    }
}

impl Part {
    fn prepare(&mut self) -> Checked {
        if let Some(unknown) = self.unknown.as_deref() {
            return Err(unsupported(&unknown.name));
        }
        let kind = self.kind.as_deref();
        let kind = kind.ok_or_else(|| FieldError::missing("type"))?;
        let members = [
            ("text", self.text.is_some()),
            ("image_url", self.image_url.is_some()),
        ];
        if members.iter().all(|(name, _)| *name != kind) {
            let what = "must be `text` or `image_url`: nothing else is supported";
            return Err(FieldError::unsupported("type", what));
        }
        for (name, given) in members {
            if !given && name == kind {
                return Err(FieldError::missing(name));
            }
            if given && name != kind {
                let what = format!("does not belong to a part of type `{kind}`: remove it");
                return Err(FieldError::invalid(name, what));
            }
        }
        let picture = self.image_url.as_mut();
        picture.map_or(Ok(()), |picture| {
            picture.prepare().map_err(|fault| fault.under("image_url"))
        })
    }
}

impl Picture {
    /// A PNG, JPEG, WebP or GIF inline, or a public `https:` URL.
    fn prepare(&mut self) -> Checked {
        if let Some(unknown) = self.unknown.as_deref() {
            return Err(unsupported(&unknown.name));
        }
        let url = self.url.take();
        let url = url.ok_or_else(|| FieldError::missing("url"))?;
        self.url = Some(image_url(url)?);
        Ok(())
    }
}

fn unsupported(name: &str) -> FieldError {
    FieldError::unsupported(name, "is not supported: remove it")
}
