//! Server-sent events over TCP on loopback, read as an EventSource reads them: the throughput of 64-byte
//! messages, and the memory of an idle stream. Both are measured on a line that ends with its
//! connection, and in a session such as an EventSource has with `tieline serve`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::sse::{Event, Item, Parser};
use tieline_transport::{Acceptor, Channel, Incoming, ReceiverExt, SenderExt};

use super::web::{self, address, listen};
use super::{idle, payload};
use crate::compare::{Bench, Result, Side};
use crate::peer::Peer;
use crate::report::{Goal, TableLine, Unit};

const SMALL: usize = 64;
/// The number of messages per round.
const MESSAGES: usize = 20_000;

/// The role of the server, the suffix of the row's name, and the goal for the memory of an idle stream:
/// as much as for a WebSocket, and a quarter more in a session.
const KINDS: [(&str, &str, Goal); 2] = [
    ("events", "", Goal::AtMost(32.0 * 1024.0, Unit::Bytes)),
    ("events-session", ", in a session", Goal::AtMost(40.0 * 1024.0, Unit::Bytes)),
];

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let mut lines = Vec::new();
    for (role, kind, _) in KINDS {
        let peer = Peer::start(role)?;
        let mut reader = Reader::open(address(&peer)?)?;
        let [rate] = bench.interleave([Box::new(|| reader.streamed(MESSAGES))])?;
        let work = format!("events, 64 bytes, streamed{kind}");
        lines.push(TableLine::alone(work, Unit::MessagesPerSecond, median(rate), None));
    }
    let Some(connections) = idle::connections(bench, 4000) else {
        lines.push(TableLine::skipped("events, memory, idle", "the system does not report it"));
        return Ok(lines);
    };
    for (role, kind, goal) in KINDS {
        let side: Side<'_> = Box::new(move || {
            let peer = Peer::start(role)?;
            let address = address(&peer)?;
            idle::growth(peer.pid(), connections, || {
                let mut reader = Reader::open(address.clone())?;
                reader.streamed(1)?;
                Ok(reader)
            })
        });
        let [growth] = bench.interleave([side])?;
        let work = format!("events, memory, each of {connections} idle after one message{kind}");
        lines.push(TableLine::alone(work, Unit::Bytes, median(growth), Some(goal)));
    }
    Ok(lines)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A minimal EventSource that can also post messages.
struct Reader {
    stream: TcpStream,
    address: String,
    uri: String,
    /// Bytes received but not parsed yet.
    raw: BytesMut,
    /// The received part of the current chunk that is not parsed yet.
    chunk: BytesMut,
    left: usize,
    parser: Parser,
}

impl Reader {
    fn open(address: String) -> Result<Self> {
        let mut stream = TcpStream::connect(&address)?;
        let head = format!("GET /sse HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        if !head.starts_with(b"HTTP/1.1 200") {
            return Err(format!("expected a stream, got {}", String::from_utf8_lossy(&head)).into());
        }
        let (raw, chunk) = (BytesMut::new(), BytesMut::new());
        let (parser, uri) = (Parser::default(), String::new());
        let mut reader = Self { stream, address, uri, raw, chunk, left: 0, parser };
        let first = reader.event()?;
        // The URI is relative to the URL of the stream, `/sse`.
        reader.uri = format!("/{}", String::from_utf8(first.data.to_vec())?);
        Ok(reader)
    }

    /// Requests messages and reads them. Returns the number of messages per second.
    fn streamed(&mut self, messages: usize) -> Result<f64> {
        let begun = Instant::now();
        self.post(&messages.to_string())?;
        for _ in 0..messages {
            let event = self.event()?;
            if !event.event.is_empty() || event.data.len() != SMALL {
                return Err(format!("unexpected event: {event:?}").into());
            }
        }
        Ok(messages as f64 / begun.elapsed().as_secs_f64())
    }

    fn post(&self, body: &str) -> Result<()> {
        let Self { address, uri, .. } = self;
        let mut stream = TcpStream::connect(address)?;
        let length = body.len();
        let request = format!(
            "POST {uri} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.starts_with("HTTP/1.1 202") {
            true => Ok(()),
            false => Err(format!("the POST was refused: {answer}").into()),
        }
    }

    fn event(&mut self) -> Result<Event> {
        loop {
            while let Some(item) = self.parser.parse(&mut self.chunk) {
                if let Item::Event(event) = item {
                    return Ok(event);
                }
            }
            while !self.take_from_chunk()? {
                let mut bytes = [0; 64 * 1024];
                let read = self.stream.read(&mut bytes)?;
                let read = bytes.get(..read).filter(|it| !it.is_empty());
                self.raw.extend_from_slice(read.ok_or("the stream has ended")?);
            }
        }
    }

    /// Returns whether more of a chunk is available (RFC 9112, section 7.1). Consumes the line ending
    /// after a complete chunk.
    fn take_from_chunk(&mut self) -> Result<bool> {
        const END: usize = 2;
        if self.left == 0 {
            let Some(end) = memchr::memmem::find(&self.raw, b"\r\n") else { return Ok(false) };
            let size = self.raw.split_to(end);
            self.raw.advance(END);
            self.left = usize::from_str_radix(std::str::from_utf8(&size)?, 16)?;
            if self.left == 0 {
                return Err("the stream has ended".into());
            }
            self.left += END;
        }
        if self.left > END {
            self.chunk = self.raw.split_to(self.raw.len().min(self.left - END));
            self.left -= self.chunk.len();
            return Ok(!self.chunk.is_empty());
        }
        let end = self.raw.len().min(self.left);
        self.raw.advance(end);
        self.left -= end;
        Ok(self.left == 0 && self.take_from_chunk()?)
    }
}

/// Responds to each received message with as many messages as it requests.
pub(super) async fn serve(socket: PathBuf, in_sessions: bool) -> Result<()> {
    let (_web, mut plain, resumable) = listen(socket, |_| {}).await?;
    if in_sessions {
        let options = SessionOptions { max_sessions: web::MANY, ..SessionOptions::default() };
        let mut sessions = Sessions::new(Box::new(resumable), options, LineOptions::default());
        loop {
            tokio::spawn(say(sessions.accept().await?));
        }
    }
    // Without sessions, incoming connections are plain lines.
    drop(resumable);
    loop {
        tokio::spawn(say(plain.accept().await?));
    }
}

async fn say(channel: impl Channel) -> Result<()> {
    let small = payload(SMALL);
    let (mut sender, mut receiver) = channel.split();
    while let Incoming::Message(asked) = receiver.recv().await {
        for _ in 0..std::str::from_utf8(&asked)?.parse::<usize>()? {
            sender.feed(small).await?;
        }
        sender.flush().await?;
    }
    Ok(())
}
