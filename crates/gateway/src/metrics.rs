//! Exports a server's metrics in the Prometheus text format.

use tieline_link::LineState;
use tieline_proto::{BreakerState, Histogram, MetricsText};

use crate::processes::PoolView;
use crate::watch::{ServerView, ServerWatch};

impl ServerWatch {
    /// Returns the current values in the Prometheus text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut text = MetricsText::default();
        add_all(&mut text, &self.now());
        text.into_string()
    }
}

fn add_all(text: &mut MetricsText, view: &ServerView) {
    let (report, traffic, lines) = (view.report, view.traffic, view.lines.len());
    let is_running = |state: &LineState| matches!(state, LineState::Connected { .. });
    let programs = view.lines.iter().filter_map(|line| line.program.as_ref());
    let running = programs.filter(|program| is_running(&program.state)).count();
    let is_open = !matches!(view.breaker, BreakerState::Closed);
    let sessions = Sessions::of(view);
    let took = |share| sessions.latency.quantile(share).as_secs_f64();
    text.add("tieline_clients_total", "Clients that connected.", view.connected);
    text.add("tieline_clients_refused_total", "Clients that were refused.", report.refused);
    text.add("tieline_lines_ended_total", "Lines that ended.", report.served);
    text.add("tieline_lines_failed_total", "Lines that ended with an error.", report.failed);
    text.add("tieline_restarts_total", "Restarts of programs.", view.restarts);
    text.add("tieline_messages_lost_total", "Messages that were not passed on.", report.lost);
    text.add(
        "tieline_faults_total",
        "Messages from clients that could not be received.",
        traffic.faults,
    );
    text.add_by(
        "tieline_messages_total",
        "Messages received from (in) and sent to (out) clients.",
        "direction",
        [("in", traffic.messages_in), ("out", traffic.messages_out)],
    );
    text.add_by(
        "tieline_bytes_total",
        "Bytes received from (in) and sent to (out) clients.",
        "direction",
        [("in", traffic.bytes_in), ("out", traffic.bytes_out)],
    );
    text.add_by(
        "tieline_lines",
        "Open lines, by whether their program is running.",
        "state",
        [("running", running), ("waiting", lines - running)],
    );
    if let Some(programs) = &view.programs {
        text.add(
            "tieline_programs",
            "Programs that clients share, or of a pool.",
            programs.running,
        );
        text.add("tieline_programs_max", "How many of them may run.", programs.limit);
        if let Some(PoolView { warm, in_use }) = programs.pool {
            text.add_by(
                "tieline_pool_programs",
                "Programs of the pool, by whether they have a client.",
                "state",
                [("warm", warm), ("in_use", in_use)],
            );
        }
    }
    text.add(
        "tieline_breaker_open",
        "1 while no programs are started because they keep failing.",
        u8::from(is_open),
    );
    text.add_by(
        "tieline_sessions",
        "Open sessions, by whether they have a connection.",
        "state",
        [("connected", sessions.connected), ("away", sessions.away)],
    );
    text.add(
        "tieline_session_kept_messages",
        "Messages kept until they are acknowledged.",
        sessions.messages,
    );
    text.add(
        "tieline_session_kept_bytes",
        "Bytes of the messages kept until they are acknowledged.",
        sessions.bytes,
    );
    text.add_by(
        "tieline_session_acknowledgement_seconds",
        "How long clients of open sessions took to acknowledge a message.",
        "quantile",
        [("0.5", took(0.5)), ("0.99", took(0.99)), ("1", took(1.0))],
    );
}

/// The totals of all open sessions.
#[derive(Default)]
struct Sessions {
    connected: usize,
    away: usize,
    messages: usize,
    bytes: usize,
    latency: Histogram,
}

impl Sessions {
    fn of(view: &ServerView) -> Self {
        let mut all = Self::default();
        for session in view.lines.iter().filter_map(|line| line.client.session.as_deref()) {
            *(if session.is_connected { &mut all.connected } else { &mut all.away }) += 1;
            all.messages += session.kept_messages;
            all.bytes += session.kept_bytes;
            all.latency.add(&session.latency);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use tieline_proto::jsonrpc::Dialect;

    use super::*;
    use crate::processes::Programs;
    use crate::{ProcessModel, Processes, ServerReport};

    #[test]
    fn programs_that_clients_share_are_exported() {
        let watch = ServerWatch::default();
        assert!(!watch.prometheus().contains("tieline_programs"));
        let processes =
            Processes { model: ProcessModel::Shared, max_programs: 7, ..Processes::default() };
        let programs = Programs::new(processes, Some(Dialect::MCP)).unwrap();
        watch.programs(programs.count());
        let text = watch.prometheus();
        assert!(text.contains("\ntieline_programs 0\n"), "{text}");
        assert!(text.contains("\ntieline_programs_max 7\n"), "{text}");
    }

    #[test]
    fn every_metric_has_a_value_and_a_description() {
        let watch = ServerWatch::default();
        watch.client_connected();
        watch.client_connected();
        watch.report(ServerReport { refused: 1, lost: 7, ..ServerReport::default() });
        let text = watch.prometheus();
        for line in [
            "# HELP tieline_clients_total Clients that connected.",
            "# TYPE tieline_clients_total counter",
            "tieline_clients_total 2",
            "tieline_clients_refused_total 1",
            "tieline_messages_lost_total 7",
            "tieline_messages_total{direction=\"in\"} 0",
            "# TYPE tieline_lines gauge",
            "tieline_lines{state=\"running\"} 0",
            "tieline_sessions{state=\"away\"} 0",
            "tieline_breaker_open 0",
            "tieline_session_acknowledgement_seconds{quantile=\"0.99\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
