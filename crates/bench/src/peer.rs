//! The other process of a row: this program with a hidden subcommand.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;

use tempfile::TempDir;
use tieline_proto::Framing;
use tieline_transport::{ChannelConfig, Framed, FramedAcceptor, Unix, UnixConfig, UnixListener};

use crate::compare::{RUNTIME, Result, runtime};
use crate::running::Running;

/// A function that listens on the socket and serves until the peer is killed.
pub(crate) type Role = fn(PathBuf) -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// A running peer, which is killed on drop.
pub(crate) struct Peer {
    process: Running,
    directory: TempDir,
}

impl Peer {
    /// Starts a peer and waits until it is listening.
    pub(crate) fn start(role: &str) -> Result<Self> {
        Self::start_on(role, "")
    }

    /// Starts a peer on a runtime, as a value of the variable that selects it.
    pub(crate) fn start_on(role: &str, runtime: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peer", role]).arg(socket_in(directory.path())).env(RUNTIME, runtime);
        let mut process = Running::start(&mut command)?;
        match process.hear()?.as_str() {
            READY => Ok(Self { process, directory }),
            other => Err(format!("unexpected line from the peer: {other:?}").into()),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("bench.sock")
}

const READY: &str = "ready";

/// Reports that the peer is listening.
pub(crate) fn announce() -> Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    Ok(stdout.flush()?)
}

/// Listens with tieline's defaults, and reports that it is listening.
pub(crate) async fn listen<F: Framing>(
    socket: PathBuf,
    framing: F,
) -> Result<FramedAcceptor<UnixListener, F>> {
    let acceptor = connector(socket, framing)?.listen().await?;
    announce()?;
    Ok(acceptor)
}

/// Listens without tieline, and reports that it is listening.
pub(crate) fn listen_raw(socket: PathBuf) -> Result<tokio::net::UnixListener> {
    let listener = tokio::net::UnixListener::bind(socket)?;
    announce()?;
    Ok(listener)
}

/// Returns tieline's typed connector for a socket, with the defaults.
pub(crate) fn connector<F: Framing>(socket: PathBuf, framing: F) -> Result<Framed<Unix, F>> {
    Ok(Framed::new(Unix, UnixConfig::new(socket), framing, ChannelConfig::default())?)
}

/// Runs the peer until its parent closes its stdin.
pub(crate) fn run(role: Role, socket: PathBuf) -> Result<()> {
    let made = socket.clone();
    let end = std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        remove(&made);
        std::process::exit(0);
    });
    runtime()?.block_on(role(socket))?;
    // A role that served a single client returns before it gets the request to exit.
    let _ = end.join();
    Ok(())
}

/// Removes the files that a peer creates, and no others, in case the parent cannot remove them.
fn remove(socket: &Path) {
    let _ = std::fs::remove_file(socket);
    let _ = std::fs::remove_file(socket.with_extension("sock.lock"));
    let _ = std::fs::remove_file(socket.with_extension("port"));
    if let Some(directory) = socket.parent() {
        let _ = std::fs::remove_dir(directory);
    }
}
