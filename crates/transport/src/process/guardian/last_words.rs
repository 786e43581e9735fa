//! What a guardian reports after it was told to end.

use rustix::net::RecvFlags;
use tokio::net::UnixStream;

use super::wire::Report;

/// The last reports of a guardian that was told to end.
#[derive(Default)]
pub(in super::super) struct LastWords {
    part: Vec<u8>,
    /// How many processes it killed, once it has reported that none is left.
    pub(in super::super) killed: Option<u32>,
}

impl LastWords {
    /// Continues after what was reported already.
    pub(super) fn after(killed: Option<u32>) -> Self {
        Self { killed, ..Self::default() }
    }

    /// Reads new reports. Returns true if there were any.
    pub(in super::super) fn hear(&mut self, line: &UnixStream) -> bool {
        let mut said = [0; 64 * Report::LENGTH];
        let mut has_spoken = false;
        while let Ok((_, length @ 1..)) = rustix::net::recv(line, &mut said, RecvFlags::DONTWAIT) {
            has_spoken = true;
            self.part.extend_from_slice(said.get(..length).unwrap_or_default());
            let reports = self.part.chunks_exact(Report::LENGTH);
            let rest = reports.remainder().to_vec();
            for report in reports.filter_map(|report| report.try_into().ok()) {
                if let Some(Report::Gone(killed)) = Report::decode(report) {
                    self.killed = Some(killed.unsigned_abs());
                }
            }
            self.part = rest;
        }
        has_spoken
    }
}
