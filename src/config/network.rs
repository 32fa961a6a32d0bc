//! Networks by their prefix, in CIDR notation (RFC 4632, RFC 4291 §2.3).

use std::net::IpAddr;

use super::findings::Problem;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits of the address count.
    prefix: u32,
}

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (u32::from(one) ^ u32::from(other)).leading_zeros()
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                (u128::from(one) ^ u128::from(other)).leading_zeros()
            }
            _ => return false,
        };
        same >= self.prefix
    }
}

/// Reads `10.0.0.0/8`, `fd00::/8`, or one address.
pub(super) fn network(text: &str) -> Result<Network, Problem> {
    let (address, prefix) = text.trim().split_once('/').unzip();
    let address = address.unwrap_or(text.trim()).parse::<IpAddr>().ok();
    let read = address.and_then(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
        (prefix <= bits).then_some(Network { address, prefix })
    });
    read.ok_or_else(|| {
        let fix = "write the proxy's address or network, such as \"10.0.0.0/8\" or \"127.0.0.1\"";
        Problem::new(format!("`{text}` is not a network"), fix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network_whatever_way_it_is_written() {
        let is_in = |net: &str, address: &str| {
            let net = network(net).ok().unwrap();
            net.contains(address.parse().unwrap())
        };
        assert!(is_in("10.0.0.0/8", "10.255.1.2") && !is_in("10.0.0.0/8", "11.0.0.1"));
        assert!(is_in("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(is_in("192.0.2.7", "192.0.2.7") && !is_in("192.0.2.7", "192.0.2.6"));
        assert!(is_in("2001:db8::/32", "2001:db8:1::1") && !is_in("2001:db8::/32", "2001:db9::1"));
        assert!(is_in("0.0.0.0/0", "8.8.8.8") && !is_in("0.0.0.0/0", "::1"));
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "localhost",
            "10.0.0.0/",
            "::/129",
        ] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
