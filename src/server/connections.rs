//! Accepts connections and limits them; on shutdown, lets streams finish within the grace period.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::app::App;
use crate::config::Server;
use crate::ledger::{Failure, Writer};
use crate::outbox::{CurrentProducts, Outbox};
use crate::server::closing::last_callers;
use crate::server::head_timer::HeadTimer;
use crate::server::peer::Peer;
use crate::server::routes::router;
use crate::server::slots::{AnswerBody, SlotGuard, Slots};
use crate::server::socket::{Socket, bound_buffers};
use crate::supabase::DeveloperDatabase;

/// The operator's connections.
const ADMIN_CONNECTIONS: usize = 64;
/// How long a connection that has sent nothing yet may still begin to, once the server stops.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long what was cut may take to tell its caller so.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
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
    /// The users' is somebody else's too, and goes on when it is closed here: it was handed over.
    pub outlives: bool,
}

impl Listeners {
    /// Binds both. The users' is the first socket that was handed over at the start, where there is one.
    ///
    /// # Errors
    /// An address is taken or not ours, or what was handed over is no TCP socket. (A server whose `admin_bind` nobody said serves its users all the same.)
    pub async fn bind(server: &Server, handed: ListenFd) -> Result<Self, Failure> {
        let outlives = handed.len() > 0;
        let (users, admin) = (
            listen_on(handed, &server.bind).await?,
            listen_for_admin(server).await?,
        );
        [Some(&users), admin.as_ref()]
            .into_iter()
            .flatten()
            .for_each(bound_buffers);
        Ok(Self {
            users,
            admin,
            outlives,
        })
    }
}

impl From<TcpListener> for Listeners {
    fn from(users: TcpListener) -> Self {
        Self {
            users,
            admin: None,
            outlives: false,
        }
    }
}

/// Binds the users' listener.
///
/// # Errors
/// The address is taken or not ours.
pub async fn listen(bind: &str) -> Result<TcpListener, Failure> {
    let fix = "free the port, or set PORT or [server] bind to another";
    TcpListener::bind(bind)
        .await
        .map_err(|error| Failure::new(format!("cannot listen on {bind}: {error}; {fix}")))
}

/// Takes the first socket that was handed over at the start (systemd's `LISTEN_FDS`), which outlives this process: those
/// who connect while it restarts wait in its queue and are not refused. Without one, binds the listener.
///
/// # Errors
/// What was handed over is no TCP socket; or as [`listen`].
async fn listen_on(mut handed: ListenFd, bind: &str) -> Result<TcpListener, Failure> {
    let listener = handed.take_tcp_listener(0).and_then(|socket| {
        let Some(socket) = socket else {
            return Ok(None);
        };
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Some)
    });
    let unfit = |error: std::io::Error| {
        Failure::new(format!(
            "the socket of LISTEN_FDS cannot be used: {error}; give ListenStream= a TCP port"
        ))
    };
    match listener.map_err(unfit)? {
        Some(listener) => Ok(listener),
        None => listen(bind).await,
    }
}

