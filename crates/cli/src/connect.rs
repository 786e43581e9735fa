//! `tieline connect` and `tieline bridge`: a line between two endpoints.

use std::io::IsTerminal;

use tieline_gateway::{BridgeEnd, BridgeReport, Tap};
use tieline_proto::{Count, FramingKind};
use tieline_rpc::Dialect;
use tieline_transport::{Address, Endpoint, Registry};

use crate::args::{Bridge, Connect, Line, Logging, Screen};
use crate::children::StderrMode;
use crate::lookup;
use crate::report::{Failure, last_lines};
use crate::sessions;
use crate::signals::Signals;
use crate::terminal;

const BY_HAND: &[u8] = b"tieline: type one message per line; Ctrl-D ends the input, Ctrl-C stops\n";

const NO_TERMINAL: &[u8] =
    b"tieline: the program has no terminal (/dev/tty), so it cannot ask for a password\n";

pub(crate) async fn connect(args: Connect, logging: &Logging) -> Result<(), Failure> {
    let by_hand = std::io::stdin().is_terminal() && !logging.is_quiet();
    if by_hand {
        crate::stderr::say(BY_HAND);
        if cfg!(unix) && matches!(args.endpoint.address(), Address::Exec(_)) {
            crate::stderr::say(NO_TERMINAL);
        }
    }
    let far = if args.resume { sessions::resumable(args.endpoint)? } else { args.endpoint };
    args.web.check_for(&[&far])?;
    let (registry, near) = (args.web.registry()?, Endpoint::stdio());
    join(&registry, near, far, args.dialect, args.screen, args.line, logging).await
}

pub(crate) async fn bridge(args: Bridge, logging: &Logging) -> Result<(), Failure> {
    args.web.check_for(&[&args.near, &args.far])?;
    let framings = [&args.near, &args.far].map(Endpoint::framing);
    let framing = framings.into_iter().flatten().find(|it| *it == FramingKind::LengthPrefix);
    let registry = args.web.registry_for(framing.unwrap_or_default())?;
    join(&registry, args.near, args.far, args.dialect, args.screen, args.line, logging).await
}

async fn join(
    registry: &Registry,
    near: Endpoint,
    far: Endpoint,
    dialect: Option<Dialect>,
    screen: Screen,
    line: Line,
    logging: &Logging,
) -> Result<(), Failure> {
    line.for_programs_at(&[&near, &far])?;
    let signals = Signals::listen()?;
    line.end_with_parent(&signals)?;
    let options = line.options(logging);
    // Connect the far side first, so that nothing is read from the near side before that.
    let far_endpoint = far;
    let far = lookup::connect(registry, &far_endpoint, &options).await?;
    // Check this first, because connecting takes over stdout.
    let is_terminal = matches!(near.address(), Address::Stdio) && std::io::stdout().is_terminal();
    let near_endpoint = near;
    let mut near = lookup::connect(registry, &near_endpoint, &options).await?;
    if is_terminal && !screen.raw {
        near = terminal::escaped(near);
    }
    let (tap, tap_end) = Tap::open_if_any(line.tap.as_deref())?;
    let (grace, isolated) = (line.grace(), line.is_isolated());
    let memory = Some(line.memory());
    let how =
        tieline_gateway::Bridge { tap, dialect, grace, isolated, memory, ..Default::default() };
    let report = tokio::select! {
        report = tieline_gateway::bridge(near, far, how, signals.first()) => report,
        () = signals.second() => return Err(Failure::other("stopped at once by a second signal")),
    };
    let recorded = signals.written(tap_end).await;
    tracing::debug!(
        to_far = report.to_far,
        to_near = report.to_near,
        lost = report.lost,
        unread = report.unread,
        "{}",
        report.end
    );
    outcome(&report, &near_endpoint, &far_endpoint, line.stderr(logging))?;
    recorded
}

/// Returns what the end of a bridge means for its command.
pub(crate) fn outcome(
    report: &BridgeReport,
    near_endpoint: &Endpoint,
    far_endpoint: &Endpoint,
    stderr: StderrMode,
) -> Result<(), Failure> {
    let is_stdout = matches!(near_endpoint.address(), Address::Stdio);
    match &report.end {
        BridgeEnd::Stopped(_) => return Err(Failure::other("stopped by a signal")),
        end if !end.is_clean() => {
            let endpoint =
                if let BridgeEnd::Near { .. } = end { near_endpoint } else { far_endpoint };
            let hint = end.hint().map(str::to_owned);
            let output = match end {
                BridgeEnd::Near { .. } if is_stdout => output_of(report),
                _ => String::new(),
            };
            return Err(Failure::Other {
                sentence: format!("{}: the line has ended: {end:#}{output}", endpoint.label()),
                stderr: last_lines(end.child_exit(), stderr),
                hint,
            });
        }
        _ => {}
    }
    let lost = match report.lost {
        0 => None,
        1 => Some("a message was not passed on".to_owned()),
        lost => Some(format!("{lost} messages were not passed on")),
    };
    let unread = match report.unread {
        0 => None,
        bytes => Some(format!(
            "the other side ended without reading the last {} of its input",
            Count(bytes, "byte")
        )),
    };
    match [lost, unread].into_iter().flatten().collect::<Vec<_>>().join(", and ") {
        nothing if nothing.is_empty() => Ok(()),
        losses => Err(Failure::other(format!("{}: {losses}", far_endpoint.label()))),
    }
}

/// Returns how much of the output reached stdout, as the end of a sentence.
fn output_of(report: &BridgeReport) -> String {
    let (written, unwritten) = (Count(report.written, "byte"), Count(report.unwritten, "byte"));
    match report.unwritten {
        0 => format!("; written to stdout: {written}"),
        _ => format!("; written to stdout: {written}, not written: at least {unwritten}"),
    }
}
