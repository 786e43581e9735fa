//! The counters of a server.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tieline_proto::MetricsText;

/// The reason why a request or connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Malformed,
    Host,
    Origin,
    Token,
    Scope,
    Issuer,
    Busy,
}

impl Cause {
    pub(super) const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Host,
        Self::Origin,
        Self::Token,
        Self::Scope,
        Self::Issuer,
        Self::Busy,
    ];

    /// Returns the name in the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Token => "token",
            Self::Scope => "scope",
            Self::Issuer => "issuer",
            Self::Busy => "busy",
        }
    }
}

/// The counts of a server since it started to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerCounts {
    /// Accepted connections.
    pub connections: u64,
    /// Open connections, including WebSockets.
    pub open: u64,
    /// Admitted requests.
    pub admitted: u64,
    /// WebSockets that were passed to the acceptors.
    pub web_sockets: u64,
    /// Event streams that were started, including those that resume a session.
    pub event_streams: u64,
    /// Accepted POSTs to event streams; a repeated POST is counted once.
    pub posts: u64,
    /// Calls by `POST /rpc` that were started.
    pub rpc_calls: u64,
    /// Requests that were refused because of a repeated or malformed header.
    pub refused_malformed: u64,
    /// Requests that were refused because of an unrecognized Host header.
    pub refused_host: u64,
    /// Requests that were refused because their origin is not allowed.
    pub refused_origin: u64,
    /// Requests that were refused because of a missing or wrong token.
    pub refused_token: u64,
    /// Requests that were refused because their access token lacks a scope.
    pub refused_scope: u64,
    /// Requests that were refused because the keys of the OAuth issuer were not available.
    pub refused_issuer: u64,
    /// Requests and connections that were refused because a limit was reached.
    pub refused_busy: u64,
    /// Bytes of request bodies in memory, beyond the first 16 KiB of each.
    pub body_bytes: u64,
    /// Connections that were closed in favor of newer ones before any of their requests was admitted.
    pub evicted: u64,
    /// Messages for clients of `/rpc` and of added routes that were dropped because of a limit. Each other line
    /// counts its own lost messages.
    pub lost: u64,
}

impl ServerCounts {
    /// Formats the counts in the Prometheus text format 0.0.4. Metrics whose names end in `_total` are
    /// counters; all others are gauges.
    pub fn prometheus(&self) -> String {
        // Destructure all fields, so that the compiler reports a forgotten field as an unused variable.
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
            refused_scope,
            refused_issuer,
            refused_busy,
            body_bytes,
            evicted,
            lost,
        } = *self;
        let refused = [
            (Cause::Malformed.name(), refused_malformed),
            (Cause::Host.name(), refused_host),
            (Cause::Origin.name(), refused_origin),
            (Cause::Token.name(), refused_token),
            (Cause::Scope.name(), refused_scope),
            (Cause::Issuer.name(), refused_issuer),
            (Cause::Busy.name(), refused_busy),
        ];
        let mut text = MetricsText::default();
        text.add("tieline_web_connections_total", "Connections accepted.", connections);
        text.add("tieline_web_connections", "Open connections, including WebSockets.", open);
        text.add(
            "tieline_web_evicted_total",
            "Connections closed in favor of newer ones before a request was admitted.",
            evicted,
        );
        text.add("tieline_web_admitted_total", "Requests admitted.", admitted);
        text.add_by(
            "tieline_web_refused_total",
            "Requests and connections refused, by cause.",
            "cause",
            refused,
        );
        text.add("tieline_web_sockets_total", "WebSockets passed to the acceptors.", web_sockets);
        text.add("tieline_web_event_streams_total", "Event streams started.", event_streams);
        text.add("tieline_web_posts_total", "POSTs to event streams that were accepted.", posts);
        text.add("tieline_web_rpc_calls_total", "Calls by POST /rpc started.", rpc_calls);
        text.add(
            "tieline_web_body_bytes",
            "Bytes of request bodies in memory, beyond the first 16 KiB of each.",
            body_bytes,
        );
        text.add(
            "tieline_web_messages_lost_total",
            "Messages for clients of /rpc, /mcp and /acp that were dropped because of a limit.",
            lost,
        );
        text.into_string()
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
    scope: AtomicU64,
    issuer: AtomicU64,
    busy: AtomicU64,
    pub(super) evicted: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    pub(super) fn refused(&self, cause: Cause) {
        let counter = match cause {
            Cause::Malformed => &self.malformed,
            Cause::Host => &self.host,
            Cause::Origin => &self.origin,
            Cause::Token => &self.token,
            Cause::Scope => &self.scope,
            Cause::Issuer => &self.issuer,
            Cause::Busy => &self.busy,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn lost(&self, messages: u64) {
        self.lost.fetch_add(messages, Relaxed);
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
            refused_scope: self.scope.load(Relaxed),
            refused_issuer: self.issuer.load(Relaxed),
            refused_busy: self.busy.load(Relaxed),
            body_bytes: body_bytes as u64,
            evicted: self.evicted.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }
}

/// Adds one to a counter.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
