//! `tieline chaos`.

use std::time::Duration;

use clap::Args as Group;
use tieline_http::{Place, WebAddress};
use tieline_proto::ByteSize;
use tieline_transport::{Address, Endpoint};

use super::system::Sockets;
use super::values::{duration, endpoint};

#[derive(Group)]
#[command(after_help = "\
A proxy for trying out how a client, or a server, takes a bad line. It passes bytes and knows no
message. Each connection gets one of its own to TARGET; without faults nobody notices it.
Prints where it listens on stdout; everything else goes to stderr: with -v, each connection and each
cut. SIGINT, SIGTERM and SIGHUP end it, with all connections, and it says what it did.

With --blackhole a connection is made and then silent for ever: what comes is read and dropped, and
an end is not passed on, either, until both sides have ended it.

Examples:
  tieline chaos unix:/tmp/bad.sock unix:/tmp/agent.sock --cut-every 5s
  tieline chaos unix:/tmp/slow.sock exec:my-agent --delay 200ms --throttle 64K
  tieline chaos unix:/tmp/hole.sock unix:/tmp/agent.sock --blackhole
  tieline chaos unix:/tmp/bits.sock unix:/tmp/agent.sock --corrupt 0.001 --seed 7

In front of a server on the web it passes the bytes that carry HTTP, TLS too, and the server checks who
comes. It is called by the proxy's name then, and must know that:
  tieline serve --listen http://127.0.0.1:8080 --allow-host 127.0.0.1:9090 -- my-agent
  tieline chaos ws://127.0.0.1:9090 ws://127.0.0.1:8080/ws --cut-every 5s")]
pub(crate) struct Chaos {
    /// Where clients connect
    #[arg(value_name = "LISTEN", value_parser = bytes)]
    pub(crate) listen: Bytes,
    /// Where they should have connected; an exec: endpoint with arguments is written in quotes
    #[arg(value_name = "TARGET", value_parser = bytes)]
    pub(crate) target: Bytes,
    /// Cut each connection on both sides so long after it was made, like 500ms or 5s; at most a day
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cut_every: Option<Duration>,
    /// Let bytes through so much later than they came, each way; at most a day
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true)]
    #[arg(value_parser = duration)]
    pub(crate) delay: Duration,
    /// Let so many bytes a second through, each way of each connection, like 64K or 1M
    #[arg(long, value_name = "RATE")]
    pub(crate) throttle: Option<ByteSize>,
    /// Pass nothing on
    #[arg(long)]
    pub(crate) blackhole: bool,
    /// Flip a bit in a byte with this probability, from 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, hide_default_value = true)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) corrupt: f64,
    /// Repeat the bits that an earlier run has flipped: it has said its seed [default: a new one]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Listen on a tcp: endpoint, or on the web for other machines, although whoever reaches the port may
    /// connect, and what they send goes to TARGET unseen: from every user of the machine, and every web page
    /// in a browser
    #[arg(long)]
    pub(crate) allow_unauthenticated_tcp: bool,
    #[command(flatten)]
    pub(crate) sockets: Sockets,
}

/// An endpoint, and what carries its bytes.
#[derive(Clone)]
pub(crate) struct Bytes {
    /// As it was written.
    pub(crate) endpoint: Endpoint,
    /// The same for WebSockets and HTTP: their port or socket.
    pub(crate) carrier: Endpoint,
}

impl Bytes {
    /// Whether HTTP is spoken there.
    pub(crate) fn is_web(&self) -> bool {
        self.endpoint != self.carrier
    }

    /// Whether that is where nobody comes from another machine.
    pub(crate) fn is_web_of_this_machine(&self) -> bool {
        WebAddress::of(&self.endpoint).is_ok_and(|web| web.is_on_this_machine())
    }
}

fn bytes(text: &str) -> Result<Bytes, String> {
    let endpoint = endpoint(text)?;
    match (endpoint.framing(), endpoint.address()) {
        (Some(framing), _) => Err(format!("bytes have no framing; write it without `{framing}+`")),
        (None, Address::Stdio) => Err("own stdin and stdout are no place for a proxy".into()),
        (None, Address::Other { .. }) => {
            let web = WebAddress::of(&endpoint).map_err(|error| error.to_string())?;
            let carrier = match &web.place {
                // A port that is written as it is shown can be read.
                place @ Place::Tcp { .. } => format!("tcp:{place}")
                    .parse()
                    .map_err(|_| format!("{place} is no host and port"))?,
                Place::Unix(path) => Endpoint::unix(path),
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
    fn of_the_web_it_is_the_bytes_below() {
        for (text, carrier) in [
            ("ws://127.0.0.1:9000/ws", "tcp:127.0.0.1:9000"),
            ("wss://example.org", "tcp:example.org:443"),
            ("http://[::1]:9000/sse", "tcp:[::1]:9000"),
            ("ws-unix:/run/a.sock:/path", "unix:/run/a.sock"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let bytes = bytes(text).unwrap();
            assert_eq!(bytes.carrier.to_string(), carrier);
            assert_eq!(bytes.is_web(), !text.starts_with("unix"), "{text}");
            let is_near = bytes.is_web() && !text.contains("example.org");
            assert_eq!(bytes.is_web_of_this_machine(), is_near, "{text}");
        }
        for text in ["http://0.0.0.0:80", "ws://[::]:80", "ws://10.0.0.1", "http://127.0.0.1.org"] {
            assert!(!bytes(text).unwrap().is_web_of_this_machine(), "{text}");
        }
        for text in ["ws://", "stdio:", "lines+unix:/run/a.sock", "ftp://example.org"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
