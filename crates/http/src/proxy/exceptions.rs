//! The servers that are reached without a proxy: `NO_PROXY`.

use std::net::{IpAddr, Ipv6Addr};

/// A list of servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Clone, Debug)]
struct Exception {
    servers: Servers,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Servers {
    All,
    /// The addresses that share this many leading bits with the given address.
    Network(IpAddr, u32),
    /// A name, and all names below it.
    Domain(String),
}

impl Exceptions {
    /// Parses a list. An invalid entry matches nothing.
    pub(super) fn of(list: &str) -> Self {
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        Self(entries.filter_map(exception).collect())
    }

    /// Returns whether the server is in the list. Names are not resolved.
    pub(super) fn has(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        self.0.iter().any(|it| {
            it.port.is_none_or(|only| only == port)
                && match (&it.servers, ip) {
                    (Servers::All, _) => true,
                    (Servers::Network(network, bits), Some(ip)) => is_in(ip, *network, *bits),
                    (Servers::Domain(domain), None) => is_below(host, domain),
                    (Servers::Network(..), None) | (Servers::Domain(_), Some(_)) => false,
                }
        })
    }
}

fn exception(entry: &str) -> Option<Exception> {
    if let Some((ip, bits)) = entry.split_once('/') {
        return network(ip, bits).map(|servers| Exception { servers, port: None });
    }
    // An IPv6 address without a port may omit its brackets.
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(Exception { servers: single(ip), port: None });
    }
    let (host, port) = match entry.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
        None => entry.split_once(':').map_or((entry, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse).transpose().ok()?;
    let servers = match host.parse::<IpAddr>() {
        Ok(ip) => single(ip),
        Err(_) if host == "*" => Servers::All,
        Err(_) => {
            let domain = host.strip_prefix('*').unwrap_or(host);
            let domain = domain.trim_matches('.').to_ascii_lowercase();
            if domain.is_empty() {
                return None;
            }
            Servers::Domain(domain)
        }
    };
    Some(Exception { servers, port })
}

/// The length of the prefix of IPv4 addresses that are written as IPv6 addresses.
const MAPPED_BITS: u32 = 96;

fn single(ip: IpAddr) -> Servers {
    Servers::Network(ip.to_canonical(), 128)
}

/// Parses a network. If all of its addresses are mapped IPv4 addresses (`::ffff:0:0/96`), returns an
/// IPv4 network.
fn network(ip: &str, bits: &str) -> Option<Servers> {
    let (ip, bits) = (ip.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let canonical = ip.to_canonical();
    match (ip, canonical) {
        _ if bits > most => None,
        (IpAddr::V6(_), IpAddr::V4(_)) if bits >= MAPPED_BITS => {
            Some(Servers::Network(canonical, bits - MAPPED_BITS))
        }
        _ => Some(Servers::Network(ip, bits)),
    }
}

/// Returns whether an address shares its first `bits` bits with the network.
fn is_in(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (ip, network, width) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            (u128::from(ip.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits(), network.to_bits(), Ipv6Addr::BITS),
        _ => return false,
    };
    let rest = width - bits.min(width);
    // A network of 0 bits contains every address, but a shift by the full width is not defined.
    ip.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

fn is_below(host: &str, domain: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_as_in_curl() {
        for (list, host, port, expected) in [
            ("*", "anything", 80, true),
            ("", "anything", 80, false),
            (",, ,", "anything", 80, false),
            ("example.org", "example.org", 80, true),
            ("example.org", "a.b.example.org", 443, true),
            ("example.org", "notexample.org", 80, false),
            ("example.org", "example.org.evil", 80, false),
            (".example.org", "example.org", 80, true),
            (".example.org", "a.example.org", 80, true),
            ("*.example.org", "a.example.org", 80, true),
            ("Example.ORG.", "EXAMPLE.org", 80, true),
            ("example.org", "example.org.", 80, true),
            ("a, example.org ,b", "example.org", 80, true),
            ("a example.org", "example.org", 80, true),
            ("example.org:8443", "example.org", 8443, true),
            ("example.org:8443", "example.org", 443, false),
            ("*:8443", "example.org", 8443, true),
            ("example.org:x", "example.org", 443, false),
            ("10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1", "10.0.0.10", 80, false),
            ("10.0.0.1:80", "10.0.0.1", 80, true),
            ("10.0.0.1:81", "10.0.0.1", 80, false),
            ("10.0.0.0/8", "10.255.0.1", 80, true),
            ("10.0.0.0/8", "11.0.0.1", 80, false),
            ("10.0.0.128/25", "10.0.0.127", 80, false),
            ("10.0.0.7/32", "10.0.0.7", 80, true),
            ("0.0.0.0/0", "10.0.0.7", 80, true),
            ("0.0.0.0/0", "example.org", 80, false),
            ("0.0.0.0/0", "2001:db8::1", 80, false),
            ("::/0", "2001:db8::1", 80, true),
            ("10.0.0.0/33", "10.0.0.1", 80, false),
            ("10.0.0.0/x", "10.0.0.1", 80, false),
            ("2001:db8::/32", "2001:db8:1::1", 80, true),
            ("2001:db8::/32", "2001:db9::1", 80, false),
            ("2001:db8::1", "2001:db8::1", 80, true),
            ("[2001:db8::1]:8443", "2001:db8::1", 8443, true),
            ("[2001:db8::1]:8443", "2001:db8::1", 443, false),
            ("10.0.0.1", "::ffff:10.0.0.1", 80, true),
            ("::ffff:10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1:80", "::ffff:10.0.0.1", 80, true),
            ("10.0.0.1:81", "::ffff:10.0.0.1", 80, false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", 80, true),
            ("10.0.0.0/8", "::ffff:a01:203", 80, true),
            ("10.0.0.0/8", "::ffff:11.1.2.3", 80, false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", 80, true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", 80, true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", 80, false),
            ("::ffff:0:0/96", "192.0.2.1", 80, true),
            ("::ffff:0:0/96", "2001:db8::1", 80, false),
            ("::ffff:10.0.0.0/129", "10.0.0.0", 80, false),
            // A mapped address is an IPv4 address.
            ("::/0", "::ffff:10.0.0.1", 80, false),
            // A suffix of an address is not a domain.
            ("0.1", "10.0.0.1", 80, false),
            (".", "example.org", 80, false),
            ("[", "example.org", 80, false),
        ] {
            assert_eq!(Exceptions::of(list).has(host, port), expected, "{list:?} {host} {port}");
        }
    }
}
