//! Lingering close: reads and discards the rest of a request's body after its answer is ready.
//!
//! If a connection is closed while its client still sends, the kernel resets it and the answer is lost: an app would
//! not learn that its token has expired. Invariant: nothing is stored, and reading ends after `body_timeout` or
//! [`LEFT_BYTES_MAX`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use crate::app::App;

/// The most that is thrown away.
const LEFT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The request with a body that is read on when the handler has dropped it: the caller can finish sending.
pub(crate) fn let_finish(app: Arc<App>, request: Request) -> Request {
    // Who expects `100 Continue` sends nothing before it.
    let is_coming = !request.headers().contains_key(header::EXPECT);
    request.map(|body| {
        Body::new(LingeringBody {
            body,
            is_coming,
            app,
        })
    })
}

struct LingeringBody {
    body: Body,
    /// There may be more of it on the way.
    is_coming: bool,
    app: Arc<App>,
}

impl http_body::Body for LingeringBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(context);
        self.is_coming = !matches!(next, Poll::Ready(None | Some(Err(_))));
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LingeringBody {
    fn drop(&mut self) {
        if !self.is_coming || http_body::Body::is_end_stream(&self.body) {
            return;
        }
        let mut left = Limited::new(std::mem::take(&mut self.body), LEFT_BYTES_MAX);
        let (limit, cut) = (self.app.config().server.body_timeout, self.app.cut.clone());
        self.app.work.spawn(async move {
            let all = async { while left.frame().await.is_some_and(|frame| frame.is_ok()) {} };
            tokio::select! {
                () = cut.cancelled() => {}
                // In time or not, dropping the body tells the connection.
                _ = tokio::time::timeout(limit, all) => {}
            }
        });
    }
}
