//! The other end of a connection, as each request tells it further in: by a header that is ours, like the request's id.

use axum::body::Body;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use crate::app::sender_address::PEER_HEADER;

/// The other end's address; none where it cannot be told.
pub(super) struct Peer(Option<HeaderValue>);

impl Peer {
    pub(super) fn of(stream: &TcpStream) -> Self {
        let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        Self(address.and_then(|address| HeaderValue::try_from(address.to_string()).ok()))
    }

    /// A request with the address in it, whatever the client sent in its place.
    pub(super) fn named_in(&self, request: Request<Incoming>) -> Request<Body> {
        let mut request = request.map(Body::new);
        let headers = request.headers_mut();
        headers.remove(PEER_HEADER);
        if let Some(address) = &self.0 {
            headers.insert(PEER_HEADER, address.clone());
        }
        request
    }
}
