//! The reports of a guardian after its socket was shut down.

use rustix::net::RecvFlags;
use tokio::net::UnixStream;

use super::wire::Report;

/// The reports of a guardian that is ending its processes.
#[derive(Default)]
pub(in super::super) struct LastReports {
    /// The beginning of a report that has not arrived completely.
    part: Vec<u8>,
    /// How many processes it killed, once it has reported that none are left.
    pub(in super::super) killed: Option<u32>,
}

impl LastReports {
    /// Creates a value with the number of killed processes that was reported already, if any.
    pub(super) fn after(killed: Option<u32>) -> Self {
        Self { killed, ..Self::default() }
    }

    /// Reads new reports. Returns true if there were any.
    pub(in super::super) fn read(&mut self, line: &UnixStream) -> bool {
        let mut bytes = [0; 64 * Report::LENGTH];
        let mut has_read = false;
        while let Ok((_, length @ 1..)) = rustix::net::recv(line, &mut bytes, RecvFlags::DONTWAIT) {
            has_read = true;
            self.part.extend_from_slice(bytes.get(..length).unwrap_or_default());
            let reports = self.part.chunks_exact(Report::LENGTH);
            let rest = reports.remainder().to_vec();
            for report in reports.filter_map(|report| report.try_into().ok()) {
                if let Some(Report::Gone(killed)) = Report::decode(report) {
                    self.killed = Some(killed.unsigned_abs());
                }
            }
            self.part = rest;
        }
        has_read
    }
}
