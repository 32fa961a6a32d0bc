//! What usage is summed up by, which of it, and the sums.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;

/// What usage is summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// The calendar day in `[server] time_zone`, the newest first.
    Day,
    /// The user, the highest spend first.
    User,
    /// The model, the highest spend first.
    Model,
    /// The plan at that time, the highest spend first.
    Plan,
    /// The path that was called, the highest spend first.
    Endpoint,
    /// What the app calls the request, the highest spend first; empty where it said nothing.
    Feature,
    /// Who paid, `plan` or `credits`, the highest spend first.
    #[value(name = "paid_by")]
    PaidBy,
}

impl GroupBy {
    /// As in a query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::User => "user",
            Self::Model => "model",
            Self::Plan => "plan",
            Self::Endpoint => "endpoint",
            Self::Feature => "feature",
            Self::PaidBy => "paid_by",
        }
    }

    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Day | Self::User => "user_id",
            Self::Model => "model",
            Self::Plan => "plan",
            Self::Endpoint => "endpoint",
            Self::Feature => "coalesce(feature, '')",
            Self::PaidBy => "paid_by",
        }
    }
}

/// Which usage is wanted.
#[derive(Clone, Copy, Debug)]
pub struct UsageFilter {
    /// Summed up by this.
    pub by: GroupBy,
    /// Held at this moment or later.
    pub from: Timestamp,
    /// Held before this moment.
    pub until: Timestamp,
    /// Of this user only.
    pub user: Option<Uuid>,
}

/// What settled and lost requests add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Settled and lost requests.
    pub requests: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// The part of them read from a cache.
    pub cached_input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Images that were made.
    pub images: i64,
    /// Seconds of audio.
    pub audio_seconds: i64,
    /// Characters that were spoken.
    pub characters: i64,
    /// Micro-dollars.
    pub cost_micros: i64,
}

impl Sums {
    /// The columns that [`Sums::read`] reads.
    pub(super) const COLUMNS: &str = "cast(count(*) as bigint) as requests,
        cast(coalesce(sum(input_tokens), 0) as bigint) as input_tokens,
        cast(coalesce(sum(cached_input_tokens), 0) as bigint) as cached_input_tokens,
        cast(coalesce(sum(output_tokens), 0) as bigint) as output_tokens,
        cast(coalesce(sum(cost_micros), 0) as bigint) as cost,
        cast(coalesce(sum(images), 0) as bigint) as images,
        cast(coalesce(sum(audio_seconds), 0) as bigint) as audio_seconds,
        cast(coalesce(sum(characters), 0) as bigint) as characters";
    /// How many they are.
    pub(super) const COUNT: usize = 8;

    pub(super) fn read(row: &Row, first: usize) -> Result<Self, Failure> {
        let at = |offset: usize| row.int(first.saturating_add(offset));
        Ok(Self {
            requests: at(0)?,
            input_tokens: at(1)?,
            cached_input_tokens: at(2)?,
            output_tokens: at(3)?,
            cost_micros: at(4)?,
            images: at(5)?,
            audio_seconds: at(6)?,
            characters: at(7)?,
        })
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.cached_input_tokens = self
            .cached_input_tokens
            .saturating_add(other.cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.images = self.images.saturating_add(other.images);
        self.audio_seconds = self.audio_seconds.saturating_add(other.audio_seconds);
        self.characters = self.characters.saturating_add(other.characters);
        self.cost_micros = self.cost_micros.saturating_add(other.cost_micros);
    }
}
