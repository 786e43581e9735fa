//! Another user of the machine who has obtained the secret of a session.
//!
//! The test connects as another user, which requires root. Without root it fails with a message.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use bytes::Bytes;
use tieline_link::{LineOptions, SessionOptions, Sessions, listen};
use tieline_proto::session::{Frame, Hello, Position, Refusal, Secret, SessionId};
use tieline_testkit::wait::block_on;
use tieline_testkit::{helper, test_name};
use tieline_transport::{
    Acceptor, Channel, ChildExit, CloseReason, Endpoint, Incoming, Options, Owner, Principal,
    ReceiverExt, Registry, SenderExt,
};

use by_hand::{ByHand, hello};

const NOBODY: u32 = 65_534;
const PLACE: &str = "TIELINE_TEST_PATH";
const STOLEN: &str = "TIELINE_TEST_STOLEN";

async fn connect(path: &Path) -> ByHand {
    let endpoint = Endpoint::unix(path).resumable().carrier();
    ByHand::over(Registry::new().connect(&endpoint, &Options::default()).await.unwrap())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> [u8; 16] {
    u128::from_str_radix(text, 16).unwrap().to_be_bytes()
}

#[test]
fn session_cannot_be_resumed_by_another_user_who_knows_its_secret() {
    let mut thief = helper::plain(test_name!(), || {
        let path = std::env::var_os(PLACE).unwrap();
        let stolen = std::env::var(STOLEN).unwrap();
        let (session, secret) = stolen.split_once(' ').unwrap();
        let resumes = Some((SessionId(from_hex(session)), Secret(from_hex(secret)), 1));
        block_on(async {
            let mut line = connect(Path::new(&path)).await;
            let greeting = Hello { resumes, position: Position::default() };
            assert_eq!(line.greet(greeting).await.unwrap_err(), Refusal::Principal);
            // The user may connect and begin another session.
            let mut line = connect(Path::new(&path)).await;
            line.greet(hello(None)).await.unwrap();
        });
    });
    let is_root = rustix::process::geteuid().is_root();
    assert!(
        is_root,
        "this test needs root, because it connects as another user; run the tests as root, as CI does"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    block_on(async {
        let options = Options { allow_uids: vec![NOBODY], ..Options::default() };
        let endpoint = Endpoint::unix(&path).resumable();
        let sessions = SessionOptions::default();
        let mut acceptor = listen(&Registry::new(), &endpoint, &options, sessions).await.unwrap();
        for (path, mode) in [(directory.path(), 0o755), (&path, 0o666)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut owner = connect(&path).await;
        let welcome = owner.greet(hello(None)).await.unwrap();
        let (mut to_owner, mut from_owner) = acceptor.accept().await.unwrap().split();

        let stolen = format!("{} {}", to_hex(&welcome.session.0), to_hex(&welcome.secret.0));
        thief.uid(NOBODY).gid(NOBODY).env(PLACE, &path).env(STOLEN, stolen).current_dir("/");
        tokio::task::spawn_blocking(move || helper::succeeds(&mut thief)).await.unwrap();

        // The owner's session still works over its connection.
        let message = Bytes::from_static(b"mine");
        owner.send_frame(Frame::Data { sequence: 1, acknowledged: 0, message }).await;
        assert!(matches!(from_owner.recv().await, Incoming::Message(it) if it == "mine"));
        to_owner.send("still yours").await.unwrap();
        while !matches!(owner.next_frame().await, Some(Frame::Data { sequence: 1, .. })) {}
        drop(owner);
        // It also works over a new connection.
        let mut owner = connect(&path).await;
        let position = Position { received: 1, acknowledged: 1, sent: 1 };
        let again = owner.greet(Hello { position, ..hello(Some(&welcome)) }).await.unwrap();
        assert_eq!((again.session, again.epoch), (welcome.session, 2));
    });
}

#[test]
fn failure_of_a_program_is_known_only_to_the_owner_of_its_session() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let carrier = Endpoint::unix(&path).resumable().carrier();
        let plain = Registry::new().listen(&carrier, &Options::default()).await.unwrap();
        let mut sessions = Sessions::new(plain, SessionOptions::default(), LineOptions::default());
        let failures = sessions.failures();
        let mut client = connect(&path).await;
        let id = client.greet(hello(None)).await.unwrap().session;
        let server = sessions.accept().await.unwrap();
        let owner = Owner::of(server.control());
        let thief = Owner { principal: Some(Principal::new([7; 32])), ..owner };
        assert!(failures.get(id, &owner).is_none(), "the program has not ended");
        let exit = ChildExit {
            status: std::os::unix::process::ExitStatusExt::from_raw(3 << 8),
            stderr_tail: ["x".repeat(10_000), "the end\n".into()].concat().into(),
            unterminated: false,
            truncated: None,
            unread: None,
            guardian_lost: false,
        };
        server.control().report_at_close(CloseReason::ChildExited(exit.into()));
        assert!(failures.get(id, &owner).is_some() && failures.get(id, &thief).is_none());
        // This also holds after the end.
        let (mut to_client, mut from_client) = server.split();
        to_client.close().await.unwrap();
        assert_eq!(client.farewell().await, "the program has failed with exit status 3");
        assert!(matches!(from_client.recv().await, Incoming::End(_)));
        drop((to_client, from_client));
        let known = failures.get(id, &owner).unwrap();
        let known = known.child_exit().unwrap();
        assert_eq!(known.status.code(), Some(3));
        assert!(known.stderr_tail.len() == 4096 && known.stderr_tail.ends_with(b"the end\n"));
        assert!(failures.get(id, &thief).is_none());
        assert!(failures.get(SessionId([0; 16]), &owner).is_none());
        drop(sessions);
        assert!(failures.get(id, &owner).is_none());
    });
}
