//! Which endpoints and hosts are of this machine, by how they are written alone.

use std::net::IpAddr;

use super::{Address, Endpoint};

impl Endpoint {
    /// Whether its other end is on this machine: all but `tcp:` and schemes of others are; these are where
    /// their host [is](is_loopback), as it stands behind `//` in a URL, or as it is a socket by the end of
    /// its scheme, `-unix`. No name is looked up, and what cannot be read is elsewhere. What merely leads
    /// on from here, as a tunnel does, is on this machine.
    pub fn is_on_this_machine(&self) -> bool {
        match self.address() {
            Address::Tcp { host, .. } => is_loopback(host),
            Address::Other { scheme, rest } => {
                scheme.ends_with("-unix") || host_of_url(rest).is_some_and(is_loopback)
            }
            Address::Unix(_)
            | Address::UnixAbstract(_)
            | Address::Pipe(_)
            | Address::Exec(_)
            | Address::Stdio
            | Address::Memory(_) => true,
        }
    }
}

/// Whether a host is written as this machine: an address of loopback, an IPv6 one without its brackets,
/// or `localhost` in whatever letters. Of names only that one: whom another leads to is for others to say.
pub fn is_loopback(host: &str) -> bool {
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn host_of_url(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix("//")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    // What stands in front of an `@` is no host.
    if authority.contains('@') {
        return None;
    }
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => authority.split(':').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_an_endpoint_is_written_says_whether_it_is_on_this_machine() {
        for (text, expected) in [
            ("unix:/run/a.sock", true),
            ("unix:@a", true),
            ("pipe:a", true),
            ("exec:ssh example.org agent", true),
            ("stdio:", true),
            ("mem:a", true),
            ("tcp:127.0.0.1:7000", true),
            ("tcp:127.9.9.9:7000", true),
            ("tcp:[::1]:7000", true),
            ("tcp:[::ffff:127.0.0.1]:7000", true),
            ("tcp:localhost:7000", true),
            ("lines+tcp:LocalHost:7000", true),
            ("resume+tcp:127.0.0.1:7000", true),
            ("tcp:128.0.0.1:7000", false),
            ("tcp:0.0.0.0:7000", false),
            ("tcp:[::]:7000", false),
            ("tcp:[fe80::1]:7000", false),
            ("tcp:127.1:7000", false),
            ("tcp:example.org:7000", false),
            ("tcp:localhost.example.org:7000", false),
            ("tcp:127.0.0.1.example.org:7000", false),
            ("ws://127.0.0.1:8080/ws", true),
            ("wss://localhost", true),
            ("ws://LOCALHOST?x", true),
            ("resume+ws://[::1]/ws", true),
            ("http://localhost:80/sse", true),
            ("https://[::1]:9", true),
            ("ws-unix:/run/a.sock:/ws", true),
            ("resume+http-unix:/run/a.sock", true),
            ("ws://example.org/ws", false),
            ("ws://example.org/127.0.0.1", false),
            ("ws://example.org?//127.0.0.1", false),
            ("ws://localhost@example.org/", false),
            ("ws://localhost:80@example.org/", false),
            ("ws://example.org@localhost/", false),
            ("ws://[::2]/ws", false),
            ("ws://[::1/ws", false),
            ("ws:localhost", false),
            ("ws:", false),
            ("net:here", false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.is_on_this_machine(), expected, "{text}");
            assert_eq!(endpoint.carrier().is_on_this_machine(), expected, "{text}");
        }
    }
}
