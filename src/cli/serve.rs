//! `tollgate serve`: everything, until SIGTERM or Ctrl-C.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{App, keep_reloaded, listen, serve};
use crate::clock::Clock;
use crate::config::{Config, Sources};

/// Serves until it is told to stop.
///
/// # Errors
/// The settings are wrong, the ledger cannot be opened, or the address is taken; each with its fix.
pub async fn run(config: Config, sources: Sources) -> Result<(), String> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let listener = listen(&config.server.bind).await.map_err(|error| error.to_string())?;
    let (app, writer) = App::open(config, Clock::system()).map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let stopping = stop_on_signal(stop.clone())?;
    tracing::info!(
        address = %listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        version = env!("CARGO_PKG_VERSION"),
        ledger = %app.config().store.path.display(),
        plans = app.config().plans.by_name.len(),
        "tollgate serves"
    );
    let reloading = keep_reloaded(Arc::clone(&app), sources);
    tokio::select! {
        () = serve(app, writer, listener, stop) => {}
        () = reloading => {}
        () = stopping => {}
    }
    Ok(())
}

/// Cancels `stop` at the first SIGTERM or Ctrl-C; a second one ends the wait for open requests at once.
pub(super) fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>, String> {
    let failed = |error: std::io::Error| format!("signals cannot be received: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told to stop twice: open requests are left; the next start ends them as lost");
    })
}
