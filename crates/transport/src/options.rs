//! What can be asked for beyond the endpoint's text.

use std::path::PathBuf;
use std::time::Duration;

use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE, FramingKind};

use crate::{ConfigError, Environment, Guardian, MemoryBudget, ProcessAccount};

/// What can be asked for beyond the endpoint's text. The defaults are safe; each transport takes
/// what concerns it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the line itself behaves.
    pub channel: ChannelConfig,
    /// What all lines that share this budget may hold in memory together; no bound by default.
    pub memory: Option<MemoryBudget>,
    /// The framing where the endpoint names none; `None`: the transport's usual one.
    pub framing: Option<FramingKind>,
    /// A listener whose endpoint names no framing, and that carries lines, takes clients that send
    /// `Content-Length` headers, too, and speaks their framing to them; without it they are refused. No by
    /// default.
    pub detect_content_length: bool,
    /// Every message must be JSON; one that is not is a fault.
    pub json: bool,
    /// How long connecting may take; 5 s by default.
    pub connect_timeout: Duration,
    /// Users other than our own and root whose processes are accepted on the other end. A Unix socket that is
    /// listened on lets them connect, too.
    pub allow_uids: Vec<u32>,
    /// The permission bits of a Unix socket that is listened on, like `0o660`. `None`: `0o660` with a
    /// [`socket_group`](Self::socket_group), `0o666` with [`allow_uids`](Self::allow_uids), otherwise `0o600`.
    /// Without `allow_uids`, whoever these bits let connect is accepted.
    pub socket_mode: Option<u32>,
    /// The group of a Unix socket that is listened on, by its number; `None`: the system's choice.
    pub socket_group: Option<u32>,
    /// Who may connect to a named pipe that is listened on, as a security descriptor in SDDL; `None`:
    /// our own user alone.
    pub pipe_security: Option<String>,
    /// Listening on `tcp:` is allowed, although whoever reaches the port may connect.
    pub allow_unauthenticated_tcp: bool,
    /// The working directory of a child process; ours by default.
    pub cwd: Option<PathBuf>,
    /// Environment variables of a child process; ours by default.
    pub env: Environment,
    /// How long each stage of stopping a child process may take.
    pub stop: StopTimeouts,
    /// What stands between us and a child process, so that nothing that comes of it is left; none by
    /// default.
    pub guardian: Option<Guardian>,
    /// Where child processes are counted, and how they ended; nowhere by default.
    pub account: Option<ProcessAccount>,
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
        }
    }
}

/// How long each stage of stopping a child process may take before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimeouts {
    /// After the end of its input, before SIGTERM; 2 s by default.
    pub end_of_input: Duration,
    /// After SIGTERM, before SIGKILL; 5 s by default.
    pub terminate: Duration,
    /// After its end, for what others still hold open of its stdout; 1 s by default.
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

/// How a line of messages behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// The largest message either way; 16 MiB by default.
    pub max_message: ByteSize,
    /// How many encoded bytes may wait before a sender must; 256 KiB by default. An empty queue
    /// takes one message of any legal size.
    pub write_queue: ByteSize,
    /// A write that makes no progress for this long ends the line; 10 s by default. Progress is any byte
    /// that leaves, as the kernel sees it.
    pub stall_timeout: Duration,
    /// The same where a child process is on the other end, which may be at work and read nothing meanwhile;
    /// 60 s by default. It counts from the first byte that the program reads, where the system tells of
    /// that (Linux); until then the limit is 10 min, if that is longer.
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
    /// Refuses values that are out of bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Above 4 GiB the framings disagree on what they can say.
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
    fn values_out_of_bounds_are_refused_by_name() {
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
