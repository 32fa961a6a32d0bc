//! What the user said, for a plan whose users' words are checked before they are answered. Pure.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::json;

/// What the user said since the last answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UserInput<'a> {
    /// Texts, in their order.
    pub texts: Vec<&'a str>,
    /// URLs of pictures: `data:` or `https:`.
    pub images: Vec<Cow<'a, str>>,
}

impl UserInput<'_> {
    /// The requests that put it to a moderation model, as its API takes them: all that was said as one text, and each picture
    /// in a request of its own, because OpenAI takes one a request. None where nothing was said.
    pub(crate) fn questions(&self, model: &str) -> Vec<Bytes> {
        let text = self.texts.join("\n\n");
        let has_text = !text.trim().is_empty();
        let write = |input: serde_json::Value| {
            Bytes::from(json!({"model": model, "input": input}).to_string())
        };
        if self.images.is_empty() {
            return if has_text {
                vec![write(json!(text))]
            } else {
                Vec::new()
            };
        }
        let mut of_text = has_text.then(|| json!({"type": "text", "text": text}));
        let ask = |url: &Cow<'_, str>| {
            let picture = json!({"type": "image_url", "image_url": {"url": url}});
            let parts: Vec<_> = of_text.take().into_iter().chain([picture]).collect();
            write(json!(parts))
        };
        self.images.iter().map(ask).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn asked(texts: &[&str], images: &[&str]) -> Vec<Value> {
        let images = images.iter().map(|url| Cow::Borrowed(*url)).collect();
        let texts = texts.to_vec();
        let questions = UserInput { texts, images }.questions("m");
        let read = |question: &Bytes| serde_json::from_slice(question).unwrap();
        questions.iter().map(read).collect()
    }

    #[test]
    fn a_question_has_all_texts_and_at_most_one_picture() {
        assert_eq!(asked(&[], &[]), Vec::<Value>::new());
        assert_eq!(asked(&["", " \n"], &[]), Vec::<Value>::new());
        assert_eq!(
            asked(&["a", "b"], &[]),
            [json!({"model": "m", "input": "a\n\nb"})]
        );
        let picture = |url| json!({"type": "image_url", "image_url": {"url": url}});
        assert_eq!(
            asked(&["a"], &["x", "y"]),
            [
                json!({"model": "m", "input": [{"type": "text", "text": "a"}, picture("x")]}),
                json!({"model": "m", "input": [picture("y")]}),
            ]
        );
        assert_eq!(
            asked(&[], &["x"]),
            [json!({"model": "m", "input": [picture("x")]})]
        );
    }
}
