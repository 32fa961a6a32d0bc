//! Who calls the operator's listener, and what they may do. [`MayRead`] and [`MayWrite`] are made only here.
//!
//! A program sends its token. The dashboard sends the cookie of a session, and a browser would send that for another
//! site's page too. So a change with a cookie also needs a header that no other site can send, and an origin of ours.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Uri, header};

use super::AdminState;
use super::digest::Digest;
use super::sessions;
use crate::error::{Code, Refusal};
use crate::operator::queries::tokens::Scope;

/// The header that the dashboard sends with every change.
pub(super) const CSRF_HEADER: &str = "x-tollgate-csrf";

/// A verified operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admin {
    /// The name of the token, for the audit log.
    pub(super) name: String,
    /// What it may be used for.
    pub(super) scope: Scope,
    /// Which token it is.
    pub(super) token: Digest,
}

/// An operator who may look.
pub(super) struct MayRead(pub(super) Admin);

/// An operator who may change things.
pub(super) struct MayWrite(pub(super) Admin);

impl FromRequestParts<AdminState> for MayRead {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, state: &AdminState) -> Result<Self, Refusal> {
        verified(head, state).await.map(Self)
    }
}

impl FromRequestParts<AdminState> for MayWrite {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, state: &AdminState) -> Result<Self, Refusal> {
        let admin = verified(head, state).await?;
        if admin.scope == Scope::Read {
            return Err(Refusal::new(
                Code::InsufficientScope,
                "This token may only read.",
            ));
        }
        Ok(Self(admin))
    }
}

async fn verified(head: &Parts, state: &AdminState) -> Result<Admin, Refusal> {
    let (app, shared) = (&state.app, &state.shared);
    if head.headers.contains_key(header::AUTHORIZATION) {
        // A page of another origin has no business here, whatever it knows.
        let token = bearer(&head.headers).filter(|_| is_ours(&head.headers));
        return shared
            .tokens
            .verify(app, token.ok_or_else(wrong_token)?)
            .await;
    }
    let Some(session) = sessions::cookie(&head.headers) else {
        return Err(Refusal::new(
            Code::MissingToken,
            "Send a token of the operator: Authorization: Bearer …",
        ));
    };
    check_origin(&head.headers)?;
    let says_so = head
        .headers
        .get(CSRF_HEADER)
        .is_some_and(|value| value == "1");
    if !matches!(head.method, Method::GET | Method::HEAD) && !says_so {
        return Err(Refusal::new(
            Code::CrossOrigin,
            "With a session, a change needs the header X-Tollgate-Csrf: 1.",
        ));
    }
    let token = shared.sessions.token_of(session, app.clock.now());
    let over = || Refusal::new(Code::InvalidToken, "This session is over: sign in again.");
    shared
        .tokens
        .still(app, token.ok_or_else(over)?)
        .await?
        .ok_or_else(over)
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = given.next()?.as_bytes().split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && given.next().is_none()).then_some(token)
}

/// Refuses what a page of another origin sent.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    if is_ours(headers) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::CrossOrigin,
        "Only the pages of this listener may call it with a session.",
    ))
}

/// No page sent it, or one of this listener's. (TLS may end before us, so either scheme is right.)
fn is_ours(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return true;
    };
    let origin = origin.as_bytes();
    let host = origin
        .strip_prefix(b"https://")
        .or_else(|| origin.strip_prefix(b"http://"));
    let own = headers.get(header::HOST).map(http::HeaderValue::as_bytes);
    let is_own = host
        .zip(own)
        .is_some_and(|(host, own)| host.eq_ignore_ascii_case(own));
    is_own && origins.next().is_none()
}

/// Whether a program of this machine asks for this machine, without a proxy between: no page whose name a stranger made
/// lead here, and nobody whom a proxy beside us lets in.
pub(super) fn is_direct(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().unwrap_or_default());
    // A target with a host of its own counts in place of the header (RFC 9112 §3.2.2): both must be right.
    let target = uri
        .authority()
        .is_none_or(|authority| names_this_machine(authority.as_str()));
    let host = hosts.next().is_some_and(names_this_machine) && hosts.next().is_none();
    target && host && !headers.keys().any(is_of_a_proxy)
}

