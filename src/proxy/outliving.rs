//! An exchange that its caller's leaving does not end.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use crate::app::App;
use crate::config::{Config, OnDisconnect};
use crate::meter::Fault;

/// A future that its caller's leaving does not end: dropped unfinished, it goes on in a task of the app, until
/// `drain_timeout` or the server's end. With `abort`, and where nothing was sent yet, it is dropped at once; but a refusal is
/// read to its end also then, as only its body tells what is billed for it, and so is what a provider works on at whoever
/// listens.
pub(super) struct Outliving {
    pub(super) future: Option<Pin<Box<dyn Future<Output = Response> + Send>>>,
    pub(super) app: Arc<App>,
    pub(super) config: Arc<Config>,
    pub(super) caller_left: Arc<OnceLock<Instant>>,
    /// The upstream may have the request.
    pub(super) sent: Arc<AtomicBool>,
    /// It refuses, and is about to say why.
    pub(super) refusing: Arc<AtomicBool>,
    /// As [`crate::endpoint::Endpoint::works_on`].
    pub(super) works_on: bool,
}

impl Future for Outliving {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.future.as_mut() else {
            return Poll::Pending;
        };
        let done = future.as_mut().poll(context);
        if done.is_ready() {
            self.future = None;
            return done;
        }
        // The connection's task is woken when the grace is over, and with it this.
        if self.app.cut.is_cancelled() {
            self.future = None;
            return Poll::Ready(Fault::Stopped.refusal().into_response());
        }
        Poll::Pending
    }
}

impl Drop for Outliving {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else {
            return;
        };
        // A connection that the stopping server closes was not left by its caller.
        if !self.app.cut.is_cancelled() {
            self.caller_left.get_or_init(Instant::now);
        }
        let proxy = &self.config.proxy;
        let is_abort = proxy.on_disconnect == OnDisconnect::Abort
            && !self.works_on
            && !self.refusing.load(Ordering::Acquire);
        if is_abort || !self.sent.load(Ordering::Acquire) {
            return;
        }
        let limit = if self.works_on {
            proxy.total_timeout
        } else {
            proxy.drain_timeout
        };
        let cut = self.app.cut.clone();
        self.app.work.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                // A stream that begins only now is dropped, and with that drained on.
                done = tokio::time::timeout(limit, future) => drop(done),
            }
        });
    }
}
