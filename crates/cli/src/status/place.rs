//! Where a server is asked: a socket named after its process, in the user's own directory.

use std::path::{Path, PathBuf};

use tieline_transport::{
    BoxChannel, DynAcceptor, Endpoint, ErrorKind, Options, Registry, TransportError,
};

use crate::rendezvous;

/// No default socket of a server ends like this.
const ENDING: &str = ".status";

/// How many processes of one number may be there: in containers that share the directory.
const MAX_ATTEMPTS: u32 = 8;

/// How many names of a directory are looked at.
const MAX_NAMES: usize = 4096;

/// A socket of our own. Dropping it removes it, and the lock beside it.
pub(super) struct Place {
    /// There until it is dropped.
    acceptor: Option<Box<dyn DynAcceptor>>,
    lock: PathBuf,
}

impl Place {
    /// Listens, and removes what servers that were killed have left.
    pub(super) async fn take(registry: &Registry) -> Result<Self, String> {
        let directory = rendezvous::directory()?;
        for (_, path) in in_directory(&directory) {
            // One that lives cannot be listened on; of one that does not, this removes everything.
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
        Err(format!("{MAX_ATTEMPTS} sockets of this process's number are in use"))
    }

    async fn listen(registry: &Registry, path: PathBuf) -> Result<Self, TransportError> {
        let acceptor = registry.listen(&Endpoint::unix(&path), &Options::default()).await?;
        let mut lock = path.into_os_string();
        lock.push(".lock");
        Ok(Self { acceptor: Some(acceptor), lock: lock.into() })
    }

    /// The next who asks.
    pub(super) async fn accept(&mut self) -> Result<BoxChannel, TransportError> {
        match &mut self.acceptor {
            Some(acceptor) => acceptor.accept().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.acceptor = None;
        // Elsewhere a lock stays, because somebody may be about to take it. Here nobody waits for a name
        // with a number in it, and one would be left for every process that ever served.
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Where they are looked for, for people.
pub(super) fn name() -> String {
    rendezvous::place().display().to_string()
}

/// The servers of this user that may be there, and those that were killed.
pub(super) fn all() -> Result<Vec<(u32, Endpoint)>, String> {
    let Some(directory) = rendezvous::existing()? else { return Ok(Vec::new()) };
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

/// The number in a socket's name.
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
    fn a_name_says_whose_it_is() {
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
