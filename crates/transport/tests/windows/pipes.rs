//! The instances of a pipe, waiting for a free instance, and the refusal of other users.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use tieline_testkit::wait::{block_on, poll_once};
use tieline_transport::{
    Connection, ErrorKind, Listener, Pipe, PipeConfig, PipeConnection, PipeListener, Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::windows::named_pipe::{ClientOptions, ServerOptions};
use tokio::task::JoinSet;

use crate::name;

const BUSY: i32 = 231;
const INVALID_OWNER: i32 = 1307;

/// Sends each client its own bytes back.
async fn echo(mut listener: PipeListener) {
    loop {
        let (mut read, mut write) = listener.accept().await.unwrap().into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

async fn there_and_back(line: &mut PipeConnection, said: [u8; 8]) {
    line.write_all(&said).await.unwrap();
    let mut heard = [0; 8];
    line.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, said);
}

#[test]
fn a_thousand_rounds_of_fifty_clients_lose_nothing() {
    block_on(async {
        let config =
            PipeConfig { connect_timeout: Duration::from_secs(50), ..PipeConfig::new(name()) };
        let server = tokio::spawn(echo(Pipe.listen(&config).await.unwrap()));
        let mut clients = JoinSet::new();
        for client in 0..50_u32 {
            let config = config.clone();
            clients.spawn(async move {
                for round in 0..20_u32 {
                    let mut line = Pipe.connect(&config).await.unwrap();
                    let said = u64::from(client) << 32 | u64::from(round);
                    there_and_back(&mut line, said.to_be_bytes()).await;
                }
            });
        }
        assert_eq!(clients.join_all().await.len(), 50);
        server.abort();
    });
}

#[test]
fn there_is_always_an_instance_to_connect_to() {
    block_on(async {
        let config = PipeConfig { backlog: 1, ..PipeConfig::new(name()) };
        let path = format!(r"\\.\pipe\{}", config.name);
        let mut listener = Pipe.listen(&config).await.unwrap();
        let mut lines = Vec::new();
        for _ in 0..20 {
            // This client does not wait. After each accept, the next client can connect before accept is
            // called again.
            let near = ClientOptions::new().open(&path).unwrap();
            let far = listener.accept().await.unwrap();
            lines.push((near, far));
        }
        // Without an accept, there is one free instance. After that, the pipe is busy but not missing.
        let _waits = ClientOptions::new().open(&path).unwrap();
        let refused = ClientOptions::new().open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(BUSY));
    });
}

#[test]
fn connect_waits_for_a_free_instance_within_its_timeout() {
    block_on(async {
        let config = PipeConfig {
            backlog: 1,
            connect_timeout: Duration::from_millis(300),
            ..PipeConfig::new(name())
        };
        let mut listener = Pipe.listen(&config).await.unwrap();
        let _first = Pipe.connect(&config).await.unwrap();
        let error = Pipe.connect(&config).await.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error:?}");
        assert!(error.is_retryable());

        let patient = PipeConfig { connect_timeout: Duration::from_secs(50), ..config };
        let mut waiting = Box::pin(Pipe.connect(&patient));
        assert!(poll_once(&mut waiting).await.is_none(), "an instance was free");
        let _accepted = listener.accept().await.unwrap();
        let mut line = waiting.await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        line.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    });
}

#[test]
fn client_that_leaves_before_it_is_accepted_is_no_error() {
    block_on(async {
        let config = PipeConfig::new(name());
        let path = format!(r"\\.\pipe\{}", config.name);
        let mut listener = Pipe.listen(&config).await.unwrap();
        assert!(poll_once(listener.accept()).await.is_none());
        drop(ClientOptions::new().open(&path).unwrap());
        let mut gone = listener.accept().await.unwrap();
        assert_eq!(gone.read(&mut [0; 1]).await.unwrap(), 0);
        let (near, far) = tokio::join!(Pipe.connect(&config), listener.accept());
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    });
}

/// For an empty write, the system completes a read with zero bytes, as at the end of a pipe. The raw
/// pipe shows this.
#[test]
fn empty_write_is_not_the_end() {
    block_on(async {
        let path = format!(r"\\.\pipe\{}", name());
        let mut raw = ServerOptions::new().create(&path).unwrap();
        let mut client = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        raw.connect().await.unwrap();
        let mut heard = [0; 1];
        let mut reading = Box::pin(raw.read(&mut heard));
        assert!(poll_once(&mut reading).await.is_none(), "nothing was written");
        assert_eq!(client.write(&[]).unwrap(), 0);
        client.write_all(b"x").unwrap();
        assert_eq!(reading.await.unwrap(), 0, "the empty write did not complete the read");

        let config = PipeConfig::new(name());
        let path = format!(r"\\.\pipe\{}", config.name);
        let mut listener = Pipe.listen(&config).await.unwrap();
        let mut client = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut line = listener.accept().await.unwrap();
        let mut heard = [0; 1];
        let mut reading = Box::pin(line.read(&mut heard));
        assert!(poll_once(&mut reading).await.is_none(), "nothing was written");
        assert_eq!(client.write(&[]).unwrap(), 0);
        client.write_all(b"x").unwrap();
        assert_eq!(reading.await.unwrap(), 1);
        assert_eq!(&heard, b"x");
        drop(client);
        assert_eq!(line.read(&mut heard).await.unwrap(), 0);
    });
}

#[test]
fn descriptor_without_an_access_list_is_refused() {
    block_on(async {
        for text in ["O:WD", "no SDDL at all"] {
            let config = PipeConfig { security: Some(text.into()), ..PipeConfig::new(name()) };
            let error = Pipe.listen(&config).await.err().unwrap();
            let ErrorKind::InvalidConfig(config) = error.kind() else { panic!("{error:?}") };
            assert_eq!(config.field, "security");
        }
    });
}

/// The first process to create a pipe owns its name. The owner here is Everyone, which Windows refuses but
/// Wine accepts, so the pipe has a foreign owner there.
#[test]
fn pipe_of_another_owner_is_refused() {
    block_on(async {
        let security = Some("O:WDD:P(A;;GA;;;WD)".into());
        let config = PipeConfig { security, ..PipeConfig::new(name()) };
        match Pipe.listen(&config).await {
            Ok(_listener) => {
                let error = Pipe.connect(&config).await.err().expect("the pipe was accepted");
                assert!(matches!(error.kind(), ErrorKind::PeerNotAllowed(_)), "{error:?}");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).and_then(|it| it.downcast_ref());
                let cause: &std::io::Error = cause.unwrap();
                assert_eq!(cause.raw_os_error(), Some(INVALID_OWNER), "{error:?}");
            }
        }
    });
}

/// No further instances could be created. Without this check, the server would notice that only when the
/// first client connects.
#[test]
fn descriptor_that_excludes_its_own_server_is_refused_at_once() {
    block_on(async {
        // This descriptor admits only LocalSystem.
        let security = Some("D:P(A;;GA;;;SY)".into());
        let config = PipeConfig { security, ..PipeConfig::new(name()) };
        let error = Pipe.listen(&config).await.err().expect("the descriptor excludes no one");
        let ErrorKind::InvalidConfig(config) = error.kind() else { panic!("{error:?}") };
        assert!(config.field == "security" && config.must.contains("(A;;GA;;;OW)"), "{error:?}");
    });
}
