//! The accept loop: connections with limits, and a shutdown that lets streams finish within the grace.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::App;
use crate::config::Server;
use crate::database::Database;
use crate::ledger::{Failure, Writer};
use crate::outbox::Outbox;

/// Connections beyond the open requests: idle ones, and those that are still sending.
const SPARE_CONNECTIONS: usize = 1024;
/// The operator's connections.
const ADMIN_CONNECTIONS: usize = 64;
/// How long what was cut may take to settle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last entries for `log_request` may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Where connections are accepted.
#[derive(Debug)]
pub struct Listeners {
    /// The users'.
    pub users: TcpListener,
    /// The operator's, where there is one.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// An address is taken or not ours. (A server whose `admin_bind` nobody said serves its users all the same.)
    pub async fn bind(server: &Server) -> Result<Self, Failure> {
        Ok(Self { users: listen(&server.bind).await?, admin: listen_for_admin(server).await? })
    }
}

impl From<TcpListener> for Listeners {
    fn from(users: TcpListener) -> Self {
        Self { users, admin: None }
    }
}

/// Binds the users' listener.
///
/// # Errors
/// The address is taken or not ours.
pub async fn listen(bind: &str) -> Result<TcpListener, Failure> {
    let fix = "free the port, or set PORT or [server] bind to another";
    TcpListener::bind(bind).await.map_err(|error| Failure::new(format!("cannot listen on {bind}: {error}; {fix}")))
}

/// Serves until `stop` is cancelled, drains, settles and closes the ledger.
pub async fn serve(app: Arc<App>, writer: Writer, listeners: impl Into<Listeners>, stop: CancellationToken) {
    let Listeners { users, admin } = listeners.into();
    let server = app.config().server.clone();
    let router = super::router(&app);
    let auth = app.auth.clone();
    app.work.spawn(stop.clone().run_until_cancelled_owned(async move { auth.keep_fresh().await }));
    let (sending, sent) = (TaskTracker::new(), CancellationToken::new());
    send_entries(&app, &sending, &sent);
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(server.open_requests_max.saturating_add(SPARE_CONNECTIONS)));
    let admin_places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    let admin_router = crate::admin::router(&app, &stop);
    loop {
        let (accepted, router) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&users, &places) => (accepted, &router),
            accepted = accept_if(admin.as_ref(), &admin_places) => (accepted, &admin_router),
        };
        let Some((stream, place)) = accepted else { continue };
        let connection = connection(&app, &server, stream, router.clone(), &graceful);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop((users, admin));
    connections.close();
    drain(&app, graceful, &connections, server.shutdown_grace).await;
    // After the last request has settled, so that its entry may go as well.
    sent.cancel();
    sending.close();
    if tokio::time::timeout(SEND_TIMEOUT, sending.wait()).await.is_err() {
        tracing::debug!("a call to log_request is left open: its entries go again at the next start");
    }
    close(&app, writer).await;
}

/// The operator's listener. An address that somebody chose must be had; the one that is built in may be taken.
async fn listen_for_admin(server: &Server) -> Result<Option<TcpListener>, Failure> {
    let Some(bind) = &server.admin_bind else { return Ok(None) };
    let fix = "set [server] admin_bind to a free address, or to \"\" for none";
    match TcpListener::bind(bind).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if server.admin_bind_is_default => {
            tracing::warn!(%error, bind, "no admin listener, and no dashboard: {fix}");
            Ok(None)
        }
        Err(error) => Err(Failure::new(format!("cannot listen on {bind} for the operator: {error}; {fix}"))),
    }
}

type Accepted = Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)>;

async fn accept_if(listener: Option<&TcpListener>, places: &Arc<Semaphore>) -> Accepted {
    match listener {
        Some(listener) => accept(listener, places).await,
        None => std::future::pending().await,
    }
}

/// Starts the outbox, where there is a database for it. It has connections of its own, so that a full batch and the
/// look-up of a plan never wait for each other.
fn send_entries(app: &App, sending: &TaskTracker, sent: &CancellationToken) {
    if !app.ledger.has_outbox() {
        return;
    }
    match Database::new(&app.config().directory.via, sending.clone()) {
        Ok(Some(database)) => {
            app.use_database(&database);
            let outbox = Outbox::new(app.ledger.clone(), database, app.progress.clone());
            sending.spawn(outbox.run(sent.clone()));
        }
        Ok(None) => {}
        Err(error) => tracing::error!(error, "entries for log_request wait: the database's settings cannot be used"),
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Accepted {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of descriptors, most likely: others will be closed soon.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// One connection with its limits: head size and time, idle time, and time for a reader that does not read.
fn connection(
    app: &Arc<App>,
    server: &Server,
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let mut timed = TimeoutStream::new(stream);
    timed.set_write_timeout(Some(server.body_timeout));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(server.header_timeout)
        .max_buf_size(server.header_bytes_max)
        .half_close(false);
    let handled = http.serve_connection(TokioIo::new(Box::pin(timed)), TowerToHyperService::new(router));
    let watched = graceful.watch(handled);
    let cut = app.cut.clone();
    async move {
        tokio::select! {
            () = cut.cancelled() => {}
            done = watched => {
                if let Err(error) = done {
                    tracing::debug!(%error, "connection");
                }
            }
        }
    }
}

/// Lets open requests finish, then cuts them.
async fn drain(app: &App, graceful: GracefulShutdown, connections: &TaskTracker, grace: Duration) {
    tracing::info!(open = app.open_requests(), grace_s = grace.as_secs(), "stopping: no new connections");
    let finished = async {
        graceful.shutdown().await;
        connections.wait().await;
        app.work.close();
        app.work.wait().await;
    };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!(open = app.open_requests(), "the grace is over: open requests are cut and settled");
    }
    app.cut.cancel();
    app.work.close();
    let settled = async {
        connections.wait().await;
        app.work.wait().await;
    };
    if tokio::time::timeout(SETTLE_TIMEOUT, settled).await.is_err() {
        tracing::error!("some requests did not settle in time: the next start ends them as lost");
    }
}

async fn close(app: &App, writer: Writer) {
    let closed = tokio::task::spawn_blocking(move || writer.close()).await;
    if let Err(error) = closed {
        tracing::error!(%error, "the ledger's writer did not stop");
    }
    if let Some(telemetry) = app.telemetry.clone() {
        telemetry.stop().await;
    }
    tracing::info!("stopped");
}
