//! The rows. Each is a piece of work that is done by tieline and, in most rows, by an alternative.
//!
//! A row is a function from [`Bench`] to lines of the table. The other process of a row runs a role,
//! which is selected by name.

mod build;
mod bulk;
mod bus;
pub(crate) mod calls;
mod child;
pub(crate) mod codec;
mod comeback;
mod connect;
mod echo;
mod events;
mod gateway;
mod idle;
pub(crate) mod mcp;
mod memory;
mod pool;
mod programs;
mod runtimes;
mod session;
mod shared;
mod stream;
mod web;
mod websocket;

use std::time::Instant;

use bytes::Bytes;
use tieline_transport::{Incoming, Receiver, ReceiverExt, Sender, SenderExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::compare::{Bench, Result};
use crate::matrix::Matrix;
use crate::peer::Role;
use crate::report::TableLine;
use crate::valgrind;

/// A row, as named on the command line.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether a quick run skips the row unless it is named.
    pub(crate) takes_minutes: bool,
    /// Whether the row runs on one core unless `--all-cores` is given.
    pub(crate) on_one_core: bool,
    pub(crate) run: Run,
}

/// What a row yields.
pub(crate) enum Run {
    Lines(fn(&Bench) -> Result<Vec<TableLine>>),
    Matrix(fn(&Bench) -> Result<Matrix>),
}

pub(crate) const ROWS: &[Row] = &[
    row("echo", "Unix socket: small round trips, one at a time", echo::run),
    row("stream", "Unix socket: throughput of small messages, one way", stream::run),
    row("bulk", "Unix socket: throughput of 1 MiB messages, one way", bulk::run),
    row("child", "child process: small round trips, and throughput", child::run),
    row("calls", "JSON-RPC: one at a time, and 64 in flight; also other libraries", calls::run),
    Row {
        name: "runtimes",
        about: "JSON-RPC: both runtimes, one core and all; also by hand, and other libraries",
        takes_minutes: true,
        on_one_core: false,
        run: Run::Matrix(runtimes::run),
    },
    row("session", "a resumable session compared with its bare channel", session::run),
    row("comeback", "Unix socket: how long a cut connection interrupts a session", comeback::run),
    row("websocket", "WebSocket: round trips, and memory; also other libraries", websocket::run),
    row("events", "server-sent events: throughput, and memory", events::run),
    row("gateway", "WebSocket to a child process; also other gateways", gateway::run),
    row("mcp", "MCP over HTTP, in front of a stdio server; also other gateways", mcp::run),
    row("shared", "a program shared by many clients, and `tieline share`", shared::run),
    row("bus", "embedded bus compared with tokio's channels", bus::run),
    row("connect", "Unix socket: connect and accept", connect::run),
    row("pool", "pool of lines: take one and return it", pool::run),
    row("memory", "Unix socket: memory of an idle connection", memory::run),
    row(
        "instructions",
        "instructions per message in the codec, and per JSON-RPC call",
        instructions,
    ),
    row("allocations", "allocations per JSON-RPC call", calls::counted::allocations),
    Row {
        takes_minutes: true,
        on_one_core: false,
        ..row("build", "cold release build, first response, number of crates", build::run)
    },
];

const fn row(
    name: &'static str,
    about: &'static str,
    run: fn(&Bench) -> Result<Vec<TableLine>>,
) -> Row {
    Row { name, about, takes_minutes: false, on_one_core: true, run: Run::Lines(run) }
}

fn instructions(bench: &Bench) -> Result<Vec<TableLine>> {
    if !valgrind::is_installed() {
        return Ok(vec![TableLine::skipped("instructions", "valgrind is not installed")]);
    }
    let mut lines = codec::instructions(bench)?;
    lines.extend(calls::counted::instructions(bench)?);
    Ok(lines)
}

/// Returns the role with this name.
pub(crate) fn role(name: &str) -> Option<Role> {
    let role: Role = match name {
        "echo-raw" => |socket| Box::pin(echo::serve_raw(socket)),
        "echo-typed" => |socket| Box::pin(echo::serve_typed(socket)),
        "echo-boxed" => |socket| Box::pin(echo::serve_boxed(socket)),
        "stream-raw" => |socket| Box::pin(stream::serve_raw(socket)),
        "stream-typed" => |socket| Box::pin(stream::serve_typed(socket)),
        "bulk-raw" => |socket| Box::pin(bulk::serve_raw(socket)),
        "bulk-length-prefix" => |socket| Box::pin(bulk::serve_length_prefix(socket)),
        "bulk-lines" => |socket| Box::pin(bulk::serve_lines(socket)),
        "calls-tieline" => |socket| Box::pin(calls::serve_tieline(socket)),
        "calls-careful" => |socket| Box::pin(calls::serve_careful(socket)),
        "calls-by-hand" => |socket| Box::pin(calls::serve_by_hand(socket)),
        "echo-raw-call" => |socket| Box::pin(calls::serve_raw(socket)),
        "session-echo" => |socket| Box::pin(session::serve_echo(socket, true)),
        "session-echo-bare" => |socket| Box::pin(session::serve_echo(socket, false)),
        "session-small" => |socket| Box::pin(session::serve_small(socket, true)),
        "session-small-bare" => |socket| Box::pin(session::serve_small(socket, false)),
        "session-large" => |socket| Box::pin(session::serve_large(socket, true)),
        "session-large-bare" => |socket| Box::pin(session::serve_large(socket, false)),
        "session-calls" => |socket| Box::pin(session::serve_calls(socket, true)),
        "session-calls-bare" => |socket| Box::pin(session::serve_calls(socket, false)),
        "memory-typed" => |socket| Box::pin(memory::serve_typed(socket)),
        "events" => |socket| Box::pin(events::serve(socket, false)),
        "events-session" => |socket| Box::pin(events::serve(socket, true)),
        "gateway" => |socket| Box::pin(gateway::serve(socket)),
        "websocket-echo" => |socket| Box::pin(websocket::serve(socket, true)),
        "websocket-echo-quiet" => |socket| Box::pin(websocket::serve(socket, false)),
        "connect-raw" => |socket| Box::pin(connect::serve_raw(socket)),
        "connect-typed" => |socket| Box::pin(connect::serve_typed(socket)),
        _ => return None,
    };
    Some(role)
}

/// Creates a payload that any framing can carry. It is created once and leaked, because creating a
/// message is not part of sending it.
fn payload(length: usize) -> &'static [u8] {
    vec![b'x'; length].leak()
}

/// Receives a message. A fault or the end is an error.
async fn message(receiver: &mut impl Receiver) -> Result<Bytes> {
    match receiver.recv().await {
        Incoming::Message(message) => Ok(message),
        other => Err(format!("expected a message, got {other:?}").into()),
    }
}

/// Makes round trips one at a time. Returns the duration of one in seconds.
async fn ping_pong(
    sender: &mut impl Sender,
    receiver: &mut impl Receiver,
    ping: &'static [u8],
    times: u32,
) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..times {
        sender.send(ping).await?;
        message(receiver).await?;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(times))
}

/// Makes the same round trips without tieline. The number of bytes is known, so that there is no search
/// for a newline.
async fn ping_pong_raw(
    write: &mut (impl AsyncWrite + Unpin),
    read: &mut (impl AsyncRead + Unpin),
    ping: &[u8],
    times: u32,
) -> Result<f64> {
    let mut pong = vec![0; ping.len()];
    let begun = Instant::now();
    for _ in 0..times {
        write.write_all(ping).await?;
        read.read_exact(&mut pong).await?;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(times))
}
