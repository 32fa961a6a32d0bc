//! Listeners, connections, layers and routes; how the server stops and reloads.

mod anthropic;
pub(crate) mod closing;
pub(crate) mod connections;
mod devices;
mod endpoints;
pub(crate) mod head_timer;
mod kept_answers;
pub(crate) mod layers;
pub(crate) mod lingering;
mod media;
mod model_ends;
#[cfg(debug_assertions)]
pub(crate) mod panic_on_signal;
mod peer;
mod purchases;
pub(crate) mod reload;
pub(crate) mod routes;
pub(crate) mod slots;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

pub use connections::{Listeners, listen, serve};
pub use model_ends::tell_of_model_ends;
#[cfg(debug_assertions)]
pub use panic_on_signal::panics_when_told;
pub use reload::{hangups, keep_reloaded};
pub use routes::router;
