//! Who asks, and over what: as the connection tells, or a proxy that is trusted.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;

use super::Office;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Hops of `X-Forwarded-For` that are followed.
const HOPS_MAX: usize = 16;

/// How this facilitator is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Front {
    /// Whether its own listener speaks TLS.
    pub(super) is_tls: bool,
    /// Networks of proxies whose headers are believed.
    pub(super) proxies: Vec<IpNet>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    /// The client's address.
    pub(super) address: IpAddr,
    /// Whether the client speaks https.
    pub(super) is_https: bool,
}

impl Front {
    /// Decides who asks; headers count only from proxies that are trusted.
    pub(super) fn asker(&self, peer: IpAddr, headers: &HeaderMap) -> Asker {
        let peer = peer.to_canonical();
        let direct = Asker {
            address: peer,
            is_https: self.is_tls,
        };
        if !self.trusts(peer) {
            return direct;
        }
        // Each proxy appends whom it serves: read from the end, the first that is no proxy of ours is the client. What
        // stands before it was written by strangers.
        let mut address = peer;
        for hop in last_first(headers, FORWARDED_FOR).take(HOPS_MAX) {
            let Some(hop) = read_address(hop) else {
                break;
            };
            address = hop;
            if !self.trusts(hop) {
                break;
            }
        }
        let is_https = last_first(headers, FORWARDED_PROTO)
            .next()
            .map_or(self.is_tls, |scheme| scheme.eq_ignore_ascii_case("https"));
        Asker { address, is_https }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }
}

/// Returns the entries of a list that may be spread over several headers, the last one first.
fn last_first<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    values
        .into_iter()
        .rev()
        .flat_map(|value| value.rsplit(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

/// Reads an address, with or without a port.
fn read_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

impl FromRequestParts<Office> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, office: &Office) -> Result<Self, Infallible> {
        // The listener always says who the peer is.
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |info| info.0.ip());
        Ok(office.front.asker(peer, &parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, headers: &[(&'static str, &'static str)]) -> (String, bool) {
        let front = Front {
            is_tls: false,
            proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let asker = front.asker(peer.parse().unwrap(), &map);
        (asker.address.to_string(), asker.is_https)
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        let headers = [(FORWARDED_FOR, "1.2.3.4"), (FORWARDED_PROTO, "https")];
        assert_eq!(asked("203.0.113.9", &headers), ("203.0.113.9".to_owned(), false));
    }

    #[test]
    fn a_trusted_proxy_says_whom_it_serves() {
        let told = |headers: &[_]| asked("10.1.1.1", headers);
        assert_eq!(told(&[]), ("10.1.1.1".to_owned(), false));
        let headers = [(FORWARDED_FOR, "203.0.113.9"), (FORWARDED_PROTO, "https")];
        assert_eq!(told(&headers), ("203.0.113.9".to_owned(), true));
        // What the client wrote itself stands before what the proxy added.
        let headers = [(FORWARDED_FOR, "1.2.3.4, 203.0.113.9, 10.2.2.2")];
        assert_eq!(told(&headers).0, "203.0.113.9");
        let headers = [(FORWARDED_FOR, "1.2.3.4"), (FORWARDED_FOR, "203.0.113.9:5000")];
        assert_eq!(told(&headers).0, "203.0.113.9");
        let headers = [(FORWARDED_FOR, "1.2.3.4, nonsense")];
        assert_eq!(told(&headers).0, "10.1.1.1");
        let headers = [(FORWARDED_FOR, "[2001:db8::1]:443")];
        assert_eq!(asked("::1", &headers).0, "2001:db8::1");
        assert_eq!(
            asked("::ffff:10.1.1.1", &headers).0,
            "2001:db8::1",
            "a mapped address"
        );
    }
}
