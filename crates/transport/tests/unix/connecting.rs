//! Connecting, and the error for each failure to connect.

use std::os::unix::net::{UnixDatagram, UnixListener as StdListener};
use std::time::Duration;

use tieline_testkit::wait;
use tieline_transport::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn each_connect_failure_has_its_own_error() {
    let (directory, nothing) = place();
    let at = |name: &str| directory.path().join(name);
    let long = at(&"x".repeat(108));
    wait::leave_dead_socket(&at("dead"));
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();

    type Case<'a> = (&'a Path, fn(&ErrorKind) -> bool, bool, &'a str);
    let is_not_a_socket = |kind: &ErrorKind| matches!(kind, ErrorKind::NotASocket);
    let is_not_found = |kind: &ErrorKind| matches!(kind, ErrorKind::NotFound);
    let cases: &[Case<'_>] = &[
        (&long, |kind| matches!(kind, ErrorKind::PathTooLong { limit: 107, .. }), false, "shorter"),
        (&nothing, is_not_found, true, "start the server"),
        (&at("link"), is_not_found, true, "start the server"),
        (&at("dead"), |kind| matches!(kind, ErrorKind::Refused), true, "start it again"),
        (&at("file"), is_not_a_socket, false, "path"),
        (&at("directory"), is_not_a_socket, false, "path"),
        (&at("file/socket"), is_not_a_socket, false, "path"),
        (&at("datagram"), is_not_a_socket, false, "datagram"),
        (
            &at("missing/socket"),
            |kind| matches!(kind, ErrorKind::DirectoryMissing(_)),
            false,
            "start the server",
        ),
    ];
    for (path, kind, is_retryable, hint) in cases {
        let error = error_of(connect(path).await);
        assert_error(&error, path, *kind, hint);
        assert_eq!(error.is_retryable(), *is_retryable, "{error}");
    }
    // Connecting creates no files, not even a lock file.
    assert!(!lock_file(&nothing).exists() && !lock_file(&at("dead")).exists());
}

#[tokio::test]
async fn connect_waits_while_the_backlog_is_full() {
    let (_directory, path) = place();
    let (live, waiting) = scarcity::full_backlog(&path);
    let impatient =
        UnixConfig { connect_timeout: Duration::from_millis(20), ..UnixConfig::new(&path) };
    let error = error_of(Unix.connect(&impatient).await);
    assert_error(&error, &path, |kind| matches!(kind, ErrorKind::TimedOut(_)), "again");
    assert!(error.is_retryable());

    let patient = UnixConfig { connect_timeout: wait::LIMIT, ..UnixConfig::new(&path) };
    let mut connecting = Box::pin(Unix.connect(&patient));
    assert!(wait::poll_once(&mut connecting).await.is_none());
    let live = StdListener::from(live);
    for _ in waiting {
        live.accept().unwrap();
    }
    connecting.await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn abstract_sockets_support_connecting_but_not_listening() {
    use std::os::linux::net::SocketAddrExt;
    use tieline_transport::{Options, UnixAddress};

    let name = format!("tieline-test-{}", std::process::id());
    let endpoint: Endpoint = format!("unix:@{name}").parse().unwrap();
    let config = Unix.config(&endpoint, &Options::default()).unwrap();
    assert_eq!(config.address, UnixAddress::Abstract(name.clone().into()));
    let error = error_of(Unix.connect(&config).await);
    assert!(matches!(error.kind(), ErrorKind::NotFound), "{error:?}");

    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let server = StdListener::bind_addr(&address).unwrap();
    let mut near = Unix.connect(&config).await.unwrap();
    assert_eq!(near.info().endpoint, endpoint);
    assert_eq!(near.info().peer.unwrap().pid, Some(std::process::id()));
    let (far, _) = server.accept().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = tokio::net::UnixStream::from_std(far).unwrap();
    near.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    far.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");

    let error = error_of(Unix.listen(&config).await);
    assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error:?}");
    assert_eq!(error.endpoint(), Some(&endpoint));
    assert!(error.hint().unwrap().contains("path"));
}

#[tokio::test]
async fn invalid_configuration_is_refused_by_field_name() {
    let (_directory, path) = place();
    let good = UnixConfig::new(&path);
    for (config, field) in [
        (UnixConfig { connect_timeout: Duration::ZERO, ..good.clone() }, "connect_timeout"),
        (UnixConfig { backlog: 0, ..good.clone() }, "backlog"),
        (UnixConfig::new(""), "address"),
    ] {
        for error in
            [error_of(Unix.connect(&config).await), error_of(Unix.listen(&config).await.map(drop))]
        {
            match error.kind() {
                ErrorKind::InvalidConfig(refused) => assert_eq!(refused.field, field),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!lock_file(&path).exists(), "there was I/O before the configuration was validated");
}
