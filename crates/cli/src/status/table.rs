//! Formats status responses as text.

use std::time::Duration;

use serde_json::Value;

use tieline_proto::Count;

use super::response::{
    Breaker, Identity, Line, Memory, Program, Programs, ServerStatus, Session, ago,
};

/// Formats each server, with a table of its clients.
pub(super) fn of(answers: &[Value]) -> String {
    let mut text = String::new();
    for answer in answers {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&server(&ServerStatus::parse(answer)));
    }
    text
}

fn server(status: &ServerStatus) -> String {
    let ServerStatus { pid, command, connections, totals, lines, .. } = status;
    let mut text =
        format!("{command}: pid {pid}, up {}, tieline {}\n", time(&status.since), status.version,);
    if let Some(name) = &status.name {
        text.push_str(&format!("  name: {name}\n"));
    }
    text.push_str(&format!("  listening on {}\n", status.listeners.join(" ")));
    text.push_str(&format!(
        "  clients: {} now, {} in total, {} refused; failed lines: {}; restarts: {}\n",
        connections.now, connections.ever, connections.refused, totals.failed, totals.restarts
    ));
    text.push_str(&format!(
        "  messages: {} in, {} out, {} lost, {} faults; bytes: {} in, {} out\n",
        totals.messages_in,
        totals.messages_out,
        totals.lost,
        totals.faults,
        totals.bytes_in,
        totals.bytes_out
    ));
    if let Some(Memory { used_bytes, limit_bytes, refused }) = &status.memory {
        let mib = |bytes: &u64| bytes.div_ceil(1 << 20);
        text.push_str(&format!(
            "  memory for messages and queues: {} MiB of {} MiB; lines ended at the limit: {refused}\n",
            mib(used_bytes),
            mib(limit_bytes)
        ));
    }
    if let Some(Programs { process, running, limit, warm, in_use }) = &status.programs {
        let uses = warm.zip(*in_use);
        let uses =
            uses.map_or_else(String::new, |(warm, used)| format!(", {warm} warm, {used} in use"));
        text.push_str(&format!(
            "  programs ({process}): {running} running{uses}, at most {limit}\n"
        ));
    }
    if let Some(Breaker { state, retry_in_ms }) = &status.breaker {
        let again = retry_in_ms.map(|left| rounded(Duration::from_millis(left)));
        let again = again.map_or_else(String::new, |left| format!("; next attempt in {left}"));
        text.push_str(&format!("  the program fails to start: breaker {state}{again}\n"));
    }
    if !lines.is_empty() {
        let head = ["LINE", "CLIENT", "AGE", "IDLE", "MESSAGES", "BYTES", "FAULTS", "PROGRAM"];
        let rows = std::iter::once(head.map(str::to_owned)).chain(lines.iter().map(row));
        text.push_str(&aligned(&rows.collect::<Vec<_>>()));
    }
    let sessions = lines.iter().filter_map(|line| line.session.as_ref().map(|it| (line.id, it)));
    let rows: Vec<_> = sessions.map(|(id, session)| of_session(id, session)).collect();
    if !rows.is_empty() {
        let head = ["LINE", "SESSION", "UNACKNOWLEDGED", "QUEUED", "ACKNOWLEDGED AFTER"];
        let rows = std::iter::once(head.map(str::to_owned)).chain(rows);
        text.push_str(&aligned(&rows.collect::<Vec<_>>()));
    }
    if status.lines_left_out > 0 {
        text.push_str(&format!("  and {} more\n", status.lines_left_out));
    }
    text
}

fn row(line: &Line) -> [String; 8] {
    [
        line.id.to_string(),
        client(line),
        time(&line.since),
        time(&line.last_activity),
        format!("{} in, {} out", line.messages_in, line.messages_out),
        format!("{} in, {} out", line.bytes_in, line.bytes_out),
        line.faults.to_string(),
        line.program.as_ref().map_or_else(|| "not started".into(), program),
    ]
}

fn of_session(line: u64, session: &Session) -> [String; 5] {
    let state = if session.connected { "connected" } else { "disconnected" };
    let time = |micros: u64| {
        let time = Duration::from_micros(micros);
        // Keep three significant digits.
        let step = 10_u64.pow(micros.checked_ilog10().unwrap_or_default().saturating_sub(2));
        let rounded = Duration::from_micros(micros / step * step);
        humantime::format_duration(if micros < 1_000 { time } else { rounded }).to_string()
    };
    let latency = match session.measured {
        0 => "not measured yet".into(),
        _ => format!(
            "p50 {}, p99 {}, max {}",
            time(session.latency_p50_us),
            time(session.latency_p99_us),
            time(session.latency_max_us)
        ),
    };
    let messages = Count(session.kept_messages, "message");
    [
        line.to_string(),
        format!("connection {}, {state}", session.epoch),
        format!("{messages}, {}", Count(session.kept_bytes, "byte")),
        Count(session.waiting_messages, "message").to_string(),
        latency,
    ]
}

fn client(line: &Line) -> String {
    let mut words = vec![line.kind.clone()];
    if let Some(Identity { pid, uid, user, .. }) = &line.peer {
        words.extend(pid.map(|pid| format!("pid {pid}")));
        words.extend(uid.map(|uid| format!("uid {uid}")));
        words.extend(user.as_ref().map(|user| format!("user {user}")));
    }
    words.join(" ")
}

fn program(program: &Program) -> String {
    let Program { state, pid, restarts, retry_in_ms, cause } = program;
    let mut words = vec![state.clone()];
    words.extend(pid.map(|pid| format!("pid {pid}")));
    words.extend(
        retry_in_ms.map(|left| format!("restart in {}", rounded(Duration::from_millis(left)))),
    );
    words.extend((*restarts > 0).then(|| format!("restarts {restarts}")));
    words.extend(cause.as_ref().map(|cause| cause.replace('\n', " ")));
    words.join(", ")
}

/// Formats the time that has passed since `time`.
fn time(time: &str) -> String {
    ago(time).map_or_else(|| "?".into(), rounded)
}

/// Formats a time in whole seconds, or in milliseconds if it is less than a second.
fn rounded(time: Duration) -> String {
    let time = match time.as_secs() {
        0 => Duration::from_millis(u64::from(time.subsec_millis())),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(time).to_string()
}

/// Pads each column to its widest cell, without trailing spaces.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(&format!("  {}\n", line.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "é", "c"], ["1", "long", "22"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "  a  é     c\n  1  long  22\n");
    }

    #[test]
    fn control_characters_in_a_response_are_escaped() {
        let answer = json!({ "pid": 7, "command": "a\ngent\u{1b}[1m", "lines": [
            { "id": 1, "kind": "unix", "program": { "state": "ended", "cause": "x\nLINE\u{9b}" } },
        ] });
        let text = of(&[answer]);
        assert!(text.starts_with("a\\ngent\\u001b[1m: pid 7"), "{text}");
        assert!(text.contains("x\\nLINE\\u009b\n"), "{text}");
    }

    #[test]
    fn known_fields_of_responses_from_other_versions_are_shown() {
        let newer = json!({ "pid": 7, "command": "agent", "sessions": 3, "lines": [
            { "id": 1, "kind": "unix", "latency": {}, "program": { "state": "backoff",
              "retry_in_ms": 1500, "restarts": 2, "cause": "the child ended" } },
        ] });
        let text = of(&[newer, json!("nonsense")]);
        assert!(text.starts_with("agent: pid 7, up ?, tieline \n"), "{text}");
        assert!(text.contains("backoff, restart in 1s, restarts 2, the child ended\n"), "{text}");
    }
}
