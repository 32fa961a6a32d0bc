//! `tollgate serve`: runs the server until SIGTERM or Ctrl-C.

use std::sync::Arc;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CommandError;
use crate::app::{App, descriptors};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::observe::log;
use crate::server::{Listeners, hangups, keep_reloaded, serve, tell_of_model_ends};

/// Serve until SIGTERM or Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  SUPABASE_URL=https://<project>.supabase.co OPENAI_API_KEY=sk-… tollgate serve

A changed tollgate.toml or .env, or SIGHUP, reloads plans, prices and keys; a wrong one changes nothing.
A socket that systemd hands over (LISTEN_FDS, deploy/systemd) is served on in place of [server] bind.")]
pub(super) struct ServeArgs {}

/// Serves until SIGTERM or Ctrl-C.
pub(super) async fn run(
    config: Config,
    sources: Sources,
    handed: ListenFd,
) -> Result<(), CommandError> {
    log::init(config.server.log_format, &config.server.log_level);
    let hangups = hangups();
    descriptors::raise();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // (This has the type of the ledger's failures, but another next step.)
    let in_use = |error: crate::ledger::Failure| {
        CommandError::new(error.to_string(), "look who listens there: ss -ltnp")
    };
    let listeners = Listeners::bind(&config.server, handed)
        .await
        .map_err(in_use)?;
    let (app, writer) = App::open(config, Clock::system())?;
    if let Err(failure) = check_guarded(app.config()).await {
        tokio::task::spawn_blocking(move || writer.close())
            .await
            .map_err(std::io::Error::other)?;
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
    app.work.spawn(
        stop.clone()
            .run_until_cancelled_owned(crate::server::panics_when_told(Arc::clone(&app))),
    );
    app.work.spawn(
        stop.clone()
            .run_until_cancelled_owned(tell_of_model_ends(Arc::clone(&app))),
    );
    let reloading = keep_reloaded(Arc::clone(&app), sources, hangups);
    tokio::select! {
        () = serve(app, writer, listeners, stop) => {}
        () = reloading => {}
        () = stopping => {}
    }
    Ok(())
}

/// Refuses an operator's listener that is open to the network while there is no token for it.
async fn check_guarded(config: Arc<Config>) -> Result<(), CommandError> {
    let checked = tokio::task::spawn_blocking(move || guarded(&config)).await;
    checked.map_err(|error| CommandError::new(error.to_string(), "try again"))?
}

/// The same on a thread that may block.
pub(super) fn guarded(config: &Config) -> Result<(), CommandError> {
    match &config.server.admin_unguarded {
        Some(errors) if !crate::operator::api::has_made_token(&config.store.url) => {
            Err(errors.clone().into())
        }
        _ => Ok(()),
    }
}

/// Where a listener listens, or that there is none.
fn shown(listener: Option<&TcpListener>) -> String {
    let address = listener.map(TcpListener::local_addr);
    address.map_or_else(
        || "none".to_owned(),
        |address| address.map(|it| it.to_string()).unwrap_or_default(),
    )
}

/// Cancels `stop` at the first SIGTERM or Ctrl-C; a second one ends the wait for open requests at once.
pub(super) fn stop_on_signal(
    stop: CancellationToken,
) -> Result<impl Future<Output = ()>, CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(format!("signals cannot be received: {error}"), "try again")
    };
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
        tracing::warn!(
            "told to stop twice: open requests are left; the next start ends them as lost"
        );
    })
}
