//! Fields that `[models.*]` adds to a request: those that are sent whatever the app says (`set`), and those that are sent where
//! the app says nothing (`defaults`). Pure.
//!
//! They are read and checked as a request's own fields are, by each endpoint that has them, when the settings are read.

use serde::de::DeserializeOwned;

use super::json;
use super::members::Members;
use crate::error::Refusal;
use crate::model::Alias;

/// What an endpoint lets `[models.*]` add.
#[derive(Clone, Copy, Debug)]
pub struct Settable {
    /// The names of the fields.
    pub fields: &'static [&'static str],
    /// Checks such fields, in a JSON object.
    pub check: fn(&str) -> Result<(), Refusal>,
}

/// Lays what goes with a name over and under a request; fields that the request does not have are left out. `yield_to` takes
/// out of its second argument what cannot stand beside its first.
///
/// # Errors
/// None: the settings were checked by the same reader.
pub(super) fn apply<T: Members + DeserializeOwned>(
    request: &mut T,
    alias: &Alias,
    yield_to: fn(&T, &mut T),
) -> Result<(), Refusal> {
    if let Some(set) = &alias.set {
        let set = json::read(set.as_bytes())?;
        yield_to(&set, request);
        request.cover(set);
    }
    if let Some(defaults) = &alias.defaults {
        let mut defaults = json::read(defaults.as_bytes())?;
        yield_to(request, &mut defaults);
        request.fill(defaults);
    }
    Ok(())
}
