//! An answer that is to pass byte by byte, by its head.

use http::{HeaderValue, header};

use crate::endpoint::ByteAnswer;
use crate::price::Usage;
use crate::upstream::UpstreamBody;
use crate::upstream::answer::Answer;

/// The longest media type that is passed on.
const MEDIA_TYPE_BYTES_MAX: usize = 128;

/// An answer of which no byte was read.
pub(super) struct ByteStream {
    pub(super) media_type: HeaderValue,
    /// What it used, however much of it comes.
    pub(super) usage: Option<Usage>,
    pub(super) body: UpstreamBody,
}

impl ByteStream {
    /// An answer that is what was ordered; any other is given back.
    pub(super) fn of(answer: Answer, expected: &ByteAnswer) -> Result<Self, Answer> {
        let said = answer.headers.get(header::CONTENT_TYPE);
        match media_type(said, expected) {
            Some(media_type) => Ok(Self {
                media_type,
                usage: expected.usage,
                body: answer.body,
            }),
            None => Err(answer),
        }
    }
}

/// The media type to pass on; none where the answer is something else.
fn media_type(said: Option<&HeaderValue>, expected: &ByteAnswer) -> Option<HeaderValue> {
    let said = said.and_then(|said| said.to_str().ok()).map(str::trim);
    let said = said.unwrap_or_default().to_ascii_lowercase();
    let essence = said.split(';').next().unwrap_or_default().trim();
    if matches!(
        essence,
        "" | "application/octet-stream" | "binary/octet-stream"
    ) {
        return Some(HeaderValue::from_static(expected.media_type));
    }
    let is_expected = essence.starts_with(expected.family) && said.len() <= MEDIA_TYPE_BYTES_MAX;
    HeaderValue::try_from(said).ok().filter(|_| is_expected)
}
