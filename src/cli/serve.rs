//! `tollgate serve`: everything, until SIGTERM or Ctrl-C.

use std::sync::Arc;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::app::{App, Listeners, descriptors, hangups, keep_reloaded, serve};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::telemetry;

/// Serve: everything, until SIGTERM or Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  SUPABASE_URL=https://<project>.supabase.co OPENAI_API_KEY=sk-… tollgate serve

A changed tollgate.toml or .env, or SIGHUP, reloads plans, prices and keys; a wrong one changes nothing.
A socket that systemd hands over (LISTEN_FDS, deploy/systemd) is served on in place of [server] bind.")]
pub(super) struct Args {}

/// Serves until it is told to stop.
pub(super) async fn run(config: Config, sources: Sources, handed: ListenFd) -> Result<(), Failure> {
    telemetry::init(config.server.log_format, &config.server.log_level);
    let hangups = hangups();
    descriptors::raise();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // (Of the ledger's failures, of which this is one by its type, another next step is told.)
    let in_use = |error: crate::ledger::Failure| Failure::new(error.to_string(), "look who listens there: ss -ltnp");
    let listeners = Listeners::bind(&config.server, handed).await.map_err(in_use)?;
    let (app, writer) = App::open(config, Clock::system())?;
    if let Err(failure) = check_guarded(app.config()).await {
        tokio::task::spawn_blocking(move || writer.close()).await.map_err(std::io::Error::other)?;
        return Err(failure);
    }
    if let Some(warning) = app.too_few_descriptors() {
        tracing::warn!("{warning}");
    }
    let stop = CancellationToken::new();
    let stopping = stop_on_signal(stop.clone())?;
    tracing::info!(
        address = %shown(Some(&listeners.users)),
        admin = %shown(listeners.admin.as_ref()),
        version = env!("CARGO_PKG_VERSION"),
        ledger = %app.config().store.url,
        plans = app.config().plans.by_name.len(),
        "tollgate serves"
    );
    // Whoever waits for it (systemd's Type=notify) may send callers now; without anybody this does nothing.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that it serves");
    }
    #[cfg(debug_assertions)]
    app.work.spawn(stop.clone().run_until_cancelled_owned(crate::app::panics_when_told(Arc::clone(&app))));
    let reloading = keep_reloaded(Arc::clone(&app), sources, hangups);
    tokio::select! {
        () = serve(app, writer, listeners, stop) => {}
        () = reloading => {}
        () = stopping => {}
    }
    Ok(())
}

/// Refuses an operator's listener that is open to the network while nobody could have a token for it.
async fn check_guarded(config: Arc<Config>) -> Result<(), Failure> {
    let checked = tokio::task::spawn_blocking(move || guarded(&config)).await;
    checked.map_err(|error| Failure::new(error.to_string(), "try again"))?
}

/// The same on a thread that may block.
pub(super) fn guarded(config: &Config) -> Result<(), Failure> {
    match &config.server.admin_unguarded {
        Some(errors) if !crate::admin::has_made_token(&config.store.url) => Err(errors.clone().into()),
        _ => Ok(()),
    }
}

/// Where a listener listens, or that there is none.
fn shown(listener: Option<&TcpListener>) -> String {
    let address = listener.map(TcpListener::local_addr);
    address.map_or_else(|| "none".to_owned(), |address| address.map(|it| it.to_string()).unwrap_or_default())
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
