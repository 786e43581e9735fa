//! The identity of the peer on both sides, and the refusal of other users.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};

use tieline_testkit::{helper, test_name};
use tieline_transport::Connection;
use tokio::io::AsyncReadExt;

use super::*;

#[test]
fn client_of_another_user_is_refused_unless_allowed() {
    let mut client = helper::plain(test_name!(), || {
        let mut stream = UnixStream::connect(path_of_helper()).unwrap();
        // A refused connection may be closed before the write.
        let _ = stream.write_all(b"let me in");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    needs_root("another user connects");
    for is_allowed in [false, true] {
        let (_directory, path) = place();
        block_on(async {
            let allow_uids = if is_allowed { vec![NOBODY] } else { vec![NOBODY - 1] };
            let config = UnixConfig { allow_uids, ..UnixConfig::new(&path) };
            let mut listener = Unix.listen(&config).await.unwrap();
            // Only a careless owner makes the socket accessible to others.
            set_mode(&path, 0o666);
            let client = as_other_user(&mut client, &path).spawn().unwrap();
            if is_allowed {
                let mut accepted = accept(&mut listener).await;
                assert_eq!(accepted.info().peer.unwrap().uid, NOBODY);
                assert_eq!(accepted.info().peer.unwrap().pid, Some(client.id()));
                let mut said = [0; 9];
                accepted.read_exact(&mut said).await.unwrap();
                assert_eq!(&said, b"let me in");
                drop(accepted);
                helper::finish(client);
            } else {
                // The client sees the end only when the listener has refused it.
                let refused = tokio::task::spawn_blocking(|| helper::finish(client));
                let accepting = accept(&mut listener);
                let honest = async {
                    refused.await.unwrap();
                    connect(&path).await.unwrap()
                };
                let (accepted, _honest) = tokio::join!(accepting, honest);
                assert_eq!(accepted.info().peer.unwrap().uid, 0);
            }
        });
    }
}

#[test]
fn server_of_another_user_is_refused_unless_allowed() {
    let mut server = helper::plain(test_name!(), || {
        let listener = StdListener::bind(path_of_helper()).unwrap();
        println!("\nready");
        for _ in 0..2 {
            let _ = listener.accept().unwrap().0.write_all(b"come in");
        }
    });
    needs_root("another user listens");
    let (directory, path) = place();
    set_mode(directory.path(), 0o777);
    let mut server = as_other_user(&mut server, &path).spawn().unwrap();
    let mut report = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(report.any(|line| line.unwrap() == "ready"));
    block_on(async {
        let error = error_of(connect(&path).await);
        assert_error(&error, &path, |kind| matches!(kind, ErrorKind::PeerNotAllowed(_)), "allow");
        match error.kind() {
            ErrorKind::PeerNotAllowed(peer) => assert_eq!(peer.uid, NOBODY),
            other => panic!("{other:?}"),
        }
        assert!(!error.is_retryable());

        let config = UnixConfig { allow_uids: vec![NOBODY], ..UnixConfig::new(&path) };
        let mut allowed = Unix.connect(&config).await.unwrap();
        let mut said = Vec::new();
        allowed.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"come in");
    });
    helper::finish(server);
}

#[test]
fn lock_file_of_another_user_has_its_own_error() {
    let is_foreign = |kind: &ErrorKind| matches!(kind, ErrorKind::ForeignLock(_));
    let mut locked_out = helper::plain(test_name!(), || {
        block_on(async {
            let path = path_of_helper();
            assert_error(&error_of(listen(&path).await), &path, is_foreign, "another path");
        });
    });
    needs_root("the lock file belongs to another user");
    block_on(async {
        // First, this process tries to use a file of another user to which it may write. Then another
        // user tries to use a file of this process to which it may not write.
        let (_directory, path) = place();
        std::fs::write(lock_file(&path), "").unwrap();
        std::os::unix::fs::chown(lock_file(&path), Some(NOBODY), None).unwrap();
        assert_error(&error_of(listen(&path).await), &path, is_foreign, "another path");
        assert!(!path.exists());
    });
    let (directory, path) = place();
    set_mode(directory.path(), 0o777);
    std::fs::write(lock_file(&path), "").unwrap();
    set_mode(&lock_file(&path), 0o600);
    helper::finish(as_other_user(&mut locked_out, &path).spawn().unwrap());
}

#[test]
fn denied_access_of_another_user_is_permission_denied() {
    let is_denied = |kind: &ErrorKind| matches!(kind, ErrorKind::PermissionDenied);
    let mut nobody = helper::plain(test_name!(), || {
        block_on(async {
            let directory = path_of_helper();
            // These are another user's socket, and directories without write or search permission.
            for (name, connects, listens) in [
                ("socket", true, false),
                ("new", false, true),
                ("private/new", true, true),
                ("private/below/new", true, true),
            ] {
                let path = directory.join(name);
                for error in [
                    connects.then_some(error_of(connect(&path).await)),
                    listens.then_some(error_of(listen(&path).await.map(drop))),
                ] {
                    let Some(error) = error else { continue };
                    assert_error(&error, &path, is_denied, "check the owner");
                }
            }
            // This is a live socket to which this user may not connect.
            let path = directory.join("open/socket");
            let is_in_use = |kind: &ErrorKind| matches!(kind, ErrorKind::AddressInUse);
            assert_error(&error_of(listen(&path).await), &path, is_in_use, "another path");
            assert!(path.exists());
        });
    });
    needs_root("another user tries to connect and listen");
    block_on(async {
        let (directory, path) = place();
        let _server = listen(&path).await.unwrap();
        for (name, mode) in [("private", 0o700), ("private/below", 0o777), ("open", 0o777)] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            set_mode(&directory.path().join(name), mode);
        }
        let _foreign = StdListener::bind(directory.path().join("open/socket")).unwrap();
        set_mode(&directory.path().join("open/socket"), 0o600);
        helper::finish(as_other_user(&mut nobody, directory.path()).spawn().unwrap());
    });
}

async fn accept(listener: &mut UnixListener) -> UnixConnection {
    tieline_transport::Listener::accept(listener).await.unwrap()
}
