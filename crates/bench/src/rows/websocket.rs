//! WebSockets over TCP on loopback are compared with dedicated libraries: 64-byte messages one at a time
//! and 64 at once, 1 MiB messages, and the memory of an idle connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use tieline_http::ClientConfig;
use tieline_transport::{
    Acceptor, BoxChannel, Channel, Endpoint, Options, Receiver, Registry, Sender, SenderExt,
};

use super::calls::libraries::{Ends, Server};
use super::idle::{self, echo, growth};
use super::web::{address, listen};
use super::{message, payload, ping_pong};
use crate::compare::{Bench, Result, Side};
use crate::peer::Peer;
use crate::report::{Goal, TableLine, Unit};

const SMALL: usize = 64;
const LARGE: usize = 1 << 20;
const TIMES: u32 = 1000;
const AT_ONCE: u32 = 64;
const BATCHES: u32 = 100;
const BULK: u32 = 16;

const LIBRARIES: [(&str, &str); 3] = [
    ("tungstenite", "tokio-tungstenite"),
    ("fastwebsockets", "fastwebsockets"),
    ("tokio-websockets", "tokio-websockets"),
];

/// Tieline may be slower than each library, and therefore than the fastest, by at most a tenth.
const TIME: Goal = Goal::RatioAtMost(1.1);
const RATE: Goal = Goal::RatioAtLeast { bar: 0.91, aim: 1.0 };
const MEMORY: Goal = Goal::AtMost(32.0 * 1024.0, Unit::Bytes);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let quiet_peer = Peer::start("websocket-echo-quiet")?;
    let quiet = ClientConfig { heartbeat: None, ..ClientConfig::default() };
    let (mut quiet_sender, mut quiet_receiver) = connect(bench, &quiet_peer, quiet)?.split();
    let peer = Peer::start("websocket-echo")?;
    let (mut sender, mut receiver) = connect(bench, &peer, ClientConfig::default())?.split();

    // Libraries that cannot be started are listed in the table as skipped.
    let (mut names, mut theirs, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (library, name) in LIBRARIES {
        match Ends::start(library) {
            Ok(ends) => {
                names.push(name);
                theirs.push(ends);
            }
            Err(why) => missing.push(TableLine::skipped(
                format!("WebSocket compared with {name}"),
                &why.to_string(),
            )),
        }
    }

    let small = payload(SMALL);
    let ours = bench.side(async || ping_pong(&mut sender, &mut receiver, small, TIMES).await);
    let others =
        theirs.iter_mut().map(|it| told(it, format!("one {TIMES}"), |s| s / f64::from(TIMES)));
    let without =
        bench.side(async || ping_pong(&mut quiet_sender, &mut quiet_receiver, small, TIMES).await);
    let ([one, one_quiet], others_one) =
        bench.interleave_with([ours, without], others.collect())?;

    let ours = bench.side(async || at_once(&mut sender, &mut receiver, small).await);
    let messages = f64::from(AT_ONCE * BATCHES);
    let others = theirs
        .iter_mut()
        .map(|it| told(it, format!("many {AT_ONCE} {BATCHES}"), move |s| messages / s));
    let ([many], others_many) = bench.interleave_with([ours], others.collect())?;

    // The message is not valid UTF-8, so that it is sent as binary.
    let large = [&[0xff][..], payload(LARGE - 1)].concat();
    let large = Bytes::from(large);
    let bytes = LARGE as f64 * f64::from(BULK);
    let ours = bench.side(async || {
        let begun = Instant::now();
        for _ in 0..BULK {
            there_and_back(&mut sender, &mut receiver, &large).await?;
        }
        Ok(bytes / begun.elapsed().as_secs_f64())
    });
    let others = theirs.iter_mut().map(|it| told(it, format!("bulk {BULK}"), move |s| bytes / s));
    let ([bulk], others_bulk) = bench.interleave_with([ours], others.collect())?;

    let mut lines = Vec::new();
    for (work, unit, ours, theirs, goal) in [
        ("WebSocket echo, 64 bytes", Unit::Time, &one, others_one.clone(), TIME),
        (
            "WebSocket echo, 64 bytes, no heartbeat",
            Unit::Time,
            &one_quiet,
            others_one.clone(),
            TIME,
        ),
        ("WebSocket echo, 64 bytes, 64 at once", Unit::MessagesPerSecond, &many, others_many, RATE),
        ("WebSocket echo, 1 MiB", Unit::BytesPerSecond, &bulk, others_bulk, RATE),
    ] {
        lines.extend(
            names
                .iter()
                .zip(&theirs)
                .map(|(name, theirs)| TableLine::compared(work, name, unit, (ours, theirs), goal)),
        );
    }
    lines.extend(memory(bench)?);
    lines.extend(missing);
    Ok(lines)
}

