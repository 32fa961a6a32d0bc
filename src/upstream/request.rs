//! A request as it leaves: its head as bytes, beside the body it was given.
//!
//! It knows which headers an upstream gets, and where the request goes. Invariant: these headers and no others, and each
//! value of them was checked to be one, so none can break out of its line.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::uri::Scheme;
use secrecy::{ExposeSecret, SecretString};
use tollgate_http1::{Origin, Request};
use uuid::Uuid;

use super::{Names, Outgoing};
use crate::config::UpstreamConfig;
use crate::dialect::Dialect;

/// What every request says. Compression would hide the usage that is read off the passing bytes.
const ALWAYS: &str = concat!(
    "accept-encoding: identity\r\nuser-agent: tollgate/",
    env!("CARGO_PKG_VERSION"),
    "\r\n"
);

/// The version of Anthropic's API that requests are written by.
const ANTHROPIC_VERSION: &[u8] = b"2023-06-01";

/// A user's request to an upstream with this key. None when a setting cannot be written as HTTP.
pub(super) fn paid(
    (to, key): (&UpstreamConfig, Option<&SecretString>),
    (outgoing, sent): (Outgoing, Arc<AtomicBool>),
    names: &Names,
) -> Option<Request> {
    let Outgoing {
        path,
        body,
        content_type,
        stream,
        anthropic_beta,
    } = outgoing;
    let accept = if stream {
        "text/event-stream"
    } else {
        "application/json"
    };
    let mut head = Head::begin("POST", to, path, accept)?;
    head.put("content-type: ", content_type.as_bytes())?;
    let id = names.request_id.hyphenated();
    head.put(
        "x-client-request-id: ",
        id.encode_lower(&mut Uuid::encode_buffer()).as_bytes(),
    )?;
    if let Some(traceparent) = &names.traceparent {
        head.put("traceparent: ", traceparent.as_bytes())?;
    }
    if let Some(beta) = anthropic_beta {
        head.put("anthropic-version: ", ANTHROPIC_VERSION)?;
        if !beta.is_empty() {
            head.put("anthropic-beta: ", beta.as_bytes())?;
        }
    }
    head.prove(to, key)?;
    head.end(body, sent)
}

/// A GET of what follows an upstream's base URL, with the key in force.
pub(super) fn question(to: &UpstreamConfig, path: &str) -> Option<Request> {
    let mut head = Head::begin("GET", to, path, "application/json")?;
    if to.manner.dialect == Dialect::Anthropic {
        head.put("anthropic-version: ", ANTHROPIC_VERSION)?;
    }
    head.prove(to, to.api_key.as_ref())?;
    head.end(Bytes::new(), Arc::default())
}

/// The head of a request while it is written.
struct Head {
    origin: Origin,
    text: Vec<u8>,
}

impl Head {
    fn begin(method: &str, to: &UpstreamConfig, path: &str, accept: &str) -> Option<Self> {
        let base = &to.base_uri;
        let origin = (base.scheme()?.clone(), base.authority()?.clone());
        let mut text = Vec::with_capacity(512);
        let (prefix, host) = (base.path().trim_end_matches('/'), host(&origin));
        // A proxy has to be told the whole address, unless it only opens a way (RFC 9112 §3.2.2).
        let proxy = to.proxy.as_ref().filter(|_| origin.0 == Scheme::HTTP);
        match proxy {
            Some(_) => write!(
                text,
                "{method} http://{host}{prefix}{path} HTTP/1.1\r\nhost: {host}\r\n"
            )
            .ok()?,
            None => write!(text, "{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\n").ok()?,
        }
        write!(text, "{ALWAYS}accept: {accept}\r\n").ok()?;
        let mut head = Self { origin, text };
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
            head.put("proxy-authorization: ", authorization.as_bytes())?;
        }
        Some(head)
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Option<()> {
        let parts = [name.as_bytes(), value, b"\r\n"];
        is_value(value).then(|| {
            for part in parts {
                self.text.extend_from_slice(part);
            }
        })
    }

    /// The key, and what else the operator has sent along.
    fn prove(&mut self, to: &UpstreamConfig, key: Option<&SecretString>) -> Option<()> {
        if let Some(key) = key {
            let name = match to.manner.dialect {
                Dialect::Anthropic => "x-api-key: ",
                Dialect::Openai | Dialect::Compatible => "authorization: Bearer ",
            };
            self.put(name, key.expose_secret().as_bytes())?;
        }
        for (name, value) in &to.headers {
            self.text.extend_from_slice(name.as_str().as_bytes());
            self.put(": ", value.expose_secret().as_bytes())?;
        }
        Some(())
    }

    fn end(mut self, body: Bytes, sent: Arc<AtomicBool>) -> Option<Request> {
        write!(self.text, "content-length: {}\r\n\r\n", body.len()).ok()?;
        Some(Request {
            origin: self.origin,
            head: Bytes::from(self.text),
            body,
            sent,
        })
    }
}

/// The host as a header has it: with its port, unless that is the scheme's own (RFC 9110 §7.2).
fn host((scheme, authority): &Origin) -> &str {
    let default_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    if authority.port_u16() == Some(default_port) {
        authority.host()
    } else {
        authority.as_str()
    }
}

/// Whether a field may have this value: it ends no line (RFC 9110 §5.5).
fn is_value(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7F))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_ends_its_line_is_sent_to_nobody() {
        let to = crate::upstream::tests::upstream("https://api.example:443/v1", None);
        let names = Names::from(Uuid::nil());
        let head = |key: &str| {
            let outgoing = Outgoing {
                path: "/chat/completions",
                body: Bytes::from_static(b"{}"),
                content_type: http::HeaderValue::from_static("application/json"),
                stream: true,
                anthropic_beta: None,
            };
            let parts = (outgoing, Arc::default());
            let request = paid((&to, Some(&SecretString::from(key))), parts, &names);
            request.map(|request| String::from_utf8(request.head.to_vec()).unwrap())
        };
        let written = head("sk-a b\t\u{e9}").unwrap();
        assert!(
            written.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: api.example\r\n"),
            "{written}"
        );
        assert!(
            written.ends_with("authorization: Bearer sk-a b\t\u{e9}\r\ncontent-length: 2\r\n\r\n"),
            "{written}"
        );
        for odd in ["sk\r\nx: y", "sk\n", "sk\r", "sk\0", "sk\u{7f}"] {
            assert_eq!(head(odd), None, "{odd:?}");
        }
    }
}
