//! Metrics as text for Prometheus.

use std::fmt::{Display, Write};

/// A text in Prometheus' exposition format 0.0.4. A metric whose name ends in `_total` is a counter; all
/// others are gauges. Names and labels are written as they are.
///
/// ```
/// use tieline_proto::MetricsText;
///
/// let mut text = MetricsText::default();
/// text.add("clients_total", "Clients that connected.", 2);
/// text.add_by("lines", "Open lines.", "state", [("running", 1), ("waiting", 0)]);
/// assert!(text.into_string().ends_with(
///     "# TYPE lines gauge\nlines{state=\"running\"} 1\nlines{state=\"waiting\"} 0\n"
/// ));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MetricsText(String);

impl MetricsText {
    /// Adds a metric with one value.
    pub fn add(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, help);
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// Adds a metric with one value for each value of a label.
    pub fn add_by<'a, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        self.begin(name, help);
        for (of, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{of}\"}} {value}");
        }
    }

    fn begin(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Returns the text.
    pub fn into_string(self) -> String {
        self.0
    }
}
