//! Looking up sockets by name in the kernel's list (proc_net_unix(5)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    Listening,
    /// The socket is bound to its name but is not listening yet.
    Bound,
}

/// Returns the state of the stream socket at `path`, if one exists. If there are several, `Bound` takes
/// precedence over `Listening`. The list contains names as they were bound, so a relative name is
/// compared only by its last part and may be a different socket.
pub(super) fn find(path: &Path) -> Option<Held> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    search(&std::fs::read("/proc/net/unix").ok()?, &absolute)
}

fn search(list: &[u8], path: &Path) -> Option<Held> {
    list.split(|byte| *byte == b'\n').filter_map(|line| held(line, path)).max()
}

/// Returns the state of `path` if this line of the list describes it. Accepted connections have the name
/// of their listener and are ignored.
fn held(line: &[u8], path: &Path) -> Option<Held> {
    const STREAM: &[u8] = b"0001";
    const UNCONNECTED: &[u8] = b"01";
    let ([_, _, _, flags, kind, state, _], name) = columns(line);
    let name = Path::new(OsStr::from_bytes(name));
    let is_it = match name.is_absolute() {
        true => name == path,
        false => name.file_name().is_some() && name.file_name() == path.file_name(),
    };
    let listens = flags == b"00010000";
    (is_it && kind == STREAM && state == UNCONNECTED).then_some(if listens {
        Held::Listening
    } else {
        Held::Bound
    })
}

/// Splits a line into its seven columns and the name.
fn columns(line: &[u8]) -> ([&[u8]; 7], &[u8]) {
    let mut columns = [&b""[..]; 7];
    let mut rest = line;
    for column in &mut columns {
        let begin = rest.trim_ascii_start();
        let end = begin.iter().position(|byte| *byte == b' ').unwrap_or(begin.len());
        (*column, rest) = begin.split_at_checked(end).unwrap_or((begin, b""));
    }
    (columns, rest.strip_prefix(b" ").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
00000000aa09f37f: 00000003 00000000 00000000 0001 03   101 /run/served
00000000f91642dc: 00000002 00000000 00010000 0001 01   102 /run/served
00000000f91642dd: 00000002 00000000 00010000 0001 01   103 other
00000000f91642de: 00000002 00000000 00000000 0001 01   104 /run/with a blank
00000000f91642df: 00000003 00000000 00000000 0001 03   105 /run/connected
00000000f91642e0: 00000002 00000000 00000000 0002 01   106 /run/datagrams
00000000f91642e1: 00000002 00000000 00000000 0001 01   107
00000000f91642e2: 00000002 00000000 00000000 0001 01   108 below/twice
00000000f91642e3: 00000002 00000000 00010000 0001 01   109 /run/twice
";

    #[test]
    fn kernel_list_shows_the_state_of_sockets() {
        for (path, expected) in [
            ("/run/served", Some(Held::Listening)),
            ("/elsewhere/served", None),
            ("/run/other", Some(Held::Listening)),
            ("/run/with a blank", Some(Held::Bound)),
            ("/run/connected", None),
            ("/run/datagrams", None),
            ("/run/nobody", None),
            ("/run/twice", Some(Held::Bound)),
            ("/", None),
        ] {
            assert_eq!(search(LIST.as_bytes(), Path::new(path)), expected, "{path}");
        }
    }
}
