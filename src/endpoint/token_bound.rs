//! How many tokens bare texts will be billed as: the inputs of embeddings and moderations, and what is written beside audio.
//! Nothing stands around them but what a server may add to each. Pure.

use crate::error::Refusal;
use crate::model::Tokenizer;
use crate::plan::Plan;
use crate::price::tokenizer;

/// What a server whose tokenizer is not known may add to each text: marks around it, and the words that some models want
/// before it (`Represent this sentence for searching relevant passages: `).
const FRAME_UNKNOWN: u64 = 32;

/// Texts, or tokens in their place.
pub(super) trait BareTexts {
    /// The tokens of all of them, by a count of a text.
    fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64;

    /// How many there are.
    fn texts(&self) -> u64;
}

/// The tokens of some texts.
pub(super) fn tokens_of<'a>(
    texts: impl Iterator<Item = &'a str>,
    count: &dyn Fn(&str) -> u64,
) -> u64 {
    texts.fold(0, |sum, text| sum.saturating_add(count(text)))
}

/// At least as many tokens as the texts will be billed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenBound {
    tokenizer: Tokenizer,
    tokens: u64,
    is_narrowed: bool,
}

impl TokenBound {
    /// By their bytes.
    pub(super) fn in_bytes(texts: &(impl BareTexts + ?Sized), tokenizer: Tokenizer) -> Self {
        let mut bound = Self::free(tokenizer);
        bound.tokens = bound.of(texts, &|text| tokenizer::bytes_bound(tokenizer, text));
        bound.is_narrowed = false;
        bound
    }

    /// Of texts that nobody is billed for.
    pub(super) const fn free(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            tokens: 0,
            is_narrowed: true,
        }
    }

    /// So many, as is known now.
    pub(super) const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// They were counted, or need not be.
    pub(super) const fn is_narrowed(&self) -> bool {
        self.is_narrowed
    }

    /// Counts them with the model's tokenizer, as [`super::Endpoint::narrow`] says.
    pub(super) fn narrow(&mut self, texts: &(impl BareTexts + ?Sized), most: u64) {
        if self.is_narrowed {
            return;
        }
        let bound = |count: &dyn Fn(&str) -> u64| self.of(texts, count);
        let counted = tokenizer::bound_of_bare_texts(self.tokenizer, most, bound);
        self.tokens = counted.map_or(self.tokens, |counted| self.tokens.min(counted));
        self.is_narrowed = true;
    }

    /// Whether a plan allows so many. `refuse` says it with the bound and the plan's `max_input_tokens`.
    ///
    /// # Errors
    /// What `refuse` says.
    pub(super) fn check(
        &self,
        plan: &Plan,
        refuse: fn(u64, u32) -> Refusal,
    ) -> Result<(), Refusal> {
        let (bound, cap) = (self.tokens, plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        Err(refuse(bound, cap))
    }

    /// The same, where there are too many even if each token is as long as any is.
    ///
    /// # Errors
    /// What `refuse` says.
    pub(super) fn check_least(
        &self,
        texts: &(impl BareTexts + ?Sized),
        plan: &Plan,
        refuse: fn(u64, u32) -> Refusal,
    ) -> Result<(), Refusal> {
        let least = texts.tokens(&|text| tokenizer::least(self.tokenizer, text));
        if least <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check(plan, refuse)
    }

    /// As many as they most likely are.
    pub(super) fn likely(&self, texts: &(impl BareTexts + ?Sized)) -> u64 {
        let counted = texts.tokens(&|text| tokenizer::count(self.tokenizer, text));
        counted.min(self.tokens)
    }

    /// All of them by a count of a text, and what may be added to each.
    fn of(&self, texts: &(impl BareTexts + ?Sized), count: &dyn Fn(&str) -> u64) -> u64 {
        let frame = if self.tokenizer == Tokenizer::Unknown {
            FRAME_UNKNOWN
        } else {
            0
        };
        let frames = texts.texts().saturating_mul(frame);
        texts.tokens(count).saturating_add(frames)
    }
}

/// How `input` is refused that is too long.
pub(super) fn input_too_long(bound: u64, cap: u32) -> Refusal {
    let message = format!(
        "The input is too long: it may come to {bound} tokens in all, and the plan allows {cap} a request. Send less of it at once."
    );
    Refusal::invalid("input", message)
}
