//! Runs the client scenarios of the suite: a client on stdio, whose server is `tieline connect`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{Report, Suite, alone, tieline_name};
use crate::{Failure, failed};

/// The scenarios of each version, without those of OAuth.
pub(super) const SCENARIOS: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &["initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"],
    ),
    (
        "2026-07-28",
        &[
            "tools_call",
            "request-metadata",
            "sep-2322-client-request-state",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
        ],
    ),
];

impl Suite<'_> {
    /// Runs the client scenarios of a version.
    pub(super) fn judge_client(
        &self,
        revision: &str,
        scenarios: &[&str],
    ) -> Result<Report, Failure> {
        eprintln!("xtask: running the client scenarios of {revision} against tieline connect");
        let log = self.workspace.target()?.join(format!("conformance-{revision}-client.log"));
        let (mut found, mut whole) = (Vec::new(), String::new());
        for scenario in scenarios {
            let (mut text, (mut passed, mut wrong)) = self.play(revision, scenario, &log)?;
            if wrong > 0 {
                eprintln!("xtask: {scenario} failed; running it again");
                whole.push_str(&text);
                (text, (passed, wrong)) = self.play(revision, scenario, &log)?;
            }
            found.push(((*scenario).to_owned(), passed, wrong));
            whole.push_str(&text);
        }
        fs::write(&log, whole).map_err(|error| failed_at(&log, &error))?;
        Ok(Report { name: "tieline connect", scenarios: found, unscored: Vec::new(), log })
    }

    /// Runs a scenario. Returns its output, and the numbers of checks that passed and that failed.
    fn play(
        &self,
        revision: &str,
        scenario: &str,
        log: &Path,
    ) -> Result<(String, (u32, u32)), Failure> {
        let io = |error: io::Error| failed_at(log, &error);
        let file = File::create(log).map_err(io)?;
        let client = format!("{} client.js", self.node().display());
        let mut suite = self.workspace.command(self.node());
        suite.arg(self.script("conformance")).args(["client", "--command", &client]);
        suite.args(["--scenario", scenario, "--spec-version", revision]);
        suite.env("TIELINE", self.workspace.target()?.join("debug").join(tieline_name()));
        suite.stderr(file.try_clone().map_err(io)?).stdout(file);
        suite.current_dir(&self.directory).status().map_err(failed)?;
        let text = fs::read_to_string(log).map_err(io)?;
        let counts = alone(&text).unwrap_or((0, 1));
        Ok((text, counts))
    }
}

fn failed_at(log: &Path, error: &io::Error) -> Failure {
    failed(format!("{}: {error}", log.display()))
}
