//! Exports a server's metrics, in the Prometheus text format or through the `metrics` facade.

use std::fmt::Write;

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};
use tieline_link::LineState;
use tieline_proto::{BreakerState, Histogram};

use crate::{ServerView, ServerWatch};

impl ServerWatch {
    /// Updates the global recorder ([`metrics::set_global_recorder`]) with the current values. Call it before
    /// each export: the values do not change between two calls. Does nothing if no recorder is installed.
    pub fn publish(&self) {
        for Family { name, unit, help, samples } in families(&self.now()) {
            match name.ends_with("_total") {
                true => describe_counter!(name, unit, help),
                false => describe_gauge!(name, unit, help),
            }
            for (label, value) in samples {
                let labels: Vec<Label> =
                    label.iter().map(|(key, value)| Label::from_static_parts(key, value)).collect();
                match name.ends_with("_total") {
                    true => counter!(name, labels).absolute(value as u64),
                    false => gauge!(name, labels).set(value),
                }
            }
        }
    }

    /// Returns the current values in the Prometheus text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        for Family { name, help, samples, .. } in families(&self.now()) {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (label, value) in samples {
                let _ = match label {
                    Some((key, of)) => writeln!(text, "{name}{{{key}=\"{of}\"}} {value}"),
                    None => writeln!(text, "{name} {value}"),
                };
            }
        }
        text
    }
}

/// The samples of one name. It is a counter if the name ends in `_total`, and a gauge otherwise.
struct Family {
    name: &'static str,
    unit: Unit,
    help: &'static str,
    samples: Vec<(Option<(&'static str, &'static str)>, f64)>,
}

fn one(name: &'static str, unit: Unit, help: &'static str, value: f64) -> Family {
    Family { name, unit, help, samples: vec![(None, value)] }
}

fn by<const N: usize>(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    label: &'static str,
    values: [(&'static str, f64); N],
) -> Family {
    let samples = values.into_iter().map(|(of, value)| (Some((label, of)), value)).collect();
    Family { name, unit, help, samples }
}

fn families(view: &ServerView) -> Vec<Family> {
    use Unit::{Bytes, Count, Seconds};

    let (report, traffic, lines) = (view.report, view.traffic, view.lines.len());
    let is_running = |state: &LineState| matches!(state, LineState::Connected { .. });
    let programs = view.lines.iter().filter_map(|line| line.program.as_ref());
    let running = programs.filter(|program| is_running(&program.state)).count();
    let is_open = !matches!(view.breaker, BreakerState::Closed);
    let sessions = Sessions::of(view);
    let took = |share| sessions.latency.quantile(share).as_secs_f64();
    vec![
        one("tieline_clients_total", Count, "Clients that connected.", view.came as f64),
        one(
            "tieline_clients_refused_total",
            Count,
            "Clients that were refused.",
            report.refused as f64,
        ),
        one("tieline_lines_ended_total", Count, "Lines that ended.", report.served as f64),
        one(
            "tieline_lines_failed_total",
            Count,
            "Lines that ended with an error.",
            report.failed as f64,
        ),
        one("tieline_restarts_total", Count, "Restarts of programs.", view.restarts as f64),
        one(
            "tieline_messages_lost_total",
            Count,
            "Messages that were not passed on.",
            report.lost as f64,
        ),
        one(
            "tieline_faults_total",
            Count,
            "Messages from clients that could not be received.",
            traffic.faults as f64,
        ),
        by(
            "tieline_messages_total",
            Count,
            "Messages received from (in) and sent to (out) clients.",
            "direction",
            [("in", traffic.messages_in as f64), ("out", traffic.messages_out as f64)],
        ),
        by(
            "tieline_bytes_total",
            Bytes,
            "Bytes received from (in) and sent to (out) clients.",
            "direction",
            [("in", traffic.bytes_in as f64), ("out", traffic.bytes_out as f64)],
        ),
        by(
            "tieline_lines",
            Count,
            "Open lines, by whether their program is running.",
            "state",
            [("running", running as f64), ("waiting", (lines - running) as f64)],
        ),
        one(
            "tieline_breaker_open",
            Count,
            "1 while no programs are started because they keep failing.",
            f64::from(u8::from(is_open)),
        ),
        by(
            "tieline_sessions",
            Count,
            "Open sessions, by whether they have a connection.",
            "state",
            [("connected", sessions.connected), ("away", sessions.away)],
        ),
        one(
            "tieline_session_kept_messages",
            Count,
            "Messages kept until they are acknowledged.",
            sessions.messages as f64,
        ),
        one(
            "tieline_session_kept_bytes",
            Bytes,
            "Bytes of the messages kept until they are acknowledged.",
            sessions.bytes as f64,
        ),
        by(
            "tieline_session_acknowledgement_seconds",
            Seconds,
            "How long clients of open sessions took to acknowledge a message.",
            "quantile",
            [("0.5", took(0.5)), ("0.99", took(0.99)), ("1", took(1.0))],
        ),
    ]
}

/// The totals of all open sessions.
#[derive(Default)]
struct Sessions {
    connected: f64,
    away: f64,
    messages: usize,
    bytes: usize,
    latency: Histogram,
}

impl Sessions {
    fn of(view: &ServerView) -> Self {
        let mut all = Self::default();
        for session in view.lines.iter().filter_map(|line| line.client.session.as_deref()) {
            *(if session.is_connected { &mut all.connected } else { &mut all.away }) += 1.0;
            all.messages += session.kept_messages;
            all.bytes += session.kept_bytes;
            all.latency.add(&session.latency);
        }
        all
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

    /// A recorder that keeps each value under its name and labels.
    #[derive(Clone, Default)]
    struct Exported {
        values: Arc<Mutex<BTreeMap<String, f64>>>,
        described: Arc<Mutex<Vec<String>>>,
    }

    struct Named(String, Exported);

    impl Named {
        fn store(&self, value: f64) {
            self.1.values.lock().unwrap().insert(self.0.clone(), value);
        }
    }

    impl CounterFn for Named {
        fn increment(&self, _: u64) {}

        fn absolute(&self, value: u64) {
            self.store(value as f64);
        }
    }

    impl GaugeFn for Named {
        fn increment(&self, _: f64) {}

        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            self.store(value);
        }
    }

    impl Exported {
        fn named(&self, key: &Key) -> Arc<Named> {
            let labels = key.labels().map(|label| format!("{{{}={}}}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Arc::new(Named(name, self.clone()))
        }
    }

    impl Recorder for Exported {
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
    fn every_metric_has_a_value_and_a_description() {
        let watch = ServerWatch::default();
        watch.came();
        watch.came();
        watch.report(ServerReport { refused: 1, lost: 7, ..ServerReport::default() });
        let exported = Exported::default();
        metrics::with_local_recorder(&exported, || watch.publish());
        let values = exported.values.lock().unwrap();
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
        let described = exported.described.lock().unwrap();
        for name in values.keys() {
            let name = name.split('{').next().unwrap();
            assert!(described.iter().any(|it| it == name), "{name} is not described");
        }
        let text = watch.prometheus();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), values.len());
        for line in [
            "# HELP tieline_clients_total Clients that connected.",
            "# TYPE tieline_clients_total counter",
            "tieline_clients_total 2",
            "# TYPE tieline_lines gauge",
            "tieline_lines{state=\"running\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
