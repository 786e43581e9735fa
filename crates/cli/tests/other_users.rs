//! Tests of servers for other users: the users that are admitted, and the errors that the others get.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::{Finished, Program, Talk, tieline};
use tieline_testkit::executable;

const OTHER: u32 = 65_534;
const THIRD: u32 = 65_533;
const TOKEN: &str = "0123456789abcdef0123";

/// A directory that every user can enter.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        assert!(is_root, "needs root to act as another user; run the tests as root, as CI does");
        let folder = tempfile::tempdir().unwrap();
        let place = Self(folder);
        place.set_mode(0o755);
        // Other users may not be able to access the build directory.
        executable::copy(Path::new(env!("CARGO_BIN_EXE_tieline")), &place.program());
        place
    }

    fn set_mode(&self, mode: u32) {
        std::fs::set_permissions(self.0.path(), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("tieline")
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("s")
    }

    fn endpoint(&self, scheme: &str) -> String {
        format!("{scheme}:{}", self.socket().display())
    }

    /// Serves `cat` on the socket.
    fn serve(&self, scheme: &str, args: &[&str]) -> Program {
        let listen = self.endpoint(scheme);
        let mut serve = tieline(["serve", "--no-status", "--listen", &listen]);
        serve.args(args).args(["--", "cat"]).env("TIELINE_TOKEN", TOKEN);
        let mut serve = Program::start(&mut serve);
        assert_eq!(serve.line().as_deref(), Some(&*listen), "{}", serve.stderr());
        serve
    }

    /// Connects as this user and group.
    fn connect(&self, scheme: &str, (user, group): (u32, u32)) -> Finished {
        let mut connect = std::process::Command::new(self.program());
        connect.args(["connect", "--allow-uid", "0", &self.endpoint(scheme)]);
        connect.env_clear().env("TIELINE_TOKEN", TOKEN).current_dir("/").uid(user).gid(group);
        Program::run(&mut connect, "{\"n\":1}\n")
    }
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// Schemes for listening, each with the scheme for connecting to it.
const SCHEMES: [(&str, &str); 3] =
    [("unix", "unix"), ("resume+unix", "resume+unix"), ("http-unix", "ws-unix")];

/// All pairs of schemes. In one pair, a plain client connects to a listener for sessions, and is also
/// refused because of its user.
const ALL_SCHEMES: [(&str, &str); 8] = [
    ("unix", "unix"),
    ("content-length+unix", "content-length+unix"),
    ("length-prefix+unix", "length-prefix+unix"),
    ("resume+unix", "resume+unix"),
    ("resume+unix", "unix"),
    ("http-unix", "ws-unix"),
    ("http-unix", "http-unix"),
    ("http-unix", "resume+ws-unix"),
];

#[test]
fn only_the_allowed_user_is_admitted() {
    let place = Place::new();
    for (listen, connect) in SCHEMES {
        let serve = place.serve(listen, &["--allow-uid", &OTHER.to_string()]);
        assert_eq!(mode_of(&place.socket()), 0o666);
        let finished = place.connect(connect, (OTHER, OTHER));
        assert_eq!((finished.code, &*finished.stdout), (Some(0), "{\"n\":1}\n"), "{finished:?}");
        let finished = place.connect(connect, (THIRD, THIRD));
        assert_eq!(finished.stdout, "", "{listen}: {finished:?}");
        serve.wait_stderr("refused a connection");
        serve.signal(Signal::TERM);
        let finished = serve.finish();
        assert!(!finished.stderr.contains("other users cannot connect"), "{finished:?}");
    }
}

/// The user gets the reason in all three cases: the client sends something, ends its input at once, or
/// waits for the server.
#[test]
fn a_refused_user_gets_the_reason() {
    let place = Place::new();
    for (listen, connect) in ALL_SCHEMES {
        let serve = place.serve(listen, &["--allow-uid", &OTHER.to_string()]);
        let is_told = |finished: Finished| {
            let found = (finished.code, &*finished.stdout);
            assert_eq!(found, (Some(1), ""), "{listen} {connect}: {finished:?}");
            let says = ["does not accept", "user", "--allow-uid"];
            let told = says.iter().all(|says| finished.stderr.contains(says));
            assert!(told, "{listen} {connect}: {finished:?}");
        };
        let command = |args: &[&str]| {
            let mut command = std::process::Command::new(place.program());
            command.args(args).env_clear().env("TIELINE_TOKEN", TOKEN);
            command.current_dir("/").uid(THIRD).gid(THIRD);
            command
        };
        let endpoint = place.endpoint(connect);
        let args = ["connect", "--allow-uid", "0", &endpoint];
        is_told(Program::run(&mut command(&args), "{\"n\":1}\n"));
        is_told(Program::run(&mut command(&args), ""));
        is_told(Program::run(&mut command(&args), "{\"n\":1}\n".repeat(100_000)));
        is_told(Program::start(&mut command(&args)).wait());
        let args = ["call", "--allow-uid", "0", &endpoint, "ping"];
        is_told(Program::run(&mut command(&args), ""));
        serve.signal(Signal::TERM);
        serve.finish();
    }
}

#[test]
fn by_default_other_users_are_refused_with_a_hint() {
    let place = Place::new();
    for (listen, connect) in SCHEMES {
        let serve = place.serve(listen, &[]);
        assert_eq!(mode_of(&place.socket()), 0o600);
        let finished = place.connect(connect, (OTHER, OTHER));
        assert_eq!((finished.code, &*finished.stdout), (Some(1), ""), "{listen}: {finished:?}");
        assert!(finished.stderr.contains("--allow-uid"), "{listen}: {finished:?}");
        serve.signal(Signal::TERM);
        serve.finish();
    }
}

#[test]
fn the_group_and_the_mode_decide_which_users_can_connect() {
    let place = Place::new();
    for (listen, connect) in SCHEMES {
        for (args, mode, group, lets_in) in [
            (&["--socket-group", "65533"][..], 0o660, THIRD, [false, true]),
            (&["--socket-group", "65533", "--socket-mode", "600"], 0o600, THIRD, [false, false]),
            (&["--socket-mode", "666"], 0o666, 0, [true, true]),
            (&["--socket-mode", "666", "--allow-uid", "65534"], 0o666, 0, [true, false]),
        ] {
            let serve = place.serve(listen, args);
            let found = place.socket().metadata().unwrap();
            assert_eq!((found.mode() & 0o7777, found.gid()), (mode, group), "{listen} {args:?}");
            for (user, is_let_in) in [(OTHER, OTHER), (OTHER - 2, THIRD)].into_iter().zip(lets_in) {
                let finished = place.connect(connect, user);
                let is_in = finished.stdout == "{\"n\":1}\n";
                assert_eq!(is_in, is_let_in, "{listen} {args:?} {user:?}: {finished:?}");
            }
            serve.signal(Signal::TERM);
            serve.finish();
        }
    }
}

#[test]
fn the_error_names_a_directory_that_other_users_cannot_enter() {
    let place = Place::new();
    place.set_mode(0o700);
    for (listen, _) in SCHEMES {
        let serve = place.serve(listen, &["--allow-uid", "65534"]);
        let folder = place.0.path().canonicalize().unwrap();
        serve.wait_stderr(&format!("they cannot enter {} (mode 700)", folder.display()));
        serve.signal(Signal::TERM);
        serve.finish();
    }
}

#[test]
fn socket_options_without_effect_are_refused() {
    let place = Place::new();
    let unix = place.endpoint("unix");
    for (args, says) in [
        (["--socket-mode", "644", "--listen", &unix], "connecting needs write permission"),
        (["--socket-mode", "1000", "--listen", &unix], "connecting needs write permission"),
        (["--socket-mode", "rw", "--listen", &unix], "not permission bits"),
        (["--socket-group", "no-such-group", "--listen", &unix], "no such group"),
        (
            ["--socket-mode", "666", "--listen", "http://127.0.0.1:0"],
            "it needs a unix: or http-unix: endpoint",
        ),
    ] {
        let mut serve = tieline(["serve", "--no-status"]);
        let finished = Program::run(serve.args(args).args(["--", "cat"]), "");
        assert_eq!((finished.code, &*finished.stdout), (Some(2), ""), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(says), "{args:?}: {finished:?}");
        assert!(!place.socket().exists());
    }
    let mut chaos = tieline(["chaos", &unix, "exec:cat", "--socket-mode", "666"]);
    let mut chaos = Program::start(&mut chaos);
    assert_eq!(chaos.line().as_deref(), Some(&*unix));
    assert_eq!(mode_of(&place.socket()), 0o666);
    let finished = place.connect("unix", (OTHER, OTHER));
    assert_eq!(finished.stdout, "{\"n\":1}\n", "{finished:?}");
    chaos.signal(Signal::TERM);
    chaos.finish();
}
