//! How many new users one address may bring in a day: so that whoever makes anonymous users by the thousand gets what one gets.
//!
//! A user is new who has made no request yet, by the ledger. Counted is in this process's memory, which is bounded: where it is
//! full, some address is counted anew.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, HeaderName};
use quick_cache::sync::Cache;
use serde_json::json;
use uuid::Uuid;

use super::App;
use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::{Config, Network, Server};
use crate::error::{Code, Refusal};
use crate::ledger::users::has_requests;
use crate::plan::{Per, window};

/// Where a request comes from, as `server::peer` has written it: the other end of its connection. What a client sends under
/// this name is thrown away.
pub(crate) const PEER_HEADER: HeaderName = HeaderName::from_static("x-tollgate-peer");
/// What a proxy says of where a request comes from.
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many addresses are counted at once.
const ADDRESSES_MAX: usize = 64 * 1024;
/// How many users are remembered who were let in.
const USERS_MAX: usize = 64 * 1024;
/// How many proxies in a row are looked at.
const HOPS_MAX: usize = 16;

/// New users by address and day, and who was let in.
pub(super) struct NewUsers {
    /// By address, or network of one customer, and the first moment of the day.
    counts: Cache<(IpAddr, Timestamp), Arc<AtomicU32>>,
    known: Cache<Uuid, ()>,
}

impl Default for NewUsers {
    fn default() -> Self {
        Self {
            counts: Cache::new(ADDRESSES_MAX),
            known: Cache::new(USERS_MAX),
        }
    }
}

impl App {
    /// Lets a user in who has made a request before, or whose address has brought few new ones today.
    ///
    /// # Errors
    /// `rate_limited` until the day ends; `store_unavailable`: nobody can say who is new.
    pub(crate) async fn admit_new_user(
        &self,
        who: &Principal,
        headers: &HeaderMap,
        (config, now): (&Config, Timestamp),
    ) -> Result<(), Refusal> {
        let Some(most) = config.server.new_users_per_address_per_day else {
            return Ok(());
        };
        let (id, known) = (who.user_id(), &self.new_users.known);
        if known.get(&id).is_some() {
            return Ok(());
        }
        let Some(address) = address_of(headers, &config.server) else {
            return Ok(());
        };
        let reader = self.directory.reader();
        let asked = reader
            .read(move |reports| has_requests(reports.db(), id))
            .await;
        let has_requests = asked.map_err(|error| {
            tracing::warn!(error, "nobody can say who is new");
            Refusal::new(
                Code::StoreUnavailable,
                "The usage ledger cannot be read right now.",
            )
        })?;
        // Two first requests at once are one new user.
        let is_first = known.get(&id).is_none();
        if !has_requests && is_first {
            let day = window(Per::Day, now, &config.server.time_zone, None);
            let counts = &self.new_users.counts;
            let made = counts.get_or_insert_with(&(address, day.start), || {
                Ok::<_, std::convert::Infallible>(Arc::default())
            });
            let count = match made {
                Ok(count) => count,
                Err(never) => match never {},
            };
            let one_more = |count: u32| count.checked_add(1).filter(|count| *count <= most);
            let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            if counted.is_err() {
                return Err(too_many(most, day.end, now));
            }
        }
        known.insert(id, ());
        Ok(())
    }
}

fn too_many(most: u32, until: Timestamp, now: Timestamp) -> Refusal {
    let message = "Too many new users came from your network today: try again tomorrow.";
    let limit = json!({
        "per": "day", "unit": "new_users", "model": null, "limit": most, "used": most, "held": 0, "requested": 1,
        "resets_at": until.rfc3339(),
    });
    Refusal::new(Code::RateLimited, message)
        .retry_after(until.since(now))
        .with("limit", limit)
}

/// Where a request comes from: the nearest address that is no trusted proxy's. Of IPv6 the first 64 bits, which are one
/// customer's (RFC 6177).
fn address_of(headers: &HeaderMap, server: &Server) -> Option<IpAddr> {
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
