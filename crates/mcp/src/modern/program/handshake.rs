//! Determines the versions that a program speaks. The program is sent `server/discover`, and then
//! `initialize` if it does not know that method.

use std::time::Duration;

use bytes::Bytes;
use tieline_proto::jsonrpc::{Dialect, locate, member, write_notification};

use super::{ModernProgram, PROGRAM_ENDED, ProgramEra, envelope};
use crate::modern::json::{object, string};
use crate::modern::{UNSUPPORTED_VERSION, lists_modern_version};

/// The progress of determining a program's versions.
#[derive(Debug)]
pub(super) enum Phase {
    /// The program was sent `server/discover`.
    Probing {
        id: u64,
        until: Duration,
    },
    /// The program was sent `initialize`.
    Opening {
        id: u64,
        /// The number of the `server/discover` request that was sent before, if any.
        probe: Option<u64>,
        /// Whether the late response to that request shows that the program is of the modern era.
        is_modern: bool,
    },
    Modern,
    Legacy,
    /// The program cannot be used any more. The era is the one to assume for the next program.
    Over(Option<ProgramEra>),
}

impl Phase {
    /// Returns whether the program may have ended because of the `server/discover` request.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Self::Probing { .. } | Self::Opening { probe: Some(_), .. })
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Probing { until, .. } => Some(*until),
            _ => None,
        }
    }
}

/// The client capabilities that are declared to programs of earlier versions. Whether a client accepts a
/// request is checked for each request.
const CAPABILITIES: &str =
    r#"{"elicitation":{"form":{},"url":{}},"roots":{},"sampling":{"tools":{}}}"#;

impl ModernProgram {
    pub(super) fn begin(&mut self, now: Duration, era: Option<ProgramEra>) {
        match era {
            Some(ProgramEra::Modern) => self.phase = Phase::Modern,
            Some(ProgramEra::Legacy) => self.initialize(None),
            None => {
                let params = object([("_meta", &envelope()[..])]);
                let id = self.send_request("server/discover", &params);
                let until = now.saturating_add(self.limits.probe_wait);
                self.phase = Phase::Probing { id, until };
            }
        }
    }

    fn initialize(&mut self, probe: Option<u64>) {
        let version = env!("CARGO_PKG_VERSION");
        let params = format!(
            r#"{{"protocolVersion":"2025-11-25","capabilities":{CAPABILITIES},"clientInfo":{{"name":"tieline","version":"{version}"}}}}"#
        );
        let id = self.send_request("initialize", params.as_bytes());
        self.phase = Phase::Opening { id, probe, is_modern: false };
    }

    /// Sends `initialize`, because the program has not answered in time. It may have to be initialized
    /// first.
    pub(super) fn probe_expired(&mut self) {
        if let Phase::Probing { id, .. } = self.phase {
            self.initialize(Some(id));
        }
    }

    /// Returns whether this is the number of a handshake request.
    pub(super) fn is_of_handshake(&self, number: u64) -> bool {
        match self.phase {
            Phase::Probing { id, .. } => number == id,
            Phase::Opening { id, probe, .. } => number == id || probe == Some(number),
            _ => false,
        }
    }

    pub(super) fn handshake_answered(&mut self, number: u64, outcome: Result<&[u8], &[u8]>) {
        match (&mut self.phase, outcome) {
            (Phase::Probing { id, .. }, outcome) => {
                let id = *id;
                match outcome {
                    Ok(result) if lists_modern_version(result, "supportedVersions") => {
                        self.phase = Phase::Modern;
                    }
                    // The program is of the modern era, but speaks another version.
                    Err(error) if is_unsupported(error) => self.refuse_all(error),
                    _ => self.initialize(Some(id)),
                }
            }
            (Phase::Opening { id, is_modern, .. }, outcome) if *id != number => {
                *is_modern = outcome.is_ok_and(|it| lists_modern_version(it, "supportedVersions"));
            }
            (Phase::Opening { .. }, Ok(result)) => {
                self.initialized(Bytes::copy_from_slice(result));
                self.phase = Phase::Legacy;
                let method = "notifications/initialized";
                self.send(write_notification(&Dialect::MCP, method, None));
            }
            (Phase::Opening { probe, is_modern, .. }, Err(error)) => {
                let supported = locate(error, &["data"]).ok().flatten().unwrap_or_default();
                let era =
                    match is_unsupported(error) && lists_modern_version(supported, "supported") {
                        true => ProgramEra::Modern,
                        false if *is_modern => ProgramEra::Modern,
                        // The earlier `server/discover` request may be the cause.
                        false if probe.is_some() => ProgramEra::Legacy,
                        false => return self.refuse_all(error),
                    };
                self.phase = Phase::Over(Some(era));
                self.send_elsewhere(|_| true);
            }
            _ => {}
        }
    }

    fn refuse_all(&mut self, error: &[u8]) {
        self.phase = Phase::Over(None);
        let message = member(error, "message").and_then(string).unwrap_or_default();
        let text = format!("the program cannot be used with this protocol version: {message}");
        let open: Vec<_> = self.calls.keys().copied().collect();
        open.into_iter().for_each(|number| self.fail(number, 502, PROGRAM_ENDED, &text));
    }
}

fn is_unsupported(error: &[u8]) -> bool {
    let code = member(error, "code").and_then(|code| std::str::from_utf8(code).ok());
    code.and_then(|code| code.parse().ok()) == Some(UNSUPPORTED_VERSION)
}