/// Serves until `stop` is cancelled and `shutdown_delay` is over, drains, settles and closes the ledger.
pub async fn serve(
    app: Arc<App>,
    writer: Writer,
    listeners: impl Into<Listeners>,
    stop: CancellationToken,
) {
    let Listeners {
        users,
        admin,
        outlives,
    } = listeners.into();
    let server = app.config().server.clone();
    let routes = router(&app);
    let (leave, stop) = (stop, CancellationToken::new());
    app.keep_house(&stop);
    app.catch_up_purchases();
    let (sending, sent) = (TaskTracker::new(), CancellationToken::new());
    send_entries(&app, &sending, &sent);
    let connections = TaskTracker::new();
    let slots = Slots::new(app.descriptors.connections(server.open_requests_max));
    let admin_slots = Slots::new(ADMIN_CONNECTIONS);
    let admin_routes = crate::operator::api::router(&app, &stop);
    let mut left = pin!(leaves(&app, &leave, server.shutdown_delay));
    loop {
        let (accepted, routes) = tokio::select! {
            () = &mut left => break,
            accepted = accept(&users, &slots) => (accepted, &routes),
            accepted = accept_if(admin.as_ref(), &admin_slots) => (accepted, &admin_routes),
        };
        let Some(accepted) = accepted else { continue };
        connections.spawn(connection(
            &app,
            &server,
            accepted,
            routes.clone(),
            stop.clone(),
        ));
    }
    let callers = if outlives {
        Vec::new()
    } else {
        last_callers(&users).await
    };
    for stream in callers {
        connections.spawn(connection(
            &app,
            &server,
            (stream, slots.take()),
            routes.clone(),
            stop.clone(),
        ));
    }
    drop((users, admin));
    stop.cancel();
    connections.close();
    drain(&app, &connections, server.shutdown_grace).await;
    // After the last request has settled, so that its entry may go as well.
    sent.cancel();
    sending.close();
    if tokio::time::timeout(SEND_TIMEOUT, sending.wait())
        .await
        .is_err()
    {
        tracing::debug!(
            "a call to log_request is left open: its entries go again at the next start"
        );
    }
    close(&app, writer).await;
}

/// Waits until it is time to go: from the word to leave on, readiness is red, and for `delay` everybody is served as before,
/// so that a balancer can look elsewhere first.
async fn leaves(app: &App, leave: &CancellationToken, delay: Duration) {
    leave.cancelled().await;
    app.is_leaving.store(true, Ordering::Release);
    if !delay.is_zero() {
        tracing::info!(
            delay_s = delay.as_secs(),
            "told to stop: not ready any more, and serving for shutdown_delay"
        );
        tokio::time::sleep(delay).await;
    }
}

/// The operator's listener. An address that somebody chose must be had; the one that is built in may be taken.
async fn listen_for_admin(server: &Server) -> Result<Option<TcpListener>, Failure> {
    let Some(bind) = &server.admin_bind else {
        return Ok(None);
    };
    let fix = "set [server] admin_bind to a free address, or to \"\" for none";
    match TcpListener::bind(bind).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if server.admin_bind_is_default => {
            tracing::warn!(%error, bind, "no admin listener, and no dashboard: {fix}");
            Ok(None)
        }
        Err(error) => Err(Failure::new(format!(
            "cannot listen on {bind} for the operator: {error}; {fix}"
        ))),
    }
}

type Accepted = (TcpStream, SlotGuard);

async fn accept_if(listener: Option<&TcpListener>, slots: &Arc<Slots>) -> Option<Accepted> {
    match listener {
        Some(listener) => accept(listener, slots).await,
        None => std::future::pending().await,
    }
}

