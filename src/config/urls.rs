//! Addresses that settings name: origins, base URLs, listeners.
//!
//! Errors never repeat an address: it may contain a password.

use std::net::IpAddr;

use http::Uri;

use super::findings::Problem;
use super::secrets::bare;

/// An `http` or `https` URL without credentials, query or fragment, and without a slash at its end.
pub(super) struct Address {
    pub(super) text: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) is_https: bool,
}

/// What Docker and Podman call the machine that a container runs on.
const HOST_OF_CONTAINER: [&str; 2] = ["host.docker.internal", "host.containers.internal"];

/// Reads a URL. `example` is shown in the error.
pub(super) fn address(text: &str, example: &str) -> Result<Address, Problem> {
    let fix = || format!("write it like {example}");
    let trimmed = text.trim().trim_end_matches('/');
    bare(trimmed)?;
    if trimmed.contains(['?', '#', '@', '\\']) {
        return Err(Problem::new(
            "is a URL with credentials, a query or a fragment",
            fix(),
        ));
    }
    let uri: Uri = trimmed
        .parse()
        .map_err(|_| Problem::new("is not a URL", fix()))?;
    let is_https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => {
            return Err(Problem::new(
                "is not a URL that begins with https:// or http://",
                fix(),
            ));
        }
    };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    // A port that is written must be one: `Uri` takes `https://host:` and `https://host:99999`.
    let authority = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    let wrote_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    if host.is_empty() || (wrote_port && uri.port_u16().is_none()) {
        return Err(Problem::new(
            "is a URL without a host, or with a port that is none",
            fix(),
        ));
    }
    let path = uri.path().trim_end_matches('/').to_owned();
    Ok(Address {
        text: trimmed.to_owned(),
        host,
        path,
        is_https,
    })
}

impl Address {
    /// It is this machine, or the one that this container runs on: nothing goes over a network.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host) || HOST_OF_CONTAINER.contains(&self.host.as_str())
    }

    /// Its host is `domain` or one below it.
    pub(super) fn is_of(&self, domain: &str) -> bool {
        self.host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl Address {
    /// It is this machine or one on its own network: no foreign network is in between.
    pub(super) fn is_private(&self) -> bool {
        is_private(&self.host)
    }
}

/// Loopback, RFC 1918, IPv6 unique local and link-local, a name without dots (`kong`), the host of a container.
fn is_private(host: &str) -> bool {
    if is_loopback(host) || HOST_OF_CONTAINER.contains(&host) {
        return true;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_private(),
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.is_private() || mapped.is_loopback(),
            None => address.is_unique_local() || address.is_unicast_link_local(),
        },
        // Without a dot: a name, not an address written as one number (`134744072` is 8.8.8.8).
        Err(_) => {
            !bare.is_empty()
                && !bare.contains('.')
                && !bare.starts_with(|first: char| first.is_ascii_digit())
        }
    }
}

/// Whether two URLs are the same, if all names of this machine are: a Supabase on `localhost` signs tokens as
/// `127.0.0.1`, and a container calls the same one `host.docker.internal`.
pub(crate) fn is_same_on_this_machine(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let uri: Uri = text.parse().ok()?;
        let host = uri.host()?.to_ascii_lowercase();
        let is_here = is_loopback(&host) || HOST_OF_CONTAINER.contains(&host.as_str());
        is_here.then(|| {
            (
                uri.scheme_str().map(str::to_owned),
                uri.port_u16(),
                uri.path().to_owned(),
            )
        })
    };
    one == other || parts(one).is_some_and(|one| parts(other) == Some(one))
}

/// The host is this machine: `localhost`, `127.…`, `[::1]`.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let local =
        bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost");
    local
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Reads `host:port` and gives it back, trimmed.
pub(super) fn listener(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if host_of(text).is_some() {
        return Ok(text.to_owned());
    }
    let fix = "write \"127.0.0.1:8080\" for this machine only, or \"0.0.0.0:8080\" for every network; PORT is a number alone";
    Err(Problem::new(format!("`{text}` is not host:port"), fix))
}

