//! An answer in one piece: read to its end, judged, and given to the caller.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::dispatch::{Dispatched, Failed, failed};
use super::heads;
use super::settle::{self, End};
use crate::endpoint::WholeReader;
use crate::meter::Fault;
use crate::meter::compressed::is_compressed;
use crate::meter::whole::Whole;
use crate::upstream::answer::{self, Answer};
use crate::upstream::rejection::Rejection;

/// Longer answers are not read in the task of their connection.
const READ_AT_ONCE_BYTES_MAX: usize = 1024 * 1024;

impl Dispatched {
    /// An answer in one piece.
    pub(super) async fn whole(
        &mut self,
        answer: Answer,
        read: WholeReader,
    ) -> Result<Response, Failed> {
        let idle = self.config.proxy.idle_timeout;
        let body = answer::read(answer.body, self.spec.answer_bytes_max, idle, self.deadline)
            .await
            .map_err(|error| failed(End::Unread(error)))?;
        if is_compressed(&body) {
            return Err(failed(End::Nonsense));
        }
        let Some(Whole {
            measured,
            body: delivered,
        }) = read_whole(body.clone(), read).await
        else {
            return Err(failed(End::Nonsense));
        };
        // An answer with text or usage is no error, whatever else it says: only the others are read once more.
        if (delivered.is_err() || settle::is_empty(&measured))
            && let Some(rejection) = Rejection::in_success(&body, &self.upstream)
        {
            return Err(failed(End::Refused(rejection)));
        }
        let body = match delivered {
            Ok(body) => body,
            Err(Fault::Upstream) if settle::is_empty(&measured) => {
                return Err(Box::new((End::Refused(Rejection::failed()), measured)));
            }
            Err(_) => return Err(failed(End::Nonsense)),
        };
        self.mark_first_byte();
        let caller_left = self.caller_left.get().is_some();
        self.end(End::Whole { caller_left }, measured);
        Ok(heads::whole(self.order.answer_type(), Body::from(body)))
    }
}

/// Reads a whole answer: a long one on a thread that may be busy, as it would keep others waiting.
async fn read_whole(body: Bytes, read: WholeReader) -> Option<Whole> {
    if body.len() <= READ_AT_ONCE_BYTES_MAX {
        return Some(read(body));
    }
    tokio::task::spawn_blocking(move || read(body)).await.ok()
}
