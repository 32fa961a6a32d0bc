//! A whole answer as events, and events as a whole answer: for a caller who asked for the other form. Pure.
//!
//! An image is copied as the JSON that it came in, and never read.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Members that an answer and its events share, in the words of both.
const SHARED: [&str; 4] = ["background", "output_format", "quality", "size"];

#[derive(Deserialize)]
struct WholeImages<'a> {
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Vec<ImageData<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    background: Option<&'a RawValue>,
    #[serde(borrow)]
    output_format: Option<&'a RawValue>,
    #[serde(borrow)]
    quality: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ImageData<'a> {
    #[serde(borrow)]
    b64_json: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
}

/// The payloads of the events that say what a whole answer says: one an image, the last with the usage. None where there is
/// no image.
pub(super) fn events(body: &[u8], operation: &str) -> Option<Vec<String>> {
    let answer: WholeImages<'_> = serde_json::from_slice(body).ok()?;
    let last = answer.data.len().checked_sub(1)?;
    let shared = [
        answer.background,
        answer.output_format,
        answer.quality,
        answer.size,
    ];
    let event = |(index, image): (usize, &ImageData<'_>)| {
        let mut text = format!("{{\"type\":\"{operation}.completed\"");
        let mut member = |name: &str, value: Option<&RawValue>| {
            if let Some(value) = value {
                text.extend([",\"", name, "\":", value.get()]);
            }
        };
        member("b64_json", image.b64_json);
        member("url", image.url);
        member("created_at", answer.created);
        for (name, value) in SHARED.into_iter().zip(shared) {
            member(name, value);
        }
        member("usage", answer.usage.filter(|_| index == last));
        text.push('}');
        text
    };
    Some(answer.data.iter().enumerate().map(event).collect())
}

/// A whole answer that is put together from events.
#[derive(Debug, Default)]
pub(super) struct MergedImages {
    /// Items of `data`.
    images: Vec<String>,
    /// Everything else: the last event has the last word.
    members: String,
}

#[derive(Deserialize)]
struct CompletedEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    background: Option<&'a RawValue>,
    #[serde(borrow)]
    output_format: Option<&'a RawValue>,
    #[serde(borrow)]
    quality: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
    #[serde(borrow)]
    b64_json: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
}

impl MergedImages {
    /// Takes the next event.
    pub(super) fn add(&mut self, payload: &[u8]) {
        let Ok(event) = serde_json::from_slice::<CompletedEvent<'_>>(payload) else {
            return;
        };
        if !event.kind.ends_with(".completed") {
            return;
        }
        let value = |value: Option<&RawValue>| value.map(RawValue::get).map(str::to_owned);
        let image = [
            ("b64_json", value(event.b64_json)),
            ("url", value(event.url)),
        ];
        self.images.push(object(image));
        let members = [
            ("created", value(event.created_at)),
            ("background", value(event.background)),
            ("output_format", value(event.output_format)),
            ("quality", value(event.quality)),
            ("size", value(event.size)),
            ("usage", value(event.usage)),
        ];
        self.members = object(members);
    }

    /// The answer, if there is an image.
    pub(super) fn into_json(self) -> Option<String> {
        if self.images.is_empty() {
            return None;
        }
        let members = self.members.strip_suffix('}')?;
        let comma = if members.len() > 1 { "," } else { "" };
        Some(format!(
            "{members}{comma}\"data\":[{}]}}",
            self.images.join(",")
        ))
    }
}

/// An object of those members that have a value, each of which is JSON.
fn object<const N: usize>(members: [(&str, Option<String>); N]) -> String {
    let members = members
        .into_iter()
        .filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}
