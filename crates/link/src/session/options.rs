//! The options of a session, and those of a line that apply to it.

use std::time::Duration;

use tieline_proto::json::Limits;
use tieline_proto::session::{SessionConfig, SessionMachine};
use tieline_proto::{BackoffConfig, ByteSize, HeartbeatConfig};
use tieline_transport::{ConfigError, MemoryBudget, Options};

use crate::recovery::Recovery;

/// The options of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How many unacknowledged messages are kept, and when received messages are acknowledged.
    pub session: SessionConfig,
    /// How a client reconnects; by default as [suits the line](Recovery::suiting).
    pub recovery: Option<Recovery>,
    /// How long the other end may take for its part of the handshake; 5 s by default.
    pub handshake_timeout: Duration,
    /// How long a server keeps a session without a connection; 2 min by default.
    pub grace: Duration,
    /// How many sessions a server keeps at once, and how many may wait to be accepted; 1,024 by default.
    pub max_sessions: usize,
    /// The number of consecutive connections over which a message is tried while the session makes no
    /// other progress; 10 by default. After that the session ends as
    /// [`Undeliverable`](tieline_transport::LostBy::Undeliverable), but at the earliest a minute after
    /// the first of these connections was lost, so that it survives a line that flaps briefly.
    pub max_tries: u32,
    /// When pings are sent on an idle connection, and when it is considered dead.
    pub heartbeat: HeartbeatConfig,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            recovery: None,
            handshake_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(120),
            max_sessions: 1024,
            max_tries: 10,
            heartbeat: HeartbeatConfig::default(),
        }
    }
}

impl SessionOptions {
    /// Checks that all values are within their bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |is_positive: bool, field, must| match is_positive {
            true => Ok(()),
            false => Err(ConfigError { field, must }),
        };
        positive(self.session.replay_messages > 0, "replay_messages", "be at least 1")?;
        positive(self.session.replay_bytes > 0, "replay_bytes", "be at least 1")?;
        let longer = "be longer than zero";
        positive(!self.handshake_timeout.is_zero(), "handshake_timeout", longer)?;
        positive(self.max_sessions > 0, "max_sessions", "be at least 1")?;
        positive(self.max_tries > 0, "max_tries", "be at least 1")
    }

    /// Returns the state machine of a session with these options.
    pub(super) fn machine(&self) -> SessionMachine {
        // A message is acknowledged when the consumer has received it, not while it waits for the consumer.
        SessionMachine::new(SessionConfig { commits: true, ..self.session })
    }

    /// Returns the options for a server, which waits for the client to reconnect instead of connecting
    /// itself.
    pub(super) fn as_server(self) -> Self {
        const AT_ONCE: BackoffConfig =
            BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
        Self { recovery: Some(Recovery::Reconnect(AT_ONCE)), ..self }
    }
}

/// The [`Options`] of a line that apply to its session.
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// The largest message in either direction.
    pub max_message: ByteSize,
    /// If set, received messages must be JSON within these limits; others are faults.
    pub json: Option<Limits>,
    /// The budget for the messages that the session keeps for replay or for its consumer; unlimited by
    /// default.
    pub memory: Option<MemoryBudget>,
}

impl Default for LineOptions {
    fn default() -> Self {
        Self { max_message: tieline_proto::DEFAULT_MAX_MESSAGE, json: None, memory: None }
    }
}

impl LineOptions {
    /// Selects the options that apply to a session.
    pub fn of(options: &Options) -> Self {
        let json = options.json.then(Limits::default);
        let memory = options.memory.clone();
        Self { max_message: options.channel.max_message, json, memory }
    }
}
