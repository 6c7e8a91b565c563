//! Which addresses a job's transfers may reach: the public internet, and what the operator adds to it.
//!
//! A job names its servers itself. What stands behind the operator's own walls, other services of the same machine
//! and the metadata services of clouds trust whoever can reach them, so none of them is reached for a stranger.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A cloud's service that hands out a machine's own credentials.
    Metadata,
    /// No address at all, or "this network" (RFC 1122).
    Unspecified,
    /// The machine itself (RFC 1122, RFC 4291).
    Loopback,
    /// A private network (RFC 1918, RFC 4193, RFC 8215).
    Private,
    /// A provider's inner network (RFC 6598).
    Shared,
    /// The network of one link (RFC 3927, RFC 4291).
    LinkLocal,
    /// A site's inner network (RFC 3879).
    SiteLocal,
    /// A group of machines (RFC 5771, RFC 4291).
    Multicast,
    /// Every machine of a network (RFC 919).
    Broadcast,
    /// Made for documents (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// Made for measurements (RFC 2544, RFC 5180).
    Benchmarking,
    /// IPv4 inside IPv6, over relays that nobody answers for (RFC 3056, RFC 4380).
    Tunnel,
    /// Not given to anyone on the public internet (the registries of RFC 6890).
    Reserved,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Metadata => "a cloud metadata address",
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Shared => "a carrier's shared address",
            Self::LinkLocal => "a link-local address",
            Self::SiteLocal => "a site-local address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarking",
            Self::Tunnel => "an address of a 6to4 or Teredo tunnel",
            Self::Reserved => "a reserved address",
        })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: [u16; 4], last: u16, prefix: u8) -> Ipv6Net {
    let [a, b, c, d] = first;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last), prefix)
}

/// What is refused of IPv4; the first row that fits decides (the IANA special-purpose registry, and what clouds
/// document of their metadata services).
const REFUSED_V4: &[(Ipv4Net, Rule)] = &[
    // Amazon, Google, Microsoft, Oracle and most others; Amazon's containers; Alibaba; Oracle; Azure's wire server.
    (v4(169, 254, 169, 254, 32), Rule::Metadata),
    (v4(169, 254, 170, 2, 32), Rule::Metadata),
    (v4(100, 100, 100, 200, 32), Rule::Metadata),
    (v4(192, 0, 0, 192, 32), Rule::Metadata),
    (v4(168, 63, 129, 16, 32), Rule::Metadata),
    (v4(0, 0, 0, 0, 8), Rule::Unspecified),
    (v4(10, 0, 0, 0, 8), Rule::Private),
    (v4(100, 64, 0, 0, 10), Rule::Shared),
    (v4(127, 0, 0, 0, 8), Rule::Loopback),
    (v4(169, 254, 0, 0, 16), Rule::LinkLocal),
    (v4(172, 16, 0, 0, 12), Rule::Private),
    (v4(192, 0, 0, 0, 24), Rule::Reserved),
    (v4(192, 0, 2, 0, 24), Rule::Documentation),
    (v4(192, 88, 99, 0, 24), Rule::Tunnel),
    (v4(192, 168, 0, 0, 16), Rule::Private),
    (v4(198, 18, 0, 0, 15), Rule::Benchmarking),
    (v4(198, 51, 100, 0, 24), Rule::Documentation),
    (v4(203, 0, 113, 0, 24), Rule::Documentation),
    (v4(224, 0, 0, 0, 4), Rule::Multicast),
    (v4(255, 255, 255, 255, 32), Rule::Broadcast),
    (v4(240, 0, 0, 0, 4), Rule::Reserved),
];

