//! `tieline chaos`.

use std::time::Duration;

use clap::Args as Group;
use tieline_http::{Place, WebAddress};
use tieline_proto::ByteSize;
use tieline_transport::{Address, Endpoint};

use super::endpoint::{endpoint, named_listener};
use super::system::Sockets;
use super::values::{duration, probability};

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline chaos unix:/tmp/bad.sock unix:/tmp/agent.sock --cut-every 5s
  tieline chaos unix:/tmp/slow.sock exec:my-agent --delay 200ms --throttle 64K
  tieline chaos unix:/tmp/hole.sock unix:/tmp/agent.sock --blackhole
  tieline chaos unix:/tmp/bits.sock unix:/tmp/agent.sock --corrupt 0.001 --seed 7

In front of a web server it forwards the bytes of HTTP or TLS unchanged, and the server still
authenticates clients. They send the proxy's host name, which the server must allow:
  tieline serve --listen http://127.0.0.1:8080 --allow-host 127.0.0.1:9090 -- my-agent
  tieline chaos ws://127.0.0.1:9090 ws://127.0.0.1:8080/ws --cut-every 5s")]
pub(crate) struct Chaos {
    /// Endpoint to listen on, or the name that clients use for the proxy
    #[arg(value_name = "LISTEN", value_parser = listener)]
    pub(crate) listen: Bytes,
    /// Endpoint or name of a server to forward to; quote an exec: endpoint that has arguments
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(crate) target: Bytes,
    /// Cut each connection on both sides TIME after it was made, for example 500ms or 5s; at most a day
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cut_every: Option<Duration>,
    /// Delay bytes by TIME in each direction; at most a day
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true)]
    #[arg(value_parser = duration)]
    pub(crate) delay: Duration,
    /// Limit each direction of each connection to RATE bytes per second, for example 64K or 1M
    #[arg(long, value_name = "RATE")]
    pub(crate) throttle: Option<ByteSize>,
    /// Accept connections, and read and discard all bytes
    ///
    /// Nothing is forwarded, not even an end of input: a connection ends when both sides have ended it.
    #[arg(long)]
    pub(crate) blackhole: bool,
    /// Flip a bit in each byte with this probability, from 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, hide_default_value = true)]
    #[arg(allow_negative_numbers = true, value_parser = probability)]
    pub(crate) corrupt: f64,
    /// Use this seed for --corrupt, as printed by an earlier run, to flip the same bits [default: random]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Listen on a tcp: endpoint, or on a web endpoint that other machines can reach
    ///
    /// Anyone who can reach the port can connect, and their bytes are forwarded to TARGET unchecked: every
    /// user of this machine, and every web page in a browser.
    #[arg(long)]
    pub(crate) allow_unauthenticated_tcp: bool,
    #[command(flatten)]
    pub(crate) sockets: Sockets,
}

/// An endpoint on the command line, and the endpoint that carries its bytes.
#[derive(Clone)]
pub(crate) struct Bytes {
    /// As given on the command line.
    pub(crate) endpoint: Endpoint,
    /// The TCP port or Unix socket below WebSocket and HTTP; otherwise the same endpoint.
    pub(crate) carrier: Endpoint,
}

impl Bytes {
    /// Returns whether the endpoint carries HTTP.
    pub(crate) fn is_web(&self) -> bool {
        self.endpoint != self.carrier
    }

    /// Returns whether this is a web endpoint that only this machine can reach.
    pub(crate) fn is_web_of_this_machine(&self) -> bool {
        WebAddress::of(&self.endpoint).is_ok_and(|web| web.is_on_this_machine())
    }
}

fn listener(text: &str) -> Result<Bytes, String> {
    bytes(named_listener(text)?)
}

fn target(text: &str) -> Result<Bytes, String> {
    bytes(endpoint(text)?)
}

fn bytes(endpoint: Endpoint) -> Result<Bytes, String> {
    match (endpoint.framing(), endpoint.address()) {
        (Some(framing), _) => {
            Err(format!("chaos forwards bytes, which have no framing; leave out `{framing}+`"))
        }
        (None, Address::Stdio) => Err("chaos cannot proxy stdin and stdout; use a socket".into()),
        (None, Address::Other { .. }) => {
            let web = WebAddress::of(&endpoint).map_err(|error| error.to_string())?;
            let carrier = match &web.place {
                // The text form of a place can be parsed again.
                place @ Place::Tcp { .. } => format!("tcp:{place}")
                    .parse()
                    .map_err(|_| format!("{place} is not a host and port"))?,
                Place::Unix(path) => Endpoint::unix(path),
                Place::Pipe(name) => Endpoint::new(Address::Pipe(name.clone())),
            };
            Ok(Bytes { endpoint, carrier })
        }
        _ => Ok(Bytes { carrier: endpoint.clone(), endpoint }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn web_endpoints_are_proxied_at_their_port_or_socket() {
        for (text, carrier) in [
            ("ws://127.0.0.1:9000/ws", "tcp:127.0.0.1:9000"),
            ("wss://example.org", "tcp:example.org:443"),
            ("http://[::1]:9000/sse", "tcp:[::1]:9000"),
            ("ws-unix:/run/a.sock:/path", "unix:/run/a.sock"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let bytes = target(text).unwrap();
            assert_eq!(bytes.carrier.to_string(), carrier);
            assert_eq!(bytes.is_web(), !text.starts_with("unix"), "{text}");
            let is_near = bytes.is_web() && !text.contains("example.org");
            assert_eq!(bytes.is_web_of_this_machine(), is_near, "{text}");
        }
        for text in ["http://0.0.0.0:80", "ws://[::]:80", "ws://10.0.0.1", "http://127.0.0.1.org"] {
            assert!(!target(text).unwrap().is_web_of_this_machine(), "{text}");
        }
        for text in ["ws://", "stdio:", "lines+unix:/run/a.sock", "ftp://example.org"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
