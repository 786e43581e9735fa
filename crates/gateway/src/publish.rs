//! What a server counts, for whoever exports it: through the `metrics` facade, under names as
//! Prometheus wants them.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tieline_link::State;
use tieline_proto::{BreakerState, Histogram};

use crate::{ServerView, ServerWatch};

impl ServerWatch {
    /// Tells the recorder that the process has installed ([`metrics::set_global_recorder`]) what the
    /// server has counted until now. Call it before what was recorded is exported; between two calls
    /// nothing is told, and where there is no recorder nothing is done.
    pub fn publish(&self) {
        publish(&self.now());
    }
}

fn publish(view: &ServerView) {
    describe();
    let report = view.report;
    counter!("tieline_clients_total").absolute(view.came);
    counter!("tieline_clients_refused_total").absolute(report.refused);
    counter!("tieline_lines_ended_total").absolute(report.served);
    counter!("tieline_lines_failed_total").absolute(report.failed);
    counter!("tieline_restarts_total").absolute(view.restarts);
    counter!("tieline_messages_lost_total").absolute(report.lost);
    let traffic = view.traffic;
    counter!("tieline_faults_total").absolute(traffic.faults);
    for (direction, messages, bytes) in [
        ("in", traffic.messages_in, traffic.bytes_in),
        ("out", traffic.messages_out, traffic.bytes_out),
    ] {
        counter!("tieline_messages_total", "direction" => direction).absolute(messages);
        counter!("tieline_bytes_total", "direction" => direction).absolute(bytes);
    }
    let states = view.lines.iter().map(|line| line.program.as_ref().map(|program| &program.state));
    let (mut running, mut waiting) = (0, 0);
    for state in states {
        match state {
            Some(State::Connected { .. }) => running += 1,
            _ => waiting += 1,
        }
    }
    for (state, lines) in [("running", running), ("waiting", waiting)] {
        gauge!("tieline_lines", "state" => state).set(f64::from(lines));
    }
    let is_open = !matches!(view.breaker, BreakerState::Closed);
    gauge!("tieline_breaker_open").set(f64::from(u8::from(is_open)));
    publish_sessions(view);
}

fn publish_sessions(view: &ServerView) {
    let (mut connected, mut away, mut messages, mut bytes) = (0, 0, 0, 0);
    let mut latency = Histogram::new();
    for session in view.lines.iter().filter_map(|line| line.client.session.as_deref()) {
        *(if session.is_connected { &mut connected } else { &mut away }) += 1;
        messages += session.kept_messages;
        bytes += session.kept_bytes;
        latency.add(&session.latency);
    }
    for (state, sessions) in [("connected", connected), ("away", away)] {
        gauge!("tieline_sessions", "state" => state).set(f64::from(sessions));
    }
    gauge!("tieline_session_kept_messages").set(messages as f64);
    gauge!("tieline_session_kept_bytes").set(bytes as f64);
    for (label, share) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
        let took = latency.quantile(share).as_secs_f64();
        gauge!("tieline_session_acknowledgement_seconds", "quantile" => label).set(took);
    }
}

fn describe() {
    for (name, unit, text) in [
        ("tieline_clients_total", Unit::Count, "Clients that have come."),
        ("tieline_clients_refused_total", Unit::Count, "Clients that were turned away."),
        ("tieline_lines_ended_total", Unit::Count, "Lines that are over."),
        ("tieline_lines_failed_total", Unit::Count, "Lines that ended badly."),
        ("tieline_restarts_total", Unit::Count, "How often a program was replaced."),
        ("tieline_messages_lost_total", Unit::Count, "Messages that were not passed on."),
        ("tieline_faults_total", Unit::Count, "Messages of clients that were not delivered."),
        ("tieline_messages_total", Unit::Count, "Messages from (in) and to (out) clients."),
        ("tieline_bytes_total", Unit::Bytes, "Bytes from (in) and to (out) clients."),
    ] {
        describe_counter!(name, unit, text);
    }
    for (name, unit, text) in [
        ("tieline_lines", Unit::Count, "Lines there are, by whether their program runs."),
        ("tieline_breaker_open", Unit::Count, "1 while programs fail too often to be started."),
        ("tieline_sessions", Unit::Count, "Sessions there are, by whether they have a connection."),
        (
            "tieline_session_kept_messages",
            Unit::Count,
            "Messages kept until they are acknowledged.",
        ),
        ("tieline_session_kept_bytes", Unit::Bytes, "Bytes of messages kept."),
        (
            "tieline_session_acknowledgement_seconds",
            Unit::Seconds,
            "How long clients took to acknowledge a message, in the sessions there are.",
        ),
    ] {
        describe_gauge!(name, unit, text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    use super::*;
    use crate::ServerReport;

    /// What it was told, as Prometheus would write it.
    #[derive(Clone, Default)]
    struct Told {
        values: Arc<Mutex<BTreeMap<String, f64>>>,
        described: Arc<Mutex<Vec<String>>>,
    }

    struct Named(String, Told);

    impl Named {
        fn tell(&self, value: f64) {
            self.1.values.lock().unwrap().insert(self.0.clone(), value);
        }
    }

    impl CounterFn for Named {
        fn increment(&self, _: u64) {}

        fn absolute(&self, value: u64) {
            self.tell(value as f64);
        }
    }

    impl GaugeFn for Named {
        fn increment(&self, _: f64) {}

        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            self.tell(value);
        }
    }

    impl Told {
        fn named(&self, key: &Key) -> Arc<Named> {
            let labels = key.labels().map(|label| format!("{{{}={}}}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Arc::new(Named(name, self.clone()))
        }
    }

    impl Recorder for Told {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described.lock().unwrap().push(name.as_str().to_owned());
        }

        fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described.lock().unwrap().push(name.as_str().to_owned());
        }

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.named(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.named(key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn everything_that_is_told_has_its_value_and_is_described() {
        let watch = ServerWatch::default();
        watch.came();
        watch.came();
        watch.report(ServerReport { refused: 1, lost: 7, ..ServerReport::default() });
        let told = Told::default();
        metrics::with_local_recorder(&told, || watch.publish());
        let values = told.values.lock().unwrap();
        for (name, expected) in [
            ("tieline_clients_total", 2.0),
            ("tieline_clients_refused_total", 1.0),
            ("tieline_messages_lost_total", 7.0),
            ("tieline_messages_total{direction=in}", 0.0),
            ("tieline_lines{state=running}", 0.0),
            ("tieline_sessions{state=away}", 0.0),
            ("tieline_breaker_open", 0.0),
            ("tieline_session_acknowledgement_seconds{quantile=0.99}", 0.0),
        ] {
            assert_eq!(values.get(name), Some(&expected), "{name}: {values:?}");
        }
        let described = told.described.lock().unwrap();
        for name in values.keys() {
            let name = name.split('{').next().unwrap();
            assert!(described.iter().any(|it| it == name), "{name} is not described");
        }
    }
}
