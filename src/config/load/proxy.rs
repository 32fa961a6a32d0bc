//! `[proxy]`.

use std::time::Duration;

use crate::config::findings::Invalid;
use crate::config::plans;
use crate::config::reader::Section;
use crate::config::values::{DAY, HOUR, choice, millis_to};

/// What happens to the upstream's answer when the caller hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// Read it to its end, for the exact usage.
    Drain,
    /// Cut it.
    Abort,
}

/// `[proxy]`
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `on_disconnect`
    pub on_disconnect: OnDisconnect,
    /// How long a drained answer may take.
    pub drain_timeout: Duration,
    /// How long connecting to an upstream may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take.
    pub first_byte_timeout: Duration,
    /// How long an answer may be silent.
    pub idle_timeout: Duration,
    /// How long a request may take, all in all.
    pub total_timeout: Duration,
    /// The least output worth asking for when little is left of a limit.
    pub min_output_tokens: u32,
}

/// Reads the section.
pub(super) fn proxy(section: &Section<'_>) -> Result<Proxy, Invalid> {
    let on_disconnect = section.parsed("on_disconnect", "drain", |text| {
        choice(
            text,
            &[
                ("drain", OnDisconnect::Drain),
                ("abort", OnDisconnect::Abort),
            ],
        )
    });
    let drain_timeout = section.duration("drain_timeout", millis_to(0, HOUR));
    let connect_timeout = section.duration("connect_timeout", millis_to(10, HOUR));
    let first_byte_timeout = section.duration("first_byte_timeout", millis_to(10, HOUR));
    let idle_timeout = section.duration("idle_timeout", millis_to(10, HOUR));
    let total_timeout = section.duration("total_timeout", millis_to(100, DAY));
    let min_output_tokens = section.integer("min_output_tokens", 1..=plans::TOKENS_MAX);
    section.finish();
    Ok(Proxy {
        on_disconnect: on_disconnect?,
        drain_timeout: drain_timeout?,
        connect_timeout: connect_timeout?,
        first_byte_timeout: first_byte_timeout?,
        idle_timeout: idle_timeout?,
        total_timeout: total_timeout?,
        min_output_tokens: min_output_tokens?,
    })
}