/// Starts the outbox, where there is a database for it. It has connections of its own, so that a full batch and the
/// look-up of a plan never wait for each other.
fn send_entries(app: &Arc<App>, sending: &TaskTracker, sent: &CancellationToken) {
    if !app.ledger.has_outbox() {
        return;
    }
    match DeveloperDatabase::new(&app.config().directory.via, sending.clone()) {
        Ok(Some(database)) => {
            app.use_database(&database);
            let ledger = || app.ledger.clone();
            let requests = Outbox::of_requests(ledger(), database.clone(), app.progress.clone());
            sending.spawn(requests.run(sent.clone()));
            let own = app.clone();
            let products: CurrentProducts = Box::new(move || own.config().products.clone());
            let purchases = Outbox::of_purchases(ledger(), database, products);
            sending.spawn(purchases.run(sent.clone()));
        }
        Ok(None) => {}
        Err(error) => tracing::error!(
            error,
            "entries for log_request wait: the database's settings cannot be used"
        ),
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Slots>) -> Option<Accepted> {
    slots.room().await;
    match listener.accept().await {
        // No accepted connection waits for a slot: this future may be dropped at any await.
        Ok((stream, _)) => Some((stream, slots.take())),
        Err(error) => {
            // Out of descriptors, most likely: others will be closed soon.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// One connection with its limits: head size and time, idle time, and time for a reader that does not read.
///
/// Its task lives as long as the connection, so nothing in it is moved once it is made: what is moved is kept twice.
fn connection(
    app: &Arc<App>,
    server: &Server,
    (stream, taken): Accepted,
    routes: Router,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let mut http = http1::Builder::new();
    http.timer(HeadTimer::new(taken.slot(), server.header_timeout))
        .header_read_timeout(server.keep_alive)
        .max_buf_size(server.header_bytes_max)
        .half_close(false);
    let (keep_alive, write_timeout) = (server.keep_alive, server.body_timeout);
    let (cut, peer) = (app.cut.clone(), Peer::of(&stream));
    async move {
        let handled = async {
            if !begins(&stream, keep_alive, &stop).await {
                return;
            }
            let slot = taken.slot();
            let socket = TokioIo::new(Socket::new(stream, write_timeout, slot.clone()));
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = routes.clone().call(peer.named_in(request));
                let slot = slot.clone();
                async move {
                    // Who sends one request after the other and reads no answer waits here, and makes room for others.
                    slot.read_up().await;
                    slot.works();
                    answer
                        .await
                        .map(|answer| answer.map(|body| AnswerBody::new(body, slot)))
                }
            });
            let mut serving = pin!(http.serve_connection(socket, service));
            // The head is read before it hears of a shutdown: hyper closes a connection that it has read nothing from, and
            // with it a request that is there already.
            let done = match poll_fn(|context| Poll::Ready(serving.as_mut().poll(context))).await {
                Poll::Ready(done) => done,
                Poll::Pending => tokio::select! {
                    done = serving.as_mut() => done,
                    () = stop.cancelled() => {
                        serving.as_mut().graceful_shutdown();
                        serving.await
                    }
                },
            };
            if let Err(error) = done {
                tracing::debug!(%error, "connection");
            }
        };
        // This task is woken when the grace is over: what it answers then looks whether it is, and ends.
        let over = async {
            cut.cancelled().await;
            tokio::time::sleep(LAST_WORDS_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            () = over => {}
            () = taken.evicted() => {}
            () = handled => {}
        }
        // Only now: the descriptor is free.
        drop(taken);
    }
}

/// Whether a new connection begins to send in time. Whoever connected before a shutdown is heard.
async fn begins(stream: &TcpStream, patience: Duration, stop: &CancellationToken) -> bool {
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(FIRST_BYTE_TIMEOUT).await;
    };
    // A look, since `readable` may say so of what has nothing to read.
    let mut first = [0];
    tokio::select! {
        first = stream.peek(&mut first) => first.is_ok(),
        () = tokio::time::sleep(patience) => false,
        () = late => false,
    }
}

/// Lets open requests finish, then cuts them.
async fn drain(app: &App, connections: &TaskTracker, grace: Duration) {
    tracing::info!(
        open = app.open_requests(),
        grace_s = grace.as_secs(),
        "stopping: no new connections"
    );
    let finished = async {
        connections.wait().await;
        app.work.close();
        app.work.wait().await;
    };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!(
            open = app.open_requests(),
            "the grace is over: open requests are cut and settled"
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::{Config, DemoUpstream, StoreUrl};

    /// A thousand open streams are a thousand of these. What an `async` block takes in and moves on, it keeps twice.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let folder =
            std::env::temp_dir().join(format!("tollgate-serving-{}", uuid::Uuid::now_v7()));
        let upstream = DemoUpstream {
            url: Some("http://127.0.0.1:1/v1".to_owned()),
            ..DemoUpstream::default()
        };
        let mut config = Config::for_demo(("127.0.0.1:0", ""), &upstream).unwrap();
        config.store.url = StoreUrl::Sqlite(folder.join("ledger.db"));
        let (app, writer) = App::open(config, Clock::system()).unwrap();
        let listener = listen("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let accepted = (stream, Slots::new(1).take());
        let (server, stop) = (app.config().server.clone(), CancellationToken::new());
        let task = connection(&app, &server, accepted, router(&app), stop);
        assert!(size_of_val(&task) < 2500, "{} bytes", size_of_val(&task));
        drop(task);
        writer.close();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
