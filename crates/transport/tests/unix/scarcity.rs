//! Full backlogs, and a process that is out of descriptors.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use tieline_testkit::{helper, test_name};
use tieline_transport::Listener;
use tokio::io::AsyncReadExt;

use super::*;

/// Creates a listening socket and connects to it until its backlog is full.
pub(crate) fn full_backlog(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    let socket = || {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        socket.unwrap()
    };
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = socket();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 2).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client = socket();
        rustix::io::ioctl_fionbio(&client, true).unwrap();
        match rustix::net::connect(&client, &address) {
            Ok(()) => waiting.push(client),
            Err(Errno::AGAIN) => return (listener, waiting),
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn running_out_of_descriptors_is_retryable() {
    // The limit applies to the whole process.
    let mut helper = helper::plain(test_name!(), || {
        block_on(async {
            let (_directory, path) = place();
            let other = path.with_extension("other");
            let mut listener = listen(&path).await.unwrap();
            let mut client = UnixStream::connect(&path).unwrap();
            std::io::Write::write_all(&mut client, b"hello").unwrap();

            let taken = take_all_descriptors();
            for _ in 0..3 {
                assert_exhausted(&error_of(listener.accept().await));
                assert_exhausted(&error_of(connect(&path).await));
                assert_exhausted(&error_of(listen(&other).await));
            }
            drop(taken);

            let mut accepted = listener.accept().await.unwrap();
            let mut said = [0; 5];
            accepted.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
            connect(&path).await.unwrap();
            listen(&other).await.unwrap();
        });
    });
    helper::succeeds(&mut helper);
}

fn take_all_descriptors() -> Vec<File> {
    let limit = Rlimit { current: Some(64), ..rustix::process::getrlimit(Resource::Nofile) };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    let null = || File::open("/dev/null");
    std::iter::repeat_with(null).map_while(Result::ok).collect()
}

#[track_caller]
fn assert_exhausted(error: &TransportError) {
    assert!(matches!(error.kind(), ErrorKind::ResourcesExhausted), "{error:?}");
    assert!(error.is_retryable());
    assert!(error.hint().unwrap().contains("ulimit"), "{error}");
}
