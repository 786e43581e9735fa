//! `tieline doctor`: checks what works on this machine, and prints advice for what does not.

#[cfg_attr(windows, path = "doctor/windows.rs")]
#[cfg_attr(not(windows), path = "doctor/unix.rs")]
mod system;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};
use tieline_proto::{ByteSize, Count, DEFAULT_MAX_MESSAGE};
use tieline_transport::{
    Channel, Endpoint, Hold, Incoming, Options, ReceiverExt, Registry, SenderExt,
};
use tokio::time::timeout;

use crate::args::Doctor;
use crate::report::Failure;
use crate::{children, memory, terminal};

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The state of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// An optional feature does not work, or works less well.
    Warning,
    /// A command will fail.
    Problem,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// The result of one check.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    state: State,
    /// The result in words.
    found: String,
    /// What to do about a warning or problem.
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), advice: None }
    }

    fn bad(
        check: &'static str,
        state: State,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, state, found: found.into(), advice: Some(advice.into()) }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(check, State::Warning, found, advice)
    }

    fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(check, State::Problem, found, advice)
    }

    /// Formats the finding as one line.
    fn line(&self) -> String {
        let (state, check, found) = (self.state.name(), self.check, &self.found);
        let advice = self.advice.iter().map(|advice| format!("; {advice}")).collect::<String>();
        terminal::line(&format!("{state:<8} {check}: {found}{advice}"))
    }

    fn json(&self) -> Value {
        let Self { check, state, found, advice } = self;
        json!({ "check": check, "state": state.name(), "found": found, "advice": advice })
    }
}

pub(crate) fn run(args: Doctor) -> Result<(), Failure> {
    let mut report = Report { args, findings: Vec::new() };
    report.add(system::limits())?;
    // The runtime would panic without descriptors or threads.
    if report.problems() == 0 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for finding in runtime.block_on(system::lines()) {
            report.add([finding])?;
        }
        report.add([runtime.block_on(program(children::options()))])?;
        report.add(runtime.block_on(system::containment()))?;
    }
    report.add([memory(), roots(), terminals()])?;
    report.end()
}

/// Prints findings as they arrive.
struct Report {
    args: Doctor,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        for finding in findings {
            if !self.args.json {
                writeln!(std::io::stdout(), "{}", finding.line())?;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    fn problems(&self) -> usize {
        self.findings.iter().filter(|it| it.state == State::Problem).count()
    }

    fn end(self) -> Result<(), Failure> {
        if self.args.json {
            let checks: Vec<_> = self.findings.iter().map(Finding::json).collect();
            let text = json!({ "checks": checks }).to_string();
            writeln!(std::io::stdout(), "{}", terminal::line(&text))?;
        }
        match self.problems() {
            0 => Ok(()),
            checks => Err(Failure::other(format!("{} found a problem", Count(checks, "check")))),
        }
    }
}

/// Starts this program as a child and calls a method. Returns the reason and the advice if that fails.
async fn start(options: Options) -> Result<(), (String, Option<String>)> {
    let this = std::env::current_exe().map_err(|error| (error.to_string(), None))?;
    let endpoint = Endpoint::exec(this, ["demo-agent"]);
    let talking = async {
        let connected = Registry::new().connect(&endpoint, &options).await;
        let described = |error: tieline_transport::TransportError| {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})"));
            let hint = error.hint().map(str::to_owned);
            (format!("{}{}", error.kind(), cause.unwrap_or_default()), hint)
        };
        let (mut sender, mut receiver) = connected.map_err(described)?.split();
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}"#;
        let sent = sender.send(call).await;
        sent.map_err(|error| (format!("it does not read: {error}"), None))?;
        match receiver.recv().await {
            Incoming::Message(_) => Ok(()),
            other => Err((format!("it does not answer: {other:?}"), None)),
        }
    };
    let answered = timeout(LIMIT, talking).await;
    answered.unwrap_or_else(|_| Err((format!("no answer within {LIMIT:?}"), None)))
}

async fn program(options: Options) -> Finding {
    const CHECK: &str = "programs";
    match start(options).await {
        Ok(()) => Finding::ok(CHECK, system::HELD),
        Err((why, advice)) => {
            let advice =
                advice.unwrap_or_else(|| "check the limits of processes and memory".into());
            Finding::problem(CHECK, format!("a program cannot be started: {why}"), advice)
        }
    }
}

/// Checks `--isolate`.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has namespaces"))]
async fn isolation() -> Finding {
    const CHECK: &str = "isolation";
    let guardian = Some(children::guardian().with_hold(Hold::Isolated));
    match start(Options { guardian, ..children::options() }).await {
        Ok(()) => Finding::ok(CHECK, "--isolate can run programs in a PID namespace"),
        Err((why, advice)) => {
            let advice = advice.unwrap_or_else(|| "do not use --isolate".into());
            Finding::warning(CHECK, format!("--isolate does not work: {why}"), advice)
        }
    }
}

fn memory() -> Finding {
    const CHECK: &str = "memory";
    let limit = memory::default_limit();
    // Print whole mebibytes.
    let limit = ByteSize::mib(limit.bytes() >> 20);
    let found = format!("limited to {limit} for all lines together (--max-memory)");
    match limit.bytes() < 4 * DEFAULT_MAX_MESSAGE.bytes() {
        false => Finding::ok(CHECK, found),
        true => Finding::warning(
            CHECK,
            found,
            format!(
                "few messages of the maximum size ({DEFAULT_MAX_MESSAGE}) fit: raise the memory limit of the \
                 machine, container or process, or lower --max-message"
            ),
        ),
    }
}

fn roots() -> Finding {
    const CHECK: &str = "TLS roots";
    let (count, errors) = tieline_http::system_roots();
    let problem = errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    match count {
        0 => Finding::warning(
            CHECK,
            format!("no root certificates found{problem}, so wss: and https: trust no server"),
            "install them (package ca-certificates), set SSL_CERT_FILE, or pass --tls-ca",
        ),
        _ if !errors.is_empty() => Finding::warning(
            CHECK,
            format!("{count} root certificates; others cannot be read{problem}"),
            "check the file or directory that it names",
        ),
        _ => Finding::ok(CHECK, format!("{count} root certificates")),
    }
}

fn terminals() -> Finding {
    const CHECK: &str = "terminal";
    let streams = [
        ("stdin", std::io::stdin().is_terminal()),
        ("stdout", std::io::stdout().is_terminal()),
        ("stderr", std::io::stderr().is_terminal()),
    ];
    let names: Vec<_> = streams.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    let color = match (streams[2].1, std::env::var_os("NO_COLOR").is_some()) {
        (true, false) => "; log lines have colors",
        _ => "; log lines have no colors",
    };
    Finding::ok(
        CHECK,
        match names.is_empty() {
            true => format!("none; output is not escaped{color}"),
            false => format!("{}{color}", names.join(", ")),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_one_line_each() {
        let finding = Finding::problem("files", "only\n3", "raise it");
        assert_eq!(finding.line(), "problem  files: only\\n3; raise it");
        assert_eq!(Finding::ok("files", "many").line(), "ok       files: many");
        let json = finding.json();
        assert_eq!((&json["state"], &json["advice"]), (&"problem".into(), &"raise it".into()));
    }
}
