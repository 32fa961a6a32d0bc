//! A panic on purpose, so that a test can see what the real binary prints then. Debug builds only.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;

/// Panics at the first SIGUSR2, with all in its message that can be shown; who sends it may as well end the process.
///
/// # Panics
/// On the signal.
#[allow(clippy::panic, reason = "it is what this is for")]
pub async fn panics_when_told(app: Arc<App>) {
    let told = signal(SignalKind::user_defined2()).map(|mut told| async move { told.recv().await });
    let Ok(told) = told else { return };
    if told.await.is_some() {
        let (config, upstreams, ledger) = (app.config(), app.upstreams(), &app.ledger);
        panic!("told to: {config:?} {upstreams:?} {ledger:?}");
    }
}