/// The host of `host:port`, where both are there.
pub(super) fn host_of(listener: &str) -> Option<&str> {
    let (host, port) = listener.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || ".-_".contains(letter))
        }
    };
    valid.then_some(host)
}

/// Reads what a browser sends as `Origin`: `https://app.example`, or `*`.
pub(super) fn origin(text: &str) -> Result<(), Problem> {
    let rest = text.split_once("://").filter(|(scheme, _)| {
        scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let plain = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_graphic() && !"/?#@\\*,".contains(c))
    };
    if text == "*" || rest.is_some_and(|(scheme, host)| !scheme.is_empty() && plain(host)) {
        return Ok(());
    }
    let fix = "write scheme and host only, such as \"https://app.example\" (no path, no slash at the end), or \"*\"";
    Err(Problem::new(format!("`{text}` is not an origin"), fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_plain_or_refused() {
        let good = |text| address(text, "…").ok().unwrap();
        assert_eq!(
            good("https://api.openai.com/v1/").text,
            "https://api.openai.com/v1"
        );
        assert_eq!(good("https://api.openai.com/v1/").path, "/v1");
        assert!(good("http://[::1]:8080").is_loopback());
        assert!(good("http://host.docker.internal:54321").is_loopback());
        assert!(!good("http://127.0.0.1.example.com").is_loopback());
        assert!(
            !good("http://docker.internal").is_loopback() && !is_loopback("host.docker.internal")
        );
        for wrong in [
            "",
            "x",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x?y",
            "https://x#y",
            "https://x:99999",
            "https://x:",
            "//x",
            "/x",
            "https://a b",
        ] {
            assert!(address(wrong, "…").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_private_host_is_this_machine_or_beside_it() {
        for host in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.2",
            "[fd00::1]",
            "[fe80::1]",
            "[::ffff:10.0.0.1]",
            "kong",
            "supabase-kong",
            "host.docker.internal",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in [
            "example.com",
            "kong.example.com",
            "8.8.8.8",
            "172.32.0.1",
            "169.254.169.254",
            "10.0.0.1.example.com",
            "134744072",
            "0x08080808",
            "[2001:db8::1]",
            "[::ffff:8.8.8.8]",
            "docker.internal",
            "",
        ] {
            assert!(!is_private(host), "{host}");
        }
    }

    #[test]
    fn one_machine_has_several_names() {
        let wanted = "http://localhost:54321/auth/v1";
        for same in ["127.0.0.1", "[::1]", "LOCALHOST", "host.docker.internal"] {
            assert!(
                is_same_on_this_machine(&format!("http://{same}:54321/auth/v1"), wanted),
                "{same}"
            );
        }
        for other in [
            "http://127.0.0.1:54322/auth/v1",
            "https://127.0.0.1:54321/auth/v1",
            "http://127.0.0.1:54321/auth",
            "http://127.0.0.1.example.com:54321/auth/v1",
            "http://10.0.0.1:54321/auth/v1",
            "",
        ] {
            assert!(!is_same_on_this_machine(other, wanted), "{other}");
        }
        assert!(!is_same_on_this_machine(
            "https://a.supabase.co/auth/v1",
            "https://b.supabase.co/auth/v1"
        ));
    }

    #[test]
    fn a_listener_has_a_host_and_a_port() {
        for good in [
            "0.0.0.0:8080",
            "[::]:80",
            "localhost:0",
            "tollgate.internal:1",
        ] {
            assert!(listener(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "8080",
            ":8080",
            "0.0.0.0",
            "0.0.0.0:99999",
            "::1:80",
            "a b:1",
            "[x]:1",
            "0.0.0.0:",
        ] {
            assert!(listener(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_has_no_path() {
        for good in [
            "*",
            "https://app.example",
            "http://localhost:3000",
            "capacitor://localhost",
        ] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/x",
            "https://",
            "https://*.x",
            "null",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
