//! Round trips and throughput between a WebSocket client and `cat` through a gateway, compared with
//! other gateways. The client is the same for all gateways.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_gateway::{Bridge, Server};
use tieline_http::{Access, ClientConfig, HttpServer, Place, ServerConfig};
use tieline_transport::{
    BoxChannel, Channel, Endpoint, Options, Receiver, Registry, Sender, SenderExt,
};
use tokio::time::timeout;

use super::programs::{Listening, node, script};
use super::{message, ping_pong};
use crate::compare::{Bench, Result};
use crate::peer::{Peer, announce};
use crate::report::{Goal, TableLine, Unit};

/// The number of messages per round.
const MESSAGES: usize = 20_000;
/// The number of messages that are streamed once, to count lost messages.
const MANY: usize = 1_000_000;
const TIMES: u32 = 200;

/// A gateway that sends nothing for this long is considered stalled.
const STALLED: Duration = Duration::from_secs(20);

const TIME: Goal = Goal::RatioAtMost(1.0);
const RATE: Goal = Goal::RatioAtLeast { bar: 1.0, aim: 1.0 };
/// How much faster tieline must be than the fastest gateway written in JavaScript.
const TEN_TIMES: Goal = Goal::RatioAtLeast { bar: 10.0, aim: 10.0 };
const NONE: Goal = Goal::AtMost(0.0, Unit::Pieces);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let peer = Peer::start("gateway")?;
    let port = std::fs::read_to_string(port_file(&peer.socket()))?;
    let ours = connect(bench, &format!("ws://127.0.0.1:{port}/ws"))?;
    let mut lines = Vec::new();
    let mut others = Vec::new();
    for (name, start, goal) in
        [("websocketd", websocketd as Start, RATE), ("supergateway", supergateway, TEN_TIMES)]
    {
        let started = start().and_then(|other| {
            let channel = connect(bench, &other.endpoint)?;
            Ok((other, channel))
        });
        match started {
            Ok((other, channel)) => others.push((name, goal, other, Ends::of(channel))),
            Err(why) => lines.push(TableLine::skipped(
                format!("gateway, compared with {name}"),
                &why.to_string(),
            )),
        }
    }
    let mut ours = Ends::of(ours);
    for (name, goal, _other, theirs) in &mut others {
        let one = |ends: &mut Ends| bench.runtime.block_on(ends.one());
        let sides = bench.interleave([Box::new(|| one(&mut ours)), Box::new(|| one(theirs))]);
        let work = "gateway: WebSocket to cat and back";
        lines.push(match sides {
            Ok([ours, theirs]) => {
                TableLine::compared(work, name, Unit::Time, (&ours, &theirs), TIME)
            }
            Err(why) => {
                TableLine::skipped(format!("{work}, compared with {name}"), &why.to_string())
            }
        });
        let many = |ends: &mut Ends| bench.runtime.block_on(ends.many(MESSAGES));
        let sides = bench.interleave([Box::new(|| many(&mut ours)), Box::new(|| many(theirs))]);
        let work = format!("gateway: {MESSAGES} messages streamed");
        lines.push(match sides {
            Ok([ours, theirs]) => {
                TableLine::compared(work, name, Unit::MessagesPerSecond, (&ours, &theirs), *goal)
            }
            Err(why) => {
                TableLine::skipped(format!("{work}, compared with {name}"), &why.to_string())
            }
        });
    }
    let came = bench.runtime.block_on(async { ours.many(MANY).await.map(|_| ours.came) })?;
    let work = format!("gateway: messages lost of {MANY} streamed");
    lines.push(TableLine::alone(work, Unit::Pieces, (MANY - came) as f64, Some(NONE)));
    Ok(lines)
}

fn connect(bench: &Bench, url: &str) -> Result<BoxChannel> {
    let mut registry = Registry::new();
    tieline_http::register(&mut registry, ClientConfig::default());
    let endpoint: Endpoint = url.parse()?;
    Ok(bench.runtime.block_on(registry.connect(&endpoint, &Options::default()))?)
}

/// The client's halves of a channel.
struct Ends {
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    next: usize,
    /// The number of messages that arrived in the last round.
    came: usize,
}

