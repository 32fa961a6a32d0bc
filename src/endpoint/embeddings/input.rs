//! What is to be embedded: a text, texts, the tokens of a text, or those of several. Pure.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// How many inputs a request may have, as OpenAI has it.
const INPUTS_MAX: usize = 2048;
/// How many tokens an input may have that is given as tokens, as OpenAI has it.
const INPUT_TOKENS_MAX: usize = 8192;

/// What is to be embedded. What is sent keeps the form that it came in.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(in crate::endpoint) enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl Input {
    /// Its tokens, by a count of a text; tokens count as what they are.
    pub(super) fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
        match self {
            Self::Text(text) => count(text),
            Self::Texts(texts) => sum(&mut texts.iter().map(|text| count(text))),
            Self::Tokens(tokens) => length(tokens),
            Self::TokenLists(lists) => sum(&mut lists.iter().map(|list| length(list))),
        }
    }

    /// How many vectors come of it.
    pub(super) fn inputs(&self) -> u64 {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => length(texts),
            Self::TokenLists(lists) => length(lists),
        }
    }
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyInput)
    }
}

struct AnyInput;

impl<'de> Visitor<'de> for AnyInput {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, an array of strings, an array of tokens, or an array of arrays of tokens",
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
        Ok(Input::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
        let mut input = None;
        while let Some(item) = seq.next_element::<Item>()? {
            add(&mut input, item).map_err(A::Error::custom)?;
        }
        Ok(input.unwrap_or(Input::Tokens(Vec::new())))
    }
}

/// An item of an array of inputs, or of tokens.
enum Item {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

/// One more item. All are of one kind; the rest of a longer array is not even read.
fn add(input: &mut Option<Input>, item: Item) -> Result<(), String> {
    let too_many = |most: usize| Err(format!("must be an array of at most {most} items"));
    match (input, item) {
        (Some(Input::Texts(texts)), Item::Text(text)) if texts.len() < INPUTS_MAX => {
            texts.push(text);
        }
        (Some(Input::Tokens(tokens)), Item::Token(token)) if tokens.len() < INPUT_TOKENS_MAX => {
            tokens.push(token);
        }
        (Some(Input::TokenLists(lists)), Item::Tokens(list)) if lists.len() < INPUTS_MAX => {
            lists.push(list);
        }
        (Some(Input::Tokens(_)), Item::Token(_)) => return too_many(INPUT_TOKENS_MAX),
        (Some(Input::Texts(_)), Item::Text(_)) | (Some(Input::TokenLists(_)), Item::Tokens(_)) => {
            return too_many(INPUTS_MAX);
        }
        (Some(_), _) => return Err("must be an array of one kind of items".to_owned()),
        (none, Item::Text(text)) => *none = Some(Input::Texts(vec![text])),
        (none, Item::Token(token)) => *none = Some(Input::Tokens(vec![token])),
        (none, Item::Tokens(list)) => *none = Some(Input::TokenLists(vec![list])),
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyItem)
    }
}

struct AnyItem;

impl<'de> Visitor<'de> for AnyItem {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token, or an array of tokens")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Item, E> {
        let token = u32::try_from(token).map_err(|_| E::custom("must be a token below 2³²"))?;
        Ok(Item::Token(token))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = seq.next_element()? {
            if tokens.len() >= INPUT_TOKENS_MAX {
                return Err(A::Error::custom(format_args!(
                    "must be an array of at most {INPUT_TOKENS_MAX} tokens"
                )));
            }
            tokens.push(token);
        }
        Ok(Item::Tokens(tokens))
    }
}