/// What is refused of IPv6, likewise.
const REFUSED_V6: &[(Ipv6Net, Rule)] = &[
    // Amazon, Google.
    (v6([0xfd00, 0x0ec2, 0, 0], 0x254, 128), Rule::Metadata),
    (v6([0xfd20, 0x00ce, 0, 0], 0x254, 128), Rule::Metadata),
    (v6([0, 0, 0, 0], 0, 128), Rule::Unspecified),
    (v6([0, 0, 0, 0], 1, 128), Rule::Loopback),
    (v6([0x64, 0xff9b, 1, 0], 0, 48), Rule::Private),
    (v6([0xfc00, 0, 0, 0], 0, 7), Rule::Private),
    (v6([0xfe80, 0, 0, 0], 0, 10), Rule::LinkLocal),
    (v6([0xfec0, 0, 0, 0], 0, 10), Rule::SiteLocal),
    (v6([0xff00, 0, 0, 0], 0, 8), Rule::Multicast),
    (v6([0x2001, 0, 0, 0], 0, 32), Rule::Tunnel),
    (v6([0x2001, 2, 0, 0], 0, 48), Rule::Benchmarking),
    (v6([0x2001, 0x0db8, 0, 0], 0, 32), Rule::Documentation),
    (v6([0x2001, 0, 0, 0], 0, 23), Rule::Reserved),
    (v6([0x2002, 0, 0, 0], 0, 16), Rule::Tunnel),
    (v6([0x3fff, 0, 0, 0], 0, 20), Rule::Documentation),
];

/// All of IPv6 that was ever given out to the public (RFC 4291 §2.4 and IANA's registry).
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0], 0, 3);

/// Networks whose last 32 bits are an IPv4 address that is reached through them: mapped (RFC 4291), and the
/// translators' well-known prefix (RFC 6052). The older IPv4-compatible form reaches nothing, and is refused so.
const CARRIERS_V6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    v6([0x64, 0xff9b, 0, 0], 0, 96),
];

/// The addresses that transfers may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<IpNet>,
}

impl Policy {
    /// Makes one: the public internet and, besides, `allowed`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Says whether `address`, which is that of `host`, may be reached.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        // Several ways of writing are one address: what is inside counts.
        let carried = carried(address);
        let is_allowed = |address: &IpAddr| self.allowed.iter().any(|network| network.contains(address));
        if is_allowed(&address) || carried.as_ref().is_some_and(is_allowed) {
            return Ok(());
        }
        match rule(carried.unwrap_or(address)) {
            None => Ok(()),
            Some(rule) => Err(Refused {
                host: host.to_owned(),
                address,
                rule,
            }),
        }
    }
}

/// Returns the IPv4 address that an IPv6 address stands for.
fn carried(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(six) = address else {
        return None;
    };
    let is_carrier = CARRIERS_V6.iter().any(|network| network.contains(&six));
    let [.., a, b, c, d] = six.octets();
    is_carrier.then(|| Ipv4Addr::new(a, b, c, d).into())
}

/// Returns the rule that refuses an address which stands for itself.
fn rule(address: IpAddr) -> Option<Rule> {
    match address {
        IpAddr::V4(four) => REFUSED_V4
            .iter()
            .find(|(network, _)| network.contains(&four))
            .map(|(_, rule)| *rule),
        IpAddr::V6(six) => REFUSED_V6
            .iter()
            .find(|(network, _)| network.contains(&six))
            .map(|(_, rule)| *rule)
            .or_else(|| (!GLOBAL_V6.contains(&six)).then_some(Rule::Reserved)),
    }
}

/// A server that is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is at {address}, {rule}, which jobs may not reach unless the executor's operator lists it in executor.allow_addresses"
)]
pub struct Refused {
    /// The server's name as the job or a redirect gave it.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// Why not.
    pub rule: Rule,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(text: &str) -> Option<Rule> {
        let address = text.parse().unwrap();
        Policy::default()
            .check("host", address)
            .err()
            .map(|refused| refused.rule)
    }