impl Ends {
    fn of(channel: BoxChannel) -> Self {
        let (sender, receiver) = channel.split();
        Self { sender, receiver, next: 0, came: 0 }
    }

    /// Returns the duration of one round trip in seconds.
    async fn one(&mut self) -> Result<f64> {
        const PING: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"echo","params":["0123456789"]}"#;
        let pinged = ping_pong(&mut self.sender, &mut self.receiver, PING, TIMES);
        timeout(STALLED, pinged).await.map_err(|_| "stalled")?
    }

    /// Returns the number of messages per second. All messages must arrive in order.
    async fn many(&mut self, messages: usize) -> Result<f64> {
        let (first, begun) = (self.next, Instant::now());
        let Self { sender, receiver, next, came } = self;
        let send = async {
            for number in first..first + messages {
                sender.feed(numbered(number)).await?;
            }
            Ok::<_, crate::compare::Error>(sender.flush().await?)
        };
        let receive = async {
            for (number, expected) in (first..first + messages).enumerate() {
                let incoming = timeout(STALLED, message(receiver)).await;
                let incoming = incoming.map_err(|_| format!("stalled after {number}"))??;
                if !is_numbered(&incoming, expected) {
                    return Err(
                        format!("message {number} of {messages} is not the expected one").into()
                    );
                }
                *came = number + 1;
            }
            Ok::<_, crate::compare::Error>(())
        };
        // A stalled gateway may stop reading as well, so sending must not be awaited first.
        let mut send = std::pin::pin!(send);
        let mut receive = std::pin::pin!(receive);
        tokio::select! {
            sent = &mut send => {
                sent?;
                receive.await?;
            }
            received = &mut receive => received?,
        }
        *next = first + messages;
        Ok(messages as f64 / begun.elapsed().as_secs_f64())
    }
}

fn numbered(number: usize) -> Bytes {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{number},"method":"echo","params":["as an agent says a word"]}}"#
    );
    text.into()
}

/// Returns whether this is the message with this number, even if the gateway has reformatted it.
fn is_numbered(message: &[u8], number: usize) -> bool {
    let id = format!(r#""id":{number},"#);
    memchr::memmem::find(message, id.as_bytes()).is_some()
}

type Start = fn() -> Result<Other>;

/// A running gateway.
struct Other {
    _process: Listening,
    endpoint: String,
}

impl Other {
    fn start(path: &str, build: impl FnOnce(u16) -> Result<Command>) -> Result<Self> {
        let process = Listening::start(build)?;
        let endpoint = format!("ws://127.0.0.1:{}{path}", process.port);
        Ok(Self { _process: process, endpoint })
    }
}

fn websocketd() -> Result<Other> {
    Other::start("/", |port| {
        let mut command = Command::new("websocketd");
        command.args(["--loglevel=fatal", "--address=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg("cat");
        Ok(command)
    })
}

fn supergateway() -> Result<Other> {
    Other::start("/ws", |port| {
        let mut command = Command::new(node()?);
        command.arg(script("supergateway/dist/index.js")?);
        command.args(["--stdio", "cat", "--outputTransport", "ws", "--messagePath", "/ws"]);
        command.args(["--logLevel", "none", "--port", &port.to_string()]);
        Ok(command)
    })
}

fn port_file(socket: &Path) -> PathBuf {
    socket.with_extension("port")
}

/// Serves like `tieline serve` with its defaults, but without a token.
pub(super) async fn serve(socket: PathBuf) -> Result<()> {
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
    let config = ServerConfig::new(place, Access::Anybody);
    let (web, plain, _resumable) = HttpServer::listen(config).await?;
    let target = Registry::new().connector(&Endpoint::exec("cat", [""; 0]), &Options::default())?;
    let mut server = Server::new(16, Bridge::default());
    let listening = web.endpoint().to_string();
    server.add(Box::new(plain), Arc::from(target));
    let port = listening.rsplit(':').next().unwrap_or_default();
    std::fs::write(port_file(&socket), port)?;
    announce()?;
    server.run(std::future::pending()).await;
    Ok(())
}
