//! `tollgate serve`: everything, until SIGTERM or Ctrl-C.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::app::{App, keep_reloaded, listen, serve};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::telemetry;

/// Serve: everything, until SIGTERM or Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  SUPABASE_URL=https://<project>.supabase.co OPENAI_API_KEY=sk-… tollgate serve

A changed tollgate.toml or .env, or SIGHUP, reloads plans, prices and keys; a wrong one changes nothing.")]
pub(super) struct Args {}

/// Serves until it is told to stop.
pub(super) async fn run(config: Config, sources: Sources) -> Result<(), Failure> {
    telemetry::init(config.server.log_format, &config.server.log_level);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let listener = listen(&config.server.bind).await?;
    let (app, writer) = App::open(config, Clock::system())?;
    let stop = CancellationToken::new();
    let stopping = stop_on_signal(stop.clone())?;
    tracing::info!(
        address = %listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        version = env!("CARGO_PKG_VERSION"),
        ledger = %app.config().store.url,
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
pub(super) fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("signals cannot be received: {error}"), "try again");
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
