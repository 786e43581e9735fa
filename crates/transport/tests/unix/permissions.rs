//! The socket is accessible only to its owner at every moment.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use tieline_testkit::{helper, test_name};

use super::*;

#[test]
fn socket_is_private_at_every_moment_with_any_umask() {
    // The umask applies to the whole process.
    let mut helper = helper::plain(test_name!(), || {
        rustix::process::umask(rustix::fs::Mode::empty());
        let (_directory, path) = place();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = 0;
                while !is_done.load(Ordering::Relaxed) {
                    let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
                    assert!(found.file_type().is_socket());
                    assert_eq!(found.mode() & 0o7777, 0o600);
                    seen += 1;
                }
                seen
            });
            block_on(async {
                for _ in 0..5000 {
                    drop(listen(&path).await.unwrap());
                }
            });
            is_done.store(true, Ordering::Relaxed);
            assert!(watcher.join().unwrap() > 0, "the socket was never seen");
        });
        let _listener = block_on(listen(&path)).unwrap();
        assert_eq!(std::fs::metadata(lock_file(&path)).unwrap().mode() & 0o7777, 0o600);
    });
    helper::succeeds(&mut helper);
}

#[test]
fn another_user_never_connects_during_ten_thousand_binds() {
    let mut connector = helper::plain(test_name!() + "#connector", connect_until_the_end_of_input);
    // With any other umask, the kernel alone would exclude other users.
    let mut binder = helper::plain(test_name!() + "#binder", || {
        rustix::process::umask(rustix::fs::Mode::empty());
        block_on(async {
            for _ in 0..10_000 {
                drop(listen(&path_of_helper()).await.unwrap());
            }
        });
    });
    needs_root("another user connects in a loop");
    let (_directory, path) = place();
    let mut connector = as_other_user(&mut connector, &path).spawn().unwrap();
    let mut report = BufReader::new(connector.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(report.any(|line| line == "ready"));
    helper::succeeds(binder.env(PATH, &path));

    drop(connector.stdin.take());
    let counts = report.find_map(|line| line.strip_prefix("counts ").map(String::from)).unwrap();
    helper::finish(connector);
    let mut counts = counts.split(' ').map(|count| count.parse::<u64>().unwrap());
    let [got_in, kept_out, unexpected] = [(); 3].map(|()| counts.next().unwrap());
    println!("{kept_out} attempts were refused");
    assert_eq!((got_in, unexpected), (0, 0), "{kept_out} attempts were refused");
    assert!(kept_out > 100, "only {kept_out} attempts in 10,000 binds");
}

fn connect_until_the_end_of_input() {
    let path = path_of_helper();
    let is_done = AtomicBool::new(false);
    let (mut got_in, mut kept_out, mut unexpected) = (0, 0, 0);
    println!("\nready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            is_done.store(true, Ordering::Relaxed);
        });
        while !is_done.load(Ordering::Relaxed) {
            match UnixStream::connect(&path) {
                Ok(_) => got_in += 1,
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound => {}
                    io::ErrorKind::PermissionDenied => kept_out += 1,
                    _ => unexpected += 1,
                },
            }
        }
    });
    println!("\ncounts {got_in} {kept_out} {unexpected}");
}
