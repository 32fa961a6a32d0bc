//! Where a request comes from: the other end of its connection, or whom a trusted proxy has seen there.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName};

use crate::config::{Network, Server};

/// Where a request comes from, as `server::peer` has written it: the other end of its connection. What a client sends under
/// this name is thrown away.
pub(crate) const PEER_HEADER: HeaderName = HeaderName::from_static("x-tollgate-peer");
/// What a proxy says of where a request comes from.
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many proxies in a row are looked at.
const HOPS_MAX: usize = 16;

/// Where a request comes from: the nearest address that is no trusted proxy's. Of IPv6 the first 64 bits, which are one
/// customer's (RFC 6177).
pub(crate) fn address_of(headers: &HeaderMap, server: &Server) -> Option<IpAddr> {
    let peer = headers.get(PEER_HEADER)?.to_str().ok()?;
    let peer: IpAddr = peer.parse().ok()?;
    let address = behind(peer.to_canonical(), headers, &server.trusted_proxies);
    Some(match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    })
}

/// Reads `X-Forwarded-For` from the right: each proxy writes there whom it has seen, and what stands further left may be anybody's.
fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let lines = headers.get_all(FORWARDED_HEADER).iter().rev();
    let mut hops = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','))
        .take(HOPS_MAX);
    let mut address = peer;
    while is_trusted(address) {
        let Some(before) = hops.next().and_then(hop) else {
            break;
        };
        address = before;
    }
    address
}

/// An address as proxies write it: alone, with a port, or in brackets.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse::<IpAddr>();
    let with_port = || text.parse::<std::net::SocketAddr>().map(|it| it.ip());
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse();
    let read = alone.or_else(|_| with_port()).or_else(|_| bare()).ok()?;
    Some(read.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let trusted: Vec<Network> = Vec::new();
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_HEADER, line.parse().unwrap());
        }
        behind(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn without_a_trusted_proxy_nobody_says_where_a_request_comes_from() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn an_address_is_read_in_every_way_that_proxies_write_it() {
        for text in [
            "192.0.2.7",
            " 192.0.2.7 ",
            "192.0.2.7:4711",
            "::ffff:192.0.2.7",
        ] {
            assert_eq!(hop(text).unwrap().to_string(), "192.0.2.7", "{text}");
        }
        assert_eq!(hop("[2001:db8::1]:443").unwrap().to_string(), "2001:db8::1");
        assert_eq!(hop("[2001:db8::1]").unwrap().to_string(), "2001:db8::1");
        assert!(hop("unknown").is_none() && hop("").is_none());
    }
}
