//! What a server counts.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Malformed,
    Host,
    Origin,
    Token,
    Busy,
}

/// What a server counts, since it began to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerCounts {
    /// Connections that were taken.
    pub connections: u64,
    /// Those that are there now, those of WebSockets included.
    pub open: u64,
    /// Requests that were let in.
    pub admitted: u64,
    /// WebSockets that were handed over.
    pub web_sockets: u64,
    /// Streams of events that were begun, those that go on with a session among them.
    pub event_streams: u64,
    /// POSTs to them that were taken over, one that was repeated not again.
    pub posts: u64,
    /// Calls by a POST of their own that were begun.
    pub rpc_calls: u64,
    /// Refused: the head of the request says a thing twice, or not in a way that is one.
    pub refused_malformed: u64,
    /// Refused: called by a name that is not the server's.
    pub refused_host: u64,
    /// Refused: of an origin that may not.
    pub refused_origin: u64,
    /// Refused: no token, or a wrong one.
    pub refused_token: u64,
    /// Refused: no room for another.
    pub refused_busy: u64,
    /// Bytes of room that the bodies of requests take now, beyond the first 16 KiB of each.
    pub body_bytes: u64,
    /// Connections closed for newer ones, before they had asked for anything that they might.
    pub evicted: u64,
}

impl ServerCounts {
    /// All of it in Prometheus' text format 0.0.4. What ends in `_total` counts up, all else is what it is
    /// now.
    pub fn prometheus(&self) -> String {
        // Each stands here once: one that were forgotten would be an unused name.
        let Self {
            connections,
            open,
            admitted,
            web_sockets,
            event_streams,
            posts,
            rpc_calls,
            refused_malformed,
            refused_host,
            refused_origin,
            refused_token,
            refused_busy,
            body_bytes,
            evicted,
        } = *self;
        let refused = [
            ("{cause=\"malformed\"}", refused_malformed),
            ("{cause=\"host\"}", refused_host),
            ("{cause=\"origin\"}", refused_origin),
            ("{cause=\"token\"}", refused_token),
            ("{cause=\"busy\"}", refused_busy),
        ];
        let mut text = String::new();
        for (name, help, samples) in [
            (
                "tieline_web_connections_total",
                "Connections that were taken.",
                &[("", connections)][..],
            ),
            (
                "tieline_web_connections",
                "Connections there are, those of WebSockets included.",
                &[("", open)],
            ),
            (
                "tieline_web_evicted_total",
                "Connections closed for newer ones before anything of theirs was let in.",
                &[("", evicted)],
            ),
            ("tieline_web_admitted_total", "Requests that were let in.", &[("", admitted)]),
            (
                "tieline_web_refused_total",
                "Requests and connections that were refused, by what was wrong.",
                &refused,
            ),
            (
                "tieline_web_sockets_total",
                "WebSockets that were handed over.",
                &[("", web_sockets)],
            ),
            (
                "tieline_web_event_streams_total",
                "Streams of events that were begun.",
                &[("", event_streams)],
            ),
            ("tieline_web_posts_total", "POSTs to streams that were taken over.", &[("", posts)]),
            ("tieline_web_rpc_calls_total", "Calls by POST that were begun.", &[("", rpc_calls)]),
            (
                "tieline_web_body_bytes",
                "Room that bodies of requests take, beyond the first 16 KiB of each.",
                &[("", body_bytes)],
            ),
        ] {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (label, value) in samples {
                let _ = writeln!(text, "{name}{label} {value}");
            }
        }
        text
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) admitted: AtomicU64,
    pub(super) web_sockets: AtomicU64,
    pub(super) event_streams: AtomicU64,
    pub(super) posts: AtomicU64,
    pub(super) rpc_calls: AtomicU64,
    malformed: AtomicU64,
    host: AtomicU64,
    origin: AtomicU64,
    token: AtomicU64,
    busy: AtomicU64,
    pub(super) evicted: AtomicU64,
}

impl Counters {
    pub(super) fn refused(&self, cause: Cause) {
        let counter = match cause {
            Cause::Malformed => &self.malformed,
            Cause::Host => &self.host,
            Cause::Origin => &self.origin,
            Cause::Token => &self.token,
            Cause::Busy => &self.busy,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self, open: usize, body_bytes: usize) -> ServerCounts {
        ServerCounts {
            connections: self.connections.load(Relaxed),
            open: open as u64,
            admitted: self.admitted.load(Relaxed),
            web_sockets: self.web_sockets.load(Relaxed),
            event_streams: self.event_streams.load(Relaxed),
            posts: self.posts.load(Relaxed),
            rpc_calls: self.rpc_calls.load(Relaxed),
            refused_malformed: self.malformed.load(Relaxed),
            refused_host: self.host.load(Relaxed),
            refused_origin: self.origin.load(Relaxed),
            refused_token: self.token.load(Relaxed),
            refused_busy: self.busy.load(Relaxed),
            body_bytes: body_bytes as u64,
            evicted: self.evicted.load(Relaxed),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