    #[test]
    fn each_special_network_is_refused_by_its_rule_and_its_public_neighbours_are_not() {
        for (refused, rule) in [
            ("169.254.169.254", Rule::Metadata),
            ("169.254.170.2", Rule::Metadata),
            ("100.100.100.200", Rule::Metadata),
            ("192.0.0.192", Rule::Metadata),
            ("168.63.129.16", Rule::Metadata),
            ("fd00:ec2::254", Rule::Metadata),
            ("fd20:ce::254", Rule::Metadata),
            ("0.0.0.0", Rule::Unspecified),
            ("0.1.2.3", Rule::Unspecified),
            ("::", Rule::Unspecified),
            ("127.0.0.1", Rule::Loopback),
            ("127.255.255.255", Rule::Loopback),
            ("::1", Rule::Loopback),
            ("10.0.0.1", Rule::Private),
            ("172.16.0.1", Rule::Private),
            ("172.31.255.255", Rule::Private),
            ("192.168.1.1", Rule::Private),
            ("fc00::1", Rule::Private),
            ("fdff::1", Rule::Private),
            ("64:ff9b:1::8.8.8.8", Rule::Private),
            ("100.64.0.1", Rule::Shared),
            ("100.127.255.255", Rule::Shared),
            ("169.254.0.1", Rule::LinkLocal),
            ("fe80::1", Rule::LinkLocal),
            ("fec0::1", Rule::SiteLocal),
            ("224.0.0.1", Rule::Multicast),
            ("239.255.255.255", Rule::Multicast),
            ("ff02::1", Rule::Multicast),
            ("255.255.255.255", Rule::Broadcast),
            ("240.0.0.1", Rule::Reserved),
            ("192.0.0.1", Rule::Reserved),
            ("2001:1::1", Rule::Reserved),
            ("4000::1", Rule::Reserved),
            ("::ffff:0:8.8.8.8", Rule::Reserved),
            ("192.0.2.1", Rule::Documentation),
            ("198.51.100.1", Rule::Documentation),
            ("203.0.113.1", Rule::Documentation),
            ("2001:db8::1", Rule::Documentation),
            ("3fff::1", Rule::Documentation),
            ("198.18.0.1", Rule::Benchmarking),
            ("198.19.255.255", Rule::Benchmarking),
            ("2001:2::1", Rule::Benchmarking),
            ("192.88.99.1", Rule::Tunnel),
            ("2001::1", Rule::Tunnel),
            ("2002:808:808::1", Rule::Tunnel),
            ("::ffff:10.0.0.1", Rule::Private),
            ("::10.0.0.1", Rule::Reserved),
            ("::8.8.8.8", Rule::Reserved),
            ("64:ff9b::169.254.169.254", Rule::Metadata),
            ("::ffff:127.0.0.1", Rule::Loopback),
        ] {
            assert_eq!(judged(refused), Some(rule), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(judged(public), None, "{public}");
        }
    }

    #[test]
    fn the_operator_opens_what_he_lists_and_nothing_beside_it() {
        let policy = Policy::new(vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for open in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "::1"] {
            assert_eq!(policy.check("h", open.parse().unwrap()), Ok(()), "{open}");
        }
        for shut in ["10.2.0.0", "127.0.0.1", "::ffff:10.2.0.0", "169.254.169.254"] {
            assert!(policy.check("h", shut.parse().unwrap()).is_err(), "{shut}");
        }
    }

    #[test]
    fn a_refusal_names_host_address_rule_and_remedy() {
        let refused = Policy::default().check("evil.test", "169.254.169.254".parse().unwrap());
        assert_eq!(
            refused.unwrap_err().to_string(),
            "evil.test is at 169.254.169.254, a cloud metadata address, which jobs may not reach unless the \
             executor's operator lists it in executor.allow_addresses"
        );
    }

    /// An address of one of the networks that no stranger may reach.
    fn inner_v4() -> impl Strategy<Value = Ipv4Addr> {
        let networks = [
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
        ];
        (prop::sample::select(networks.to_vec()), any::<u32>()).prop_map(|(network, bits)| {
            let network: Ipv4Net = network.parse().unwrap();
            let host = bits & u32::from(network.hostmask());
            Ipv4Addr::from(u32::from(network.network()) | host)
        })
    }

    proptest! {
        #[test]
        fn an_inner_address_is_refused_in_every_notation(inner in inner_v4(), style in 0..7_u8) {
            let [a, b, c, d] = inner.octets();
            let bits = u32::from(inner);
            let host = match style {
                0 => inner.to_string(),
                1 => bits.to_string(),
                2 => format!("0x{bits:x}"),
                3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
                4 => format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
                5 => format!("[::ffff:{inner}]"),
                _ => format!("[64:ff9b::{inner}]"),
            };
            let url: reqwest::Url = format!("http://{host}/").parse().unwrap();
            // Whatever the spelling, it is an address before it is a name, and a refused one.
            let written = url.host_str().unwrap().trim_matches(['[', ']']).to_owned();
            let address: IpAddr = written.parse().unwrap();
            prop_assert!(Policy::default().check(&written, address).is_err(), "{}", url);
        }

        #[test]
        fn only_global_addresses_pass_by_default(bits: u128) {
            let six = Ipv6Addr::from(bits);
            if Policy::default().check("h", six.into()).is_ok() {
                prop_assert!(GLOBAL_V6.contains(&six) || carried(six.into()).is_some());
            }
        }
    }
}
