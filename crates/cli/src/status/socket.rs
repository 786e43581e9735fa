//! The socket that receives status requests. It is named after the server's PID and is in the user's
//! runtime directory.

use std::path::{Path, PathBuf};

use tieline_transport::{
    BoxChannel, DynAcceptor, Endpoint, ErrorKind, Options, Registry, TransportError,
};

use crate::names;

/// The suffix of status sockets. Sockets with a server's name never end with it.
const ENDING: &str = ".status";

/// The maximum number of processes with the same PID, in different containers, that share the directory.
const MAX_ATTEMPTS: u32 = 8;

/// The maximum number of status sockets in the directory that are considered.
const MAX_NAMES: usize = 4096;

/// This server's socket. Dropping it removes the socket.
pub(super) struct StatusSocket(Box<dyn DynAcceptor>);

impl StatusSocket {
    /// Starts listening, and removes the sockets of servers that were killed.
    pub(super) async fn take(registry: &Registry) -> Result<Self, String> {
        let directory = names::directory()?;
        for (_, path) in in_directory(&directory) {
            // Listening fails if the socket's server is running. Otherwise, dropping the listener
            // removes the files.
            drop(Self::listen(registry, path).await);
        }
        let pid = std::process::id();
        for number in 1..=MAX_ATTEMPTS {
            let name = match number {
                1 => format!("{pid}{ENDING}"),
                _ => format!("{pid}-{number}{ENDING}"),
            };
            match Self::listen(registry, directory.join(name)).await {
                Err(error) if matches!(error.kind(), ErrorKind::AddressInUse) => {}
                taken => return taken.map_err(|error| error.to_string()),
            }
        }
        Err(format!("{MAX_ATTEMPTS} status sockets for PID {pid} are in use"))
    }

    async fn listen(registry: &Registry, path: PathBuf) -> Result<Self, TransportError> {
        registry.listen(&Endpoint::unix(path), &Options::default()).await.map(Self)
    }

    /// Accepts the next connection.
    pub(super) async fn accept(&mut self) -> Result<BoxChannel, TransportError> {
        self.0.accept().await
    }
}

/// Returns the name of the directory of status sockets, for messages.
pub(super) fn directory_name() -> String {
    names::path().display().to_string()
}

/// Returns the PIDs and status endpoints of this user's servers, including servers that were killed.
pub(super) fn all() -> Result<Vec<(u32, Endpoint)>, String> {
    let Some(directory) = names::existing()? else { return Ok(Vec::new()) };
    let all = in_directory(&directory).into_iter();
    Ok(all.map(|(pid, path)| (pid, Endpoint::unix(path))).collect())
}

fn in_directory(directory: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid = pid(entry.file_name().to_str()?)?;
        Some((pid, entry.path()))
    });
    found.take(MAX_NAMES).collect()
}

/// Returns the PID in a socket's name.
fn pid(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(ENDING)?;
    let (pid, number) = stem.split_once('-').unwrap_or((stem, "1"));
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_is_parsed_from_the_socket_name() {
        for (name, expected) in [
            ("12.status", Some(12)),
            ("12-2.status", Some(12)),
            ("12.status.lock", None),
            ("12.sock", None),
            ("agent.status", None),
            ("12-agent.status", None),
            (".status", None),
            ("99999999999.status", None),
        ] {
            assert_eq!(pid(name), expected, "{name}");
        }
    }
}
