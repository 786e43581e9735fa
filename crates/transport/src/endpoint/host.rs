//! Decides from the text alone whether an endpoint or host is on this machine.

use std::net::IpAddr;

use super::{Address, Endpoint};

impl Endpoint {
    /// Returns true if the endpoint's text shows that the other end is on this machine.
    ///
    /// For `tcp:` and unknown schemes, returns true only if the host (in a URL, the one after `//`) [is
    /// loopback](is_loopback) or the scheme ends in `-unix` or `-pipe`. No name is resolved. If the host cannot be
    /// parsed, returns false. For a local endpoint that leads elsewhere, such as a tunnel, returns true.
    pub fn is_on_this_machine(&self) -> bool {
        match self.address() {
            Address::Tcp { host, .. } => is_loopback(host),
            Address::Other { scheme, rest } => {
                scheme.ends_with("-unix")
                    || scheme.ends_with("-pipe")
                    || host_of_url(rest).is_some_and(is_loopback)
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

/// Returns true if `host` is a loopback address (IPv6 without brackets) or `localhost` in any case.
/// Other names are not resolved.
pub fn is_loopback(host: &str) -> bool {
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn host_of_url(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix("//")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    // The part before an `@` is user information, not the host.
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
    fn locality_follows_from_the_text() {
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
            ("resume+http-pipe:a", true),
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
