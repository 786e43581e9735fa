//! Checks on Unix systems.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::{limits, names};

/// How the processes of a program are contained.
pub(super) const HELD: &str = if cfg!(target_os = "linux") {
    "started under a guardian, which ends everything that they start"
} else {
    "started under a guardian, which ends their process group"
};

/// The number of descriptors for a client with a program.
const FILES_PER_CLIENT: u64 = 5;
/// The number of descriptors of a server without clients.
const FILES_OF_SERVER: u64 = 24;

/// Checks the limits of this process. The check itself needs no runtime.
pub(super) fn limits() -> Vec<Finding> {
    let files = getrlimit(Resource::Nofile);
    vec![files_for(files.current, files.maximum), threads()]
}

fn files_for(limit: Option<u64>, most: Option<u64>) -> Finding {
    const CHECK: &str = "open files";
    let Some(limit) = limit else { return Finding::ok(CHECK, "no limit") };
    let clients = limit.saturating_sub(FILES_OF_SERVER) / FILES_PER_CLIENT;
    let found = format!("at most {limit}, enough for about {clients} clients with a program each");
    let advice = match most.filter(|most| *most <= limit) {
        Some(_) => "the administrator can raise the limit (ulimit -H -n, LimitNOFILE=)".to_owned(),
        None => "raise it with ulimit -n, or LimitNOFILE= in a service".to_owned(),
    };
    match limit {
        0..64 => Finding::problem(CHECK, found, advice),
        64..1024 => Finding::warning(CHECK, found, advice),
        _ => Finding::ok(CHECK, found),
    }
}

fn threads() -> Finding {
    const CHECK: &str = "threads";
    match limits::check(true) {
        Ok(()) => Finding::ok(CHECK, "as many as a server needs"),
        Err(failure) => {
            Finding::problem(CHECK, failure.sentence(), "no command can run within these limits")
        }
    }
}

/// Checks that lines can be created.
pub(super) async fn lines() -> Vec<Finding> {
    let mut findings = Vec::new();
    const CHECK: &str = "runtime directory";
    match names::directory() {
        Ok(directory) => {
            findings.push(Finding::ok(CHECK, directory.display().to_string()));
            // The name is as long as that of a socket with the longest name.
            let name = format!("{:x<40}.sock", format!(".doctor-{}", std::process::id()));
            let path = directory.join(name);
            let listening = UnixListener::bind(&path);
            let talked =
                listening.and_then(|listener| talk(&listener, || UnixStream::connect(&path)));
            let _ = std::fs::remove_file(&path);
            findings.push(match talked {
                Ok(()) => Finding::ok("Unix sockets", "usable in the runtime directory"),
                Err(error) => Finding::problem(
                    "Unix sockets",
                    format!("none can be created at {}: {error}", path.display()),
                    "make the directory writable for your user, set XDG_RUNTIME_DIR to another one with a \
                     short path, or pass --listen",
                ),
            });
        }
        Err(why) => findings.push(Finding::problem(
            CHECK,
            why,
            "correct that, set XDG_RUNTIME_DIR to a directory of your own, or pass --listen",
        )),
    }
    #[cfg(target_os = "linux")]
    findings.push(abstract_sockets());
    findings
}

/// Sends a byte over a new connection.
fn talk(
    listener: &UnixListener,
    connect: impl FnOnce() -> std::io::Result<UnixStream>,
) -> std::io::Result<()> {
    // The connection waits in the backlog, so one thread is enough.
    let mut client = connect()?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"x")?;
    server.read_exact(&mut [0])
}

#[cfg(target_os = "linux")]
fn abstract_sockets() -> Finding {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    const CHECK: &str = "abstract sockets";
    let name = format!("tieline-doctor-{}", std::process::id());
    let talked = SocketAddr::from_abstract_name(name).and_then(|address| {
        let listener = UnixListener::bind_addr(&address)?;
        talk(&listener, || UnixStream::connect_addr(&address))
    });
    match talked {
        Ok(()) => Finding::ok(CHECK, "unix:@NAME works"),
        Err(error) => Finding::warning(
            CHECK,
            format!("unix:@NAME does not work: {error}"),
            "use a path (unix:/run/a.sock)",
        ),
    }
}

/// Checks the other ways to contain programs.
pub(super) async fn containment() -> Vec<Finding> {
    #[cfg(target_os = "linux")]
    return vec![orphans(), cgroups(), super::isolation().await];
    #[cfg(not(target_os = "linux"))]
    Vec::new()
}

#[cfg(target_os = "linux")]
fn orphans() -> Finding {
    const CHECK: &str = "orphans";
    match tieline_transport::adopt_orphans() {
        Ok(()) => Finding::ok(CHECK, "processes of a killed guardian are ended (subreaper)"),
        Err(error) => Finding::warning(
            CHECK,
            format!("processes of a killed guardian are not found: {error}"),
            "use a kernel or container that permits prctl(PR_SET_CHILD_SUBREAPER)",
        ),
    }
}

#[cfg(target_os = "linux")]
fn cgroups() -> Finding {
    const CHECK: &str = "cgroups";
    match tieline_transport::check_cgroup() {
        Ok(()) => Finding::ok(CHECK, "each program gets its own, which the kernel kills at once"),
        Err(error) => Finding::warning(
            CHECK,
            format!("none can be created ({error}), so guardians search for processes instead"),
            "to use them, start tieline in a delegated cgroup: systemd-run --user --scope -p Delegate=yes \
             tieline …",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn low_limits_of_open_files_are_reported() {
        for (limit, most, state, says) in [
            (None, None, State::Ok, "no limit"),
            (Some(1 << 20), None, State::Ok, "209710 clients"),
            (Some(1024), Some(4096), State::Ok, "200 clients"),
            (Some(1023), Some(4096), State::Warning, "raise it with ulimit -n"),
            (Some(256), Some(256), State::Warning, "administrator"),
            (Some(63), None, State::Problem, "ulimit -n"),
            (Some(0), Some(0), State::Problem, "about 0 clients"),
        ] {
            let finding = files_for(limit, most);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.line().contains(says), "{finding:?}");
        }
    }
}
