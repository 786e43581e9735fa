//! The files that may exist at the path before listening, and those that are left afterwards.

use std::os::unix::net::{UnixDatagram, UnixListener as StdListener, UnixStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use tieline_testkit::{helper, test_name, wait};
use tieline_transport::Listener;

use super::*;

fn is_in_use(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::AddressInUse)
}

fn is_not_a_socket(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotASocket)
}

#[tokio::test]
async fn live_socket_is_never_removed() {
    // None of these sockets has a lock file.
    let (_directory, path) = place();
    let live = StdListener::bind(&path).unwrap();
    let before = inode(&path);
    assert_error(&error_of(listen(&path).await), &path, is_in_use, "another path");
    assert_eq!(inode(&path), before);
    UnixStream::connect(&path).unwrap();
    drop(live);

    let (_directory, path) = place();
    let _datagram = UnixDatagram::bind(&path).unwrap();
    let before = inode(&path);
    assert_error(&error_of(listen(&path).await), &path, is_in_use, "another path");
    assert_eq!(inode(&path), before);
}

#[tokio::test]
async fn live_socket_with_a_full_backlog_is_never_removed() {
    let (_directory, path) = place();
    let (_live, _waiting) = scarcity::full_backlog(&path);
    let before = inode(&path);
    assert_error(&error_of(listen(&path).await), &path, is_in_use, "another path");
    assert_eq!(inode(&path), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn socket_that_is_bound_but_not_listening_yet_is_never_removed() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
    let (_directory, path) = place();
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let before = inode(&path);
    let error = error_of(listen(&path).await);
    assert!(matches!(error.kind(), ErrorKind::AddressInUse), "{error:?}");
    assert_eq!(inode(&path), before);
    drop(socket);
    wait::until_unheld(&path);
    listen(&path).await.unwrap();
}

#[tokio::test]
async fn dead_socket_is_replaced() {
    let (_directory, path) = place();
    wait::leave_dead_socket(&path);
    assert!(path.exists(), "std does not remove the socket");
    let mut listener = listen(&path).await.unwrap();
    let (near, far) = tokio::join!(connect(&path), listener.accept());
    near.unwrap();
    far.unwrap();
}

/// The kernel lists sockets by the names to which they were bound, which other sockets may also have.
#[tokio::test]
async fn dead_socket_is_replaced_even_if_live_ones_have_its_name() {
    let (_directory, path) = place();
    wait::leave_dead_socket(&path);
    let (_elsewhere, other) = place();
    let up: PathBuf = std::env::current_dir().unwrap().iter().skip(1).map(|_| "..").collect();
    let relative = up.join(other.strip_prefix("/").unwrap());
    let listening = StdListener::bind(&relative).unwrap();
    let _near = std::os::unix::net::UnixStream::connect(&relative).unwrap();
    let _accepted = listening.accept().unwrap();
    assert_eq!(other.file_name(), path.file_name());
    listen(&path).await.unwrap();
}

#[tokio::test]
async fn files_that_are_not_sockets_are_not_changed() {
    type Make = fn(&Path);
    let makes: [(&str, Make); 6] = [
        ("a file", |path| std::fs::write(path, "precious").unwrap()),
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a named pipe", |path| {
            let kind = rustix::fs::FileType::Fifo;
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }),
        ("a link to a file", |path| {
            std::fs::write(path.with_extension("file"), "precious").unwrap();
            std::os::unix::fs::symlink(path.with_extension("file"), path).unwrap();
        }),
        ("a link to a dead socket", |path| {
            wait::leave_dead_socket(&path.with_extension("dead"));
            std::os::unix::fs::symlink(path.with_extension("dead"), path).unwrap();
        }),
        ("a link to nothing", |path| {
            std::os::unix::fs::symlink(path.with_extension("nothing"), path).unwrap();
        }),
    ];
    for (what, make) in makes {
        let (directory, path) = place();
        make(&path);
        let before = (inode(&path), entries(directory.path()));
        let error = error_of(listen(&path).await);
        assert_error(&error, &path, is_not_a_socket, "another path");
        assert_eq!((inode(&path), entries(directory.path())), before, "{what}: files changed");
    }
}