/// Headers that proxies add and that programs of this machine do not.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    const STARTS: [&str; 7] = [
        "forwarded",
        "x-forwarded",
        "x-original-",
        "x-envoy-",
        "cf-",
        "tailscale-",
        "x-amzn-",
    ];
    const NAMES: [&str; 12] = [
        "via",
        "x-real-ip",
        "x-client-ip",
        "client-ip",
        "true-client-ip",
        "x-cluster-client-ip",
        "x-proxyuser-ip",
        "x-originating-ip",
        "x-remote-ip",
        "x-remote-addr",
        "fly-client-ip",
        "fastly-client-ip",
    ];
    STARTS.iter().any(|start| name.as_str().starts_with(start)) || NAMES.contains(&name.as_str())
}

fn names_this_machine(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(host, |(name, _)| name);
    crate::config::urls::is_loopback(name)
}

/// The token is none of the operator's.
pub(super) fn wrong_token() -> Refusal {
    Refusal::new(Code::InvalidToken, "This is not a token of the operator.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn an_origin_is_ours_if_it_is_the_host_that_was_called() {
        for origin in ["http://127.0.0.1:9090", "https://127.0.0.1:9090"] {
            assert!(
                is_ours(&headers(&[("host", "127.0.0.1:9090"), ("origin", origin)])),
                "{origin}"
            );
        }
        assert!(is_ours(&headers(&[("host", "x")])));
        for origin in [
            "null",
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:9091",
            "ftp://127.0.0.1:9090",
            "https://x",
        ] {
            assert!(
                !is_ours(&headers(&[("host", "127.0.0.1:9090"), ("origin", origin)])),
                "{origin}"
            );
        }
        assert!(
            !is_ours(&headers(&[("origin", "http://x")])),
            "without a host"
        );
        assert!(!is_ours(&headers(&[
            ("host", "x"),
            ("origin", "http://x"),
            ("origin", "http://y")
        ])));
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(
            bearer(&headers(&[("authorization", "bEaReR a b")])),
            Some(&b"a b"[..])
        );
        for wrong in ["", "Bearer", "Basic abc", "Bearers a"] {
            assert_eq!(
                bearer(&headers(&[("authorization", wrong)])),
                None,
                "{wrong}"
            );
        }
        assert_eq!(
            bearer(&headers(&[
                ("authorization", "Bearer a"),
                ("authorization", "Bearer a")
            ])),
            None
        );
    }

    #[test]
    fn only_names_of_this_machine_are_taken_for_it() {
        for (host, is_ours) in [
            ("127.0.0.1:9090", true),
            ("localhost", true),
            ("[::1]:9090", true),
            ("evil.test:9090", false),
            ("127.0.0.1.evil.test", false),
            ("", false),
        ] {
            let uri = Uri::from_static("/metrics");
            assert_eq!(
                is_direct(&headers(&[("host", host)]), &uri),
                is_ours,
                "{host}"
            );
        }
        let local = headers(&[("host", "127.0.0.1:9090")]);
        assert!(is_direct(
            &local,
            &Uri::from_static("http://localhost:9090/metrics")
        ));
        for target in [
            "http://evil.test/metrics",
            "http://evil.test:9090/metrics",
            "http://localhost@evil.test/metrics",
        ] {
            assert!(!is_direct(&local, &Uri::from_static(target)), "{target}");
        }
        assert!(
            !is_direct(&headers(&[]), &Uri::from_static("/metrics")),
            "no host"
        );
        assert!(!is_direct(
            &headers(&[("host", "localhost"), ("host", "localhost")]),
            &Uri::from_static("/metrics")
        ));
    }

    #[test]
    fn who_comes_through_a_proxy_is_not_of_this_machine() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded",
            "forwarded-for",
            "via",
            "x-real-ip",
            "cf-connecting-ip",
            "true-client-ip",
        ] {
            assert!(
                !is_direct(
                    &headers(&[("host", "localhost:9090"), (name, "")]),
                    &Uri::from_static("/metrics")
                ),
                "{name}"
            );
        }
    }
}
