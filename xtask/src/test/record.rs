//! Collects the failures of a run across processes. For each test binary, cargo starts a supervisor,
//! which appends to the record.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::MAX_FLAKY;
use crate::{Failure, failed};

/// The environment variable that passes the path of the record to the supervisors.
pub(super) const VARIABLE: &str = "TIELINE_TEST_RECORD";

/// A failure and its outcome.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// The package's folder, the test target and the test.
    pub(super) name: String,
    pub(super) why: String,
    /// Whether the test passed in the second attempt.
    pub(super) is_flaky: bool,
}

/// The failures of a run so far.
#[derive(Default)]
pub(super) struct Record {
    /// The file of the record, or `None` in tests.
    file: Option<PathBuf>,
    events: Vec<Event>,
}

impl Record {
    /// Reads the existing record.
    pub(super) fn open(file: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(file).map_err(|error| failed(told(file, &error)))?;
        let events = text.lines().filter_map(Event::read).collect();
        Ok(Self { file: Some(file.to_owned()), events })
    }

    pub(super) fn create(file: &Path) -> Result<Self, Failure> {
        fs::write(file, "").map_err(|error| failed(told(file, &error)))?;
        Ok(Self { file: Some(file.to_owned()), events: Vec::new() })
    }

    pub(super) fn add(&mut self, event: Event) -> Result<(), Failure> {
        if let Some(file) = &self.file {
            let line = json!({"name": event.name, "why": event.why, "flaky": event.is_flaky});
            let append = OpenOptions::new().append(true).open(file);
            append
                .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
                .map_err(|error| failed(told(file, &error)))?;
        }
        self.events.push(event);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns one line for each test that passed only in its second attempt.
    pub(super) fn flaky(&self) -> Vec<String> {
        let flaky = self.events.iter().filter(|event| event.is_flaky);
        flaky.map(|Event { name, why, .. }| format!("flaky: {name} ({why:.200})")).collect()
    }

    /// Returns the reasons why the run fails, each with the name of the test or test binary.
    pub(super) fn problems(&self) -> Vec<String> {
        let failed = self.events.iter().filter(|event| !event.is_flaky);
        let mut problems: Vec<_> = failed
            .take(MAX_NAMES)
            .map(|Event { name, why, .. }| format!("{name} ({why:.200})"))
            .collect();
        let left = self.events.iter().filter(|event| !event.is_flaky).skip(MAX_NAMES).count();
        if left > 0 {
            problems.push(format!("{left} more"));
        }
        let flaky = self.events.len() - self.events.iter().filter(|event| !event.is_flaky).count();
        if flaky > MAX_FLAKY {
            problems.push(format!("{flaky} flaky tests (at most {MAX_FLAKY} are allowed)"));
        }
        problems
    }
}

/// The maximum number of failed tests that the last line names.
const MAX_NAMES: usize = 20;

impl Event {
    fn read(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |member| Some(event.get(member)?.as_str()?.to_owned());
        Some(Self {
            name: text("name")?,
            why: text("why")?,
            is_flaky: event.get("flaky")?.as_bool()?,
        })
    }
}

fn told(file: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(flaky: usize, failed: usize) -> Record {
        let event = |is_flaky| Event { name: "cli::serve::a".into(), why: "so".into(), is_flaky };
        let events = [vec![event(true); flaky], vec![event(false); failed]].concat();
        Record { file: None, events }
    }

    #[test]
    fn two_flaky_tests_are_forgiven_and_three_are_not() {
        assert_eq!(record(2, 0).flaky(), ["flaky: cli::serve::a (so)"; 2]);
        assert_eq!(record(2, 0).problems(), [""; 0]);
        assert_eq!(record(3, 0).problems(), ["3 flaky tests (at most 2 are allowed)"]);
        assert_eq!(record(1, 1).problems(), ["cli::serve::a (so)"]);
        assert_eq!(record(0, 22).problems()[19..], ["cli::serve::a (so)", "2 more"]);
    }

    #[test]
    fn supervisors_append_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record");
        Record::create(&file).ok().unwrap();
        let event = |name: &str| Event {
            name: name.into(),
            why: "it said \"no\"\nand more".into(),
            is_flaky: name == "a",
        };
        for name in ["a", "b"] {
            Record::open(&file).ok().unwrap().add(event(name)).ok().unwrap();
        }
        assert_eq!(Record::open(&file).ok().unwrap().events(), [event("a"), event("b")]);
    }
}