#[tokio::test]
async fn link_in_place_of_the_lock_file_is_not_followed() {
    let (directory, path) = place();
    let target = directory.path().join("precious");
    std::os::unix::fs::symlink(&target, lock_file(&path)).unwrap();
    let error = error_of(listen(&path).await);
    assert!(!error.is_retryable(), "{error:?}");
    assert!(!target.exists() && !path.exists());
}

#[test]
fn exactly_one_of_fifty_simultaneous_listeners_wins() {
    const STARTERS: usize = 50;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..20 {
        let (_directory, path) = place();
        if round % 2 == 1 {
            wait::leave_dead_socket(&path);
        }
        let barrier = Barrier::new(STARTERS);
        let start = || {
            barrier.wait();
            runtime.block_on(listen(&path))
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(winners.len(), 1, "round {round}");
        for loser in losers {
            assert_error(&error_of(loser), &path, is_in_use, "another path");
        }
        // The socket at the path belongs to the winner.
        let mut winner = winners.into_iter().next().unwrap().unwrap();
        let (near, far) = runtime.block_on(async { tokio::join!(connect(&path), winner.accept()) });
        near.unwrap();
        far.unwrap();
    }
}

#[tokio::test]
async fn child_does_not_keep_the_lock() {
    let (_directory, path) = place();
    let listener = listen(&path).await.unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    drop(listener);
    let again = listen(&path).await;
    child.kill().unwrap();
    child.wait().unwrap();
    again.unwrap();
}

#[test]
fn children_being_started_do_not_keep_the_lock() {
    let (_directory, path) = place();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let failed = block_on(async {
            for _ in 0..5000 {
                if let Err(error) = listen(&path).await {
                    return Some(error);
                }
            }
            None
        });
        is_done.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

#[tokio::test]
async fn dropping_removes_the_socket_and_its_empty_lock_file() {
    let (directory, path) = place();
    let listener = listen(&path).await.unwrap();
    assert_eq!(std::fs::read(lock_file(&path)).unwrap(), b"");
    drop(listener);
    assert!(entries(directory.path()).is_empty());
}

#[tokio::test]
async fn dropping_removes_only_its_own_socket() {
    for replace in [
        |path: &Path| drop(StdListener::bind(path).unwrap()),
        |path: &Path| std::fs::write(path, "precious").unwrap(),
        |path: &Path| std::fs::create_dir(path).unwrap(),
    ] {
        let (directory, path) = place();
        let listener = listen(&path).await.unwrap();
        // The socket is moved and not removed, so that its inode is not reused.
        std::fs::rename(&path, directory.path().join("aside")).unwrap();
        replace(&path);
        let before = inode(&path);
        drop(listener);
        assert_eq!(inode(&path), before);
    }
}

#[test]
fn relative_path_is_removed_after_a_change_of_directory() {
    let mut helper = helper::plain(test_name!(), || {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            std::env::set_current_dir(directory.path()).unwrap();
            let mut listener = listen(Path::new("socket")).await.unwrap();
            let (near, far) = tokio::join!(connect(Path::new("socket")), listener.accept());
            near.unwrap();
            far.unwrap();
            std::env::set_current_dir("/").unwrap();
            drop(listener);
            assert!(entries(directory.path()).is_empty());
        });
    });
    helper::succeeds(&mut helper);
}

#[tokio::test]
async fn each_listen_failure_has_its_own_error() {
    let (directory, _) = place();
    let long = directory.path().join("x".repeat(108));
    let missing = directory.path().join("missing/socket");
    std::fs::write(directory.path().join("file"), "").unwrap();
    let below_a_file = directory.path().join("file/socket");
    type Case<'a> = (&'a Path, fn(&ErrorKind) -> bool, &'a str);
    let cases: [Case<'_>; 3] = [
        (&long, |kind| matches!(kind, ErrorKind::PathTooLong { limit: 107, .. }), "shorter"),
        (&missing, |kind| matches!(kind, ErrorKind::DirectoryMissing(_)), "mkdir"),
        (&below_a_file, |kind| matches!(kind, ErrorKind::DirectoryMissing(_)), "mkdir"),
    ];
    for (path, kind, hint) in cases {
        assert_error(&error_of(listen(path).await), path, kind, hint);
    }
    assert_eq!(entries(directory.path()), [directory.path().join("file")]);
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}
