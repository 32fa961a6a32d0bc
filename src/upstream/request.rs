//! A request as it leaves: its head as bytes, beside the body it was given.
//!
//! It knows which headers an upstream gets, and where the request goes. Invariant: these headers and no others, and each
//! value of them was checked to be one, so none can break out of its line.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::Names;
use crate::config::UpstreamConfig;

/// What every request says. Compression would hide the usage that is read off the passing bytes.
const ALWAYS: &str = concat!(
    "content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: tollgate/",
    env!("CARGO_PKG_VERSION"),
    "\r\n"
);

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
        let origin = (to.chat_url.scheme()?.clone(), to.chat_url.authority()?.clone());
        let mut head = Vec::with_capacity(512);
        let path = to.chat_url.path_and_query()?;
        let accept = if stream { "text/event-stream" } else { "application/json" };
        write!(head, "POST {path} HTTP/1.1\r\nhost: {}\r\n{ALWAYS}accept: {accept}\r\n", host(&origin)).ok()?;
        let mut put = |name: &str, value: &[u8]| {
            let parts = [name.as_bytes(), value, b"\r\n"];
            is_value(value).then(|| parts.into_iter().for_each(|part| head.extend_from_slice(part)))
        };
        let id = names.request_id.hyphenated();
        put("x-client-request-id: ", id.encode_lower(&mut Uuid::encode_buffer()).as_bytes())?;
        if let Some(traceparent) = &names.traceparent {
            put("traceparent: ", traceparent.as_bytes())?;
        }
        if let Some(key) = key {
            put("authorization: Bearer ", key.expose_secret().as_bytes())?;
        }
        write!(head, "content-length: {}\r\n\r\n", body.len()).ok()?;
        Some(Self { origin, head: Bytes::from(head), body, sent })
    }
}

/// The host as a header has it: with its port, unless that is the scheme's own (RFC 9110 §7.2).
fn host((scheme, authority): &Origin) -> &str {
    let default_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    if authority.port_u16() == Some(default_port) { authority.host() } else { authority.as_str() }
}

/// Whether a field may have this value: it ends no line (RFC 9110 §5.5).
fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7F))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_ends_its_line_is_sent_to_nobody() {
        let to = crate::upstream::tests::upstream("https://api.example:443/v1", None);
        let names = Names::from(Uuid::nil());
        let head = |key: &str| {
            let parts = (Bytes::from_static(b"{}"), Arc::default());
            let request = Request::chat((&to, Some(&SecretString::from(key))), parts, true, &names);
            request.map(|request| String::from_utf8(request.head.to_vec()).unwrap())
        };
        let written = head("sk-a b\t\u{e9}").unwrap();
        assert!(written.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: api.example\r\n"), "{written}");
        assert!(written.ends_with("authorization: Bearer sk-a b\t\u{e9}\r\ncontent-length: 2\r\n\r\n"), "{written}");
        for odd in ["sk\r\nx: y", "sk\n", "sk\r", "sk\0", "sk\u{7f}"] {
            assert_eq!(head(odd), None, "{odd:?}");
        }
    }
}
