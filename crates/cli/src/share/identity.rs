//! Which clients share a server: the key, and the name that is derived with it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ring::hmac::{Context, HMAC_SHA256, Key};

use crate::names::Name;

/// Variables that differ between the terminals, panes, traces and sessions of a user, or that shells set. `PWD` is
/// among them because some hosts change the directory without it; the directory itself counts. Claude Code gives
/// each of its sessions other values of the variables with its name. The last three are only for tieline.
pub(super) const IGNORED: [&str; 42] = [
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "COLUMNS",
    "LINES",
    "WINDOWID",
    "TERM_SESSION_ID",
    "ITERM_SESSION_ID",
    "WT_SESSION",
    "KITTY_WINDOW_ID",
    "WEZTERM_PANE",
    "ALACRITTY_WINDOW_ID",
    "GNOME_TERMINAL_SCREEN",
    "KONSOLE_DBUS_SESSION",
    "KONSOLE_DBUS_WINDOW",
    "SHELL_SESSION_ID",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "ZELLIJ_PANE_ID",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "GPG_TTY",
    "TRACEPARENT",
    "TRACESTATE",
    "BAGGAGE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "DESKTOP_STARTUP_ID",
    "XDG_ACTIVATION_TOKEN",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS",
    "CLAUDE_CODE_CHILD_NOTES_DIR",
    "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_SSE_PORT",
    "TIELINE_TOKEN",
    "TIELINE_HEADERS",
    "TIELINE_PASSWORD",
];

const KEY_LENGTH: usize = 32;

/// The number of bytes of the digest in a name, which has two digits for each.
const NAME_BYTES: usize = 16;

/// What clients must have in common to share a server.
pub(super) struct Identity<'a> {
    pub(super) dialect: &'a str,
    pub(super) command: &'a [OsString],
    pub(super) directory: &'a Path,
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Identity<'_> {
    /// Returns the name of the server for these clients. `directory` has the key.
    ///
    /// # Errors
    /// The key cannot be created or read.
    pub(super) fn name(mut self, directory: &Path, ignored: &[String]) -> Result<Name, String> {
        let path = directory.join("share.key");
        let key = key(&path)?;
        self.environment.retain(|(name, _)| !ignored.iter().any(|it| name == OsStr::new(it)));
        self.environment.sort();
        let mut digest = Context::with_key(&Key::new(HMAC_SHA256, &key));
        let mut add = |bytes: &[u8]| {
            // With the lengths, no two identities are the same text.
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        add(self.dialect.as_bytes());
        add(self.directory.as_os_str().as_bytes());
        add(&(self.command.len() as u64).to_be_bytes());
        self.command.iter().for_each(|word| add(word.as_bytes()));
        for (name, value) in &self.environment {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        let digest = digest.sign();
        let digits = digest.as_ref().iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}"));
        let name = format!("{}{}", super::PREFIX, digits.collect::<String>());
        Name::new(&name).ok_or_else(|| "the name of a shared program is too long".into())
    }
}

/// Returns the environment without the [`IGNORED`] variables.
pub(super) fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| !IGNORED.iter().any(|it| name == OsStr::new(it)))
        .collect()
}

/// Reads the key, or creates it. Of several processes that create it at once, all get the same.
fn key(path: &Path) -> Result<[u8; KEY_LENGTH], String> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        create_key(path).map_err(|error| {
            let shown = path.display();
            format!("cannot create the key for names of shared programs, {shown}: {error}")
        })?;
    }
    read_key(path).map_err(|error| {
        let shown = path.display();
        format!(
            "the key for names of shared programs, {shown}, cannot be used: {error}. Remove it, and the next \
             `tieline share` creates another"
        )
    })
}

/// Creates the key, unless another process has just created it.
fn create_key(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    // The file appears under its name with its whole content.
    let own = path.with_extension(format!("key-{}", std::process::id()));
    let _ = fs::remove_file(&own);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    let linked = file.write_all(&key).and_then(|()| fs::hard_link(&own, path));
    let _ = fs::remove_file(&own);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn read_key(path: &Path) -> io::Result<[u8; KEY_LENGTH]> {
    let mut file = super::open_regular(OpenOptions::new().read(true), path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("other users may have access to it"));
    }
    if metadata.len() != KEY_LENGTH as u64 {
        return Err(io::Error::other("it does not have the length of a key"));
    }
    let mut key = [0; KEY_LENGTH];
    file.read_exact(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn all_processes_that_create_the_key_at_once_use_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("share.key");
        let first = key(&path).unwrap();
        assert!(first != [0; KEY_LENGTH] && key(&path).unwrap() == first);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn key_that_others_can_read_or_that_was_cut_off_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("share.key");
        key(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(key(&path).unwrap_err().contains("other users"));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(key(&path).unwrap_err().contains("length of a key"));
    }

    #[test]
    fn key_that_is_no_regular_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("share.key");
        let mut mkfifo = std::process::Command::new("mkfifo");
        assert!(mkfifo.args(["-m", "600"]).arg(&path).status().unwrap().success());
        assert!(key(&path).unwrap_err().contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(directory.path().join("missing"), &path).unwrap();
        assert!(key(&path).unwrap_err().contains("Remove it"));
        assert!(!directory.path().join("missing").exists());
        let missing = directory.path().join("missing/share.key");
        assert!(key(&missing).unwrap_err().starts_with("cannot create the key"));
    }

    #[test]
    fn name_depends_on_all_that_clients_must_have_in_common() {
        let place = tempfile::tempdir().unwrap();
        let name = |dialect, command: &[&str], directory: &str, variables: &[(&str, &str)]| {
            let command: Vec<OsString> = command.iter().map(OsString::from).collect();
            let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
            let (directory, environment) = (Path::new(directory), environment.collect());
            let identity = Identity { dialect, command: &command, directory, environment };
            identity.name(place.path(), &["I".into()]).unwrap().to_string()
        };
        let base = name("mcp", &["a", "b"], "/d", &[("A", "1"), ("B", "2")]);
        assert!(base.starts_with("share-") && base.len() == 38, "{base}");
        assert_eq!(name("mcp", &["a", "b"], "/d", &[("B", "2"), ("I", "x"), ("A", "1")]), base);
        let others = [
            name("strict", &["a", "b"], "/d", &[("A", "1"), ("B", "2")]),
            name("mcp", &["ab"], "/d", &[("A", "1"), ("B", "2")]),
            name("mcp", &["a"], "/d", &[("b", "A"), ("1", "B")]),
            name("mcp", &["a", "b"], "/e", &[("A", "1"), ("B", "2")]),
            name("mcp", &["a", "b"], "/d", &[("A", "1"), ("B", "3")]),
            name("mcp", &["a", "b"], "/d", &[("A", "1")]),
        ];
        assert!(others.iter().all(|it| *it != base), "{others:?}");
    }
}
