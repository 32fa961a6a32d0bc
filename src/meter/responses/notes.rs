//! What the events of a response say is noted here: text, items, usage, and how it ended. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ResponseWatch;
use super::event::{EventFacts, stem};
use super::object::ResponseFacts;
use super::tally::{PartPlace, Span};
use super::text::GeneratedText;
use crate::meter::Measured;
use crate::meter::chat::Finish;
use crate::meter::usage::{self, UsageVerdict};

impl ResponseWatch {
    /// What was generated of a part since the last event, or all of it.
    pub(super) fn note_text(&mut self, kind: &str, facts: &EventFacts<'_>) {
        if facts.deltas.is_empty() && facts.wholes.is_empty() && facts.part.is_none() {
            return;
        }
        let stem = stem(kind);
        let place = PartPlace {
            item: item_of(facts),
            part: facts.part_index.unwrap_or(0),
            kind: digest(stem),
        };
        for delta in &facts.deltas {
            let text = GeneratedText::of(delta).text;
            if !self.tally.add(place, text.len()) {
                self.measured.text_overflow = true;
            }
            self.measured.deliver(&text);
            if !text.is_empty() && stem.contains("reasoning") {
                let is_summary = stem.contains("summary");
                self.hides_reasoning |= is_summary;
                self.shows_reasoning |= !is_summary;
                self.item_shows_reasoning |= !is_summary;
            }
        }
        if !facts.wholes.is_empty() {
            let all = facts
                .wholes
                .iter()
                .map(|whole| GeneratedText::of(whole).text);
            self.deliver_rest(Span::Part(place), &all.collect::<String>());
        }
        if let Some(part) = facts.part {
            let part = self.generated(part);
            self.deliver_rest(Span::AnyPart(place), &part.text);
        }
    }

    /// Items that begin and end, and what was generated of them.
    pub(super) fn note_items(&mut self, kind: &str, facts: &EventFacts<'_>) {
        let Some(item) = facts.item else { return };
        let generated = self.generated(item);
        self.deliver_rest(Span::Item(item_of(facts)), &generated.text);
        match kind {
            "response.output_item.added" => {
                self.items_begun = self.items_begun.saturating_add(1);
                self.hides_reasoning |= self.awaits_words();
                self.awaits_reasoning = generated.is_silent;
                self.item_shows_reasoning = false;
            }
            "response.output_item.done" => {
                self.items_ended = self.items_ended.saturating_add(1);
                self.hides_reasoning |= generated.is_silent && !self.item_shows_reasoning;
                self.awaits_reasoning = false;
                self.item_shows_reasoning = false;
            }
            _ => {}
        }
        self.measured.finished = self.items_begun > 0 && self.items_ended >= self.items_begun;
    }

    /// Some reasoning has begun of which no word was shown.
    const fn awaits_words(&self) -> bool {
        self.awaits_reasoning && !self.item_shows_reasoning
    }

    /// All of the answer, which is looked into only where its usage does not say what it cost.
    pub(super) fn note_output(&mut self, response: &ResponseFacts<'_>) {
        let has_usage = response.usage.is_some() && !self.measured.text.is_empty();
        let Some(output) = response.output.filter(|_| !has_usage) else {
            return;
        };
        let generated = self.generated(output);
        self.hides_reasoning |= generated.is_silent;
        self.deliver_rest(Span::Answer, &generated.text);
    }

    /// A whole answer, in one piece.
    pub(super) fn note_whole(&mut self, facts: &ResponseFacts<'_>) {
        if let Some(output) = facts.output {
            let generated = self.generated(output);
            self.hides_reasoning |= generated.is_silent;
            self.measured.deliver(&generated.text);
        }
        self.measured.content_events = u64::from(!self.measured.text.is_empty());
        self.note_response(facts, None, true);
        self.measured.cap_reached |= facts.is_incomplete && !self.measured.filtered;
        self.measured.is_error = facts.is_failed;
        self.measured.is_completion = facts.is_response && !facts.is_failed;
        (self.measured.finished, self.measured.done) = (true, true);
    }

    fn generated(&mut self, raw: &RawValue) -> GeneratedText {
        let generated = GeneratedText::of(raw);
        self.shows_reasoning |= generated.shows_reasoning;
        self.hides_reasoning |= generated.hides_reasoning;
        generated
    }

    fn deliver_rest(&mut self, span: Span, whole: &str) {
        let (rest, is_noted) = self.tally.rest_of(span, whole);
        self.measured.text_overflow |= !is_noted;
        self.measured.deliver(rest);
    }

    /// What the answer says of itself.
    pub(super) fn note_response(
        &mut self,
        facts: &ResponseFacts<'_>,
        beside: Option<&RawValue>,
        is_end: bool,
    ) {
        let place = if is_end {
            usage::Place::OfAll
        } else {
            usage::Place::Running
        };
        if let Some(usage) = facts.usage.or(beside) {
            self.reports.note(usage, place);
        }
        let Measured {
            model,
            service_tier,
            ..
        } = &mut self.measured;
        if facts.model.is_some() {
            model.clone_from(&facts.model);
        }
        if facts.service_tier.is_some() {
            service_tier.clone_from(&facts.service_tier);
        }
        match facts.reason {
            Some(Finish::Filter) => self.measured.filtered = true,
            Some(_) => self.measured.cap_reached = true,
            None => {}
        }
    }

    /// What is known, with the usage judged.
    pub(super) fn judged(self) -> Measured {
        let awaits_words = self.awaits_words();
        let Self {
            mut measured,
            reports,
            of_whole,
            ..
        } = self;
        if let Some(whole) = of_whole {
            return *whole;
        }
        let UsageVerdict {
            usage,
            partial,
            nonsense,
            has_reasoning,
        } = reports.judged(measured.done, !measured.text.is_empty());
        measured.usage = usage;
        measured.partial_usage = partial;
        measured.usage_nonsense = nonsense;
        let is_unseen = has_reasoning && !self.shows_reasoning;
        measured.hidden_reasoning = self.hides_reasoning || awaits_words || is_unseen;
        measured
    }
}

/// The item that an event is about.
fn item_of(facts: &EventFacts<'_>) -> u64 {
    #[derive(Deserialize)]
    struct ItemId {
        id: Option<String>,
    }
    if let Some(index) = facts.item_index {
        return index;
    }
    let of_item = || {
        let item: ItemId = serde_json::from_str(facts.item?.get()).ok()?;
        item.id
    };
    let id = facts.item_id.clone().or_else(of_item);
    id.map_or(0, |id| digest(&id))
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