fn connect(bench: &Bench, peer: &Peer, config: ClientConfig) -> Result<BoxChannel> {
    let mut registry = Registry::new();
    tieline_http::register(&mut registry, config);
    let url: Endpoint = format!("ws://{}/ws", address(peer)?).parse()?;
    Ok(bench.runtime.block_on(registry.connect(&url, &Options::default()))?)
}

/// Returns a side whose rounds are run by a library, with the figure computed from the seconds that it
/// reports.
fn told(ends: &mut Ends, command: String, figure: impl Fn(f64) -> f64 + 'static) -> Side<'_> {
    Box::new(move || Ok(figure(ends.seconds(&command)?)))
}

/// Returns the number of messages per second with 64 messages in flight.
async fn at_once(
    sender: &mut impl Sender,
    receiver: &mut impl Receiver,
    ping: &'static [u8],
) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..BATCHES {
        for _ in 0..AT_ONCE {
            sender.feed(ping).await?;
        }
        sender.flush().await?;
        for _ in 0..AT_ONCE {
            message(receiver).await?;
        }
    }
    Ok(f64::from(AT_ONCE * BATCHES) / begun.elapsed().as_secs_f64())
}

/// Makes a round trip of a large message. It may not fit into the buffers between the ends, so it is
/// received while it is still being sent.
async fn there_and_back(
    sender: &mut impl Sender,
    receiver: &mut impl Receiver,
    large: &Bytes,
) -> Result<()> {
    let (sent, came) = tokio::join!(sender.send(large.clone()), message(receiver));
    sent?;
    match came?.len() == large.len() {
        true => Ok(()),
        false => Err("received a different message".into()),
    }
}

fn memory(bench: &Bench) -> Result<Vec<TableLine>> {
    let Some(connections) = idle::connections(bench, 10_000) else {
        return Ok(vec![TableLine::skipped(
            "WebSocket memory, idle",
            "the system does not report it",
        )]);
    };
    let ours: Side<'_> = Box::new(move || {
        let peer = Peer::start("websocket-echo")?;
        let address = address(&peer)?;
        growth(peer.pid(), connections, || used(&address))
    });
    let theirs: Side<'_> = Box::new(move || {
        let server = Server::start("tokio-websockets")?;
        growth(server.pid(), connections, || used(server.address()))
    });
    let work = format!("WebSocket memory, each of {connections} idle after one 64-byte message");
    if Server::start("tokio-websockets").is_err() {
        let [ours] = bench.interleave([ours])?;
        let ours = ours.iter().sum::<f64>() / ours.len() as f64;
        return Ok(vec![TableLine::alone(work, Unit::Bytes, ours, Some(MEMORY))]);
    }
    let [ours, theirs] = bench.interleave([ours, theirs])?;
    let (ours, theirs) = (ours.as_slice(), theirs.as_slice());
    Ok(vec![TableLine::compared(work, "tokio-websockets", Unit::Bytes, (ours, theirs), MEMORY)])
}

/// Opens a WebSocket without a library and exchanges a message.
fn used(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut frame = vec![0x81, 0x80 | SMALL as u8, 0, 0, 0, 0];
    frame.extend([b'x'; SMALL]);
    stream.write_all(&frame)?;
    let mut echoed = [0; 2 + SMALL];
    stream.read_exact(&mut echoed)?;
    Ok(stream)
}

pub(super) async fn serve(socket: PathBuf, has_heartbeat: bool) -> Result<()> {
    let (_web, mut plain, _resumable) = listen(socket, |config| {
        if !has_heartbeat {
            config.web_socket.heartbeat = None;
        }
    })
    .await?;
    loop {
        let Some(channel) = plain.accept().await?.into_web_socket() else { continue };
        tokio::spawn(echo(channel));
    }
}
