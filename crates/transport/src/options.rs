//! Options of a line that are not part of the endpoint's text.

use std::path::PathBuf;
use std::time::Duration;

use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE, FramingKind};

use crate::account::ProcessAccount;
use crate::budget::MemoryBudget;
use crate::child_stderr::ChildStderr;
use crate::environment::Environment;
use crate::error::ConfigError;
use crate::guardian::Guardian;

/// Options of a line that are not part of the endpoint's text. The defaults are safe. Each transport
/// uses the options that apply to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The limits and timeouts of the line.
    pub channel: ChannelConfig,
    /// The memory that all lines with this budget may hold together; unlimited by default.
    pub memory: Option<MemoryBudget>,
    /// The framing for endpoints without an explicit framing; `None` selects the transport's default.
    pub framing: Option<FramingKind>,
    /// Whether a listener that uses newline-delimited messages by default also accepts clients that send
    /// `Content-Length` headers, and uses that framing with them. Otherwise, such clients are refused.
    /// False by default.
    pub detect_content_length: bool,
    /// Whether every message must be JSON. Other messages are reported as faults.
    pub json: bool,
    /// How long connecting may take; 5 s by default.
    pub connect_timeout: Duration,
    /// Users, besides this process's user and root, whose processes are accepted as peers. They can also
    /// connect to a listening Unix socket.
    pub allow_uids: Vec<u32>,
    /// The permission bits of a listening Unix socket, such as `0o660`. With `None`, they are `0o660`
    /// with a [`socket_group`](Self::socket_group), `0o666` with [`allow_uids`](Self::allow_uids),
    /// otherwise `0o600`. Without `allow_uids`, every user that these bits admit is accepted.
    pub socket_mode: Option<u32>,
    /// The numeric group ID of a listening Unix socket; `None` leaves the choice to the system.
    pub socket_group: Option<u32>,
    /// A security descriptor in SDDL that determines which users may connect to a listening named pipe;
    /// `None` admits only this process's user.
    pub pipe_security: Option<String>,
    /// Whether listening on `tcp:` is allowed, although any program that can reach the port can connect.
    pub allow_unauthenticated_tcp: bool,
    /// The working directory of a child process; inherited by default.
    pub cwd: Option<PathBuf>,
    /// The environment variables of a child process; inherited by default.
    pub env: Environment,
    /// How long each stage of stopping a child process may take.
    pub stop: StopTimeouts,
    /// The guardian, which kills the remaining descendants of a child process when its line ends; none
    /// by default.
    pub guardian: Option<Guardian>,
    /// The counters for child processes and how they ended; none by default.
    pub account: Option<ProcessAccount>,
    /// How the output of child processes on stderr is handled; logged by default.
    pub stderr: ChildStderr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channel: ChannelConfig::default(),
            memory: None,
            framing: None,
            detect_content_length: false,
            json: false,
            connect_timeout: Duration::from_secs(5),
            allow_uids: Vec::new(),
            socket_mode: None,
            socket_group: None,
            pipe_security: None,
            allow_unauthenticated_tcp: false,
            cwd: None,
            env: Environment::default(),
            stop: StopTimeouts::default(),
            guardian: None,
            account: None,
            stderr: ChildStderr::Log,
        }
    }
}

/// How long each stage of stopping a child process may take before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimeouts {
    /// The time between the end of its input and SIGTERM; 2 s by default.
    pub end_of_input: Duration,
    /// The time between SIGTERM and SIGKILL; 5 s by default.
    pub terminate: Duration,
    /// The time to read on after the child has ended, if other processes still hold its stdout open; 1 s
    /// by default.
    pub drain: Duration,
}

impl Default for StopTimeouts {
    fn default() -> Self {
        Self {
            end_of_input: Duration::from_secs(2),
            terminate: Duration::from_secs(5),
            drain: Duration::from_secs(1),
        }
    }
}

/// The limits and timeouts of a line of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// The largest message in either direction; 16 MiB by default.
    pub max_message: ByteSize,
    /// How many encoded bytes can be queued before a sender must wait; 256 KiB by default. An empty queue
    /// accepts one message of any legal size.
    pub write_queue: ByteSize,
    /// How long a write may make no progress before the line ends; 10 s by default. A write makes
    /// progress when the kernel accepts or sends a byte.
    pub stall_timeout: Duration,
    /// The same limit for a child process, which may be too busy to read for a while; 60 s by default.
    /// Until the program has read its first byte, the limit is at least 10 min, if the system reports
    /// this (Linux).
    pub program_stall_timeout: Duration,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            max_message: DEFAULT_MAX_MESSAGE,
            write_queue: ByteSize::kib(256),
            stall_timeout: Duration::from_secs(10),
            program_stall_timeout: Duration::from_secs(60),
        }
    }
}

impl ChannelConfig {
    /// Checks that all values are within bounds.
    ///
    /// # Errors
    /// Returns the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Above 4 GiB, the framings support different lengths.
        let largest = ByteSize::new(u32::MAX as usize);
        if self.max_message.bytes() == 0 || self.max_message > largest {
            return Err(ConfigError { field: "max_message", must: "be between 1 B and 4 GiB - 1" });
        }
        if self.write_queue.bytes() == 0 {
            return Err(ConfigError { field: "write_queue", must: "be at least 1 B" });
        }
        if self.stall_timeout.is_zero() {
            return Err(ConfigError { field: "stall_timeout", must: "be longer than zero" });
        }
        validate_timeout("program_stall_timeout", self.program_stall_timeout)?;
        Ok(())
    }
}

pub(crate) fn validate_timeout(field: &'static str, timeout: Duration) -> Result<(), ConfigError> {
    if timeout.is_zero() {
        return Err(ConfigError { field, must: "be longer than zero" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_the_field_out_of_bounds() {
        let good = ChannelConfig::default();
        assert_eq!(good.validate(), Ok(()));
        for (config, field) in [
            (ChannelConfig { max_message: ByteSize::new(0), ..good }, "max_message"),
            (ChannelConfig { max_message: ByteSize::new(1 << 33), ..good }, "max_message"),
            (ChannelConfig { write_queue: ByteSize::new(0), ..good }, "write_queue"),
            (ChannelConfig { stall_timeout: Duration::ZERO, ..good }, "stall_timeout"),
            (
                ChannelConfig { program_stall_timeout: Duration::ZERO, ..good },
                "program_stall_timeout",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().field, field);
        }
        assert!(validate_timeout("connect_timeout", Duration::ZERO).is_err());
    }
}
