//! A request as it leaves: its head as bytes, beside the body it was given.
//!
//! It knows which headers an upstream gets, and where the request goes. Invariant: these headers and no others, and each
//! value of them was checked to be one, so none can break out of its line.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Uri, header};
use secrecy::{ExposeSecret, SecretString};

use super::Names;
use crate::config::UpstreamConfig;

/// Where a connection leads.
pub(super) type Origin = (Scheme, Authority);

/// A request, and where it goes.
pub(super) struct Request {
    pub(super) origin: Origin,
    pub(super) head: Bytes,
    pub(super) body: Bytes,
    /// True from the moment at which the upstream may have any of it.
    pub(super) sent: Arc<AtomicBool>,
}

impl Request {
    /// A chat request to an upstream with this key. None when a setting cannot be written as HTTP.
    pub(super) fn chat(
        (to, key): (&UpstreamConfig, Option<&SecretString>),
        (body, sent): (Bytes, Arc<AtomicBool>),
        stream: bool,
        names: &Names,
    ) -> Option<Self> {
        let uri: Uri = format!("{}/chat/completions", to.base_url).parse().ok()?;
        let origin = (uri.scheme()?.clone(), uri.authority()?.clone());
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(b"POST ");
        head.extend_from_slice(uri.path_and_query()?.as_str().as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        let mut put = |name: HeaderName, value: &HeaderValue| {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        };
        put(header::HOST, &host(&origin)?);
        put(header::CONTENT_TYPE, &HeaderValue::from_static("application/json"));
        let accept = if stream { "text/event-stream" } else { "application/json" };
        put(header::ACCEPT, &HeaderValue::from_static(accept));
        // Compression would hide the usage that is read off the passing bytes.
        put(header::ACCEPT_ENCODING, &HeaderValue::from_static("identity"));
        put(header::USER_AGENT, &HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        let id = HeaderValue::try_from(names.request_id.to_string()).ok()?;
        put(HeaderName::from_static("x-client-request-id"), &id);
        if let Some(traceparent) = &names.traceparent {
            put(HeaderName::from_static("traceparent"), traceparent);
        }
        if let Some(key) = key {
            let value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret())).ok()?;
            put(header::AUTHORIZATION, &value);
        }
        put(header::CONTENT_LENGTH, &HeaderValue::from(body.len()));
        head.extend_from_slice(b"\r\n");
        Some(Self { origin, head: Bytes::from(head), body, sent })
    }
}

/// The host as a header has it: with its port, unless that is the scheme's own (RFC 9110 §7.2).
fn host((scheme, authority): &Origin) -> Option<HeaderValue> {
    let default_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    match authority.port_u16() {
        Some(port) if port != default_port => HeaderValue::try_from(format!("{}:{port}", authority.host())).ok(),
        _ => HeaderValue::from_str(authority.host()).ok(),
    }
}
