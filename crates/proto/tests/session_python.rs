//! Tests of the session protocol with another implementation, in Python, over Unix sockets that either
//! side closes again and again, between frames and within them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tieline_proto::session::{
    Frame, Lease, Position, Received, Refusal, Secret, SessionConfig, SessionId, SessionMachine,
    Ticket,
};
use tieline_proto::{Framing, LengthPrefix, WriteBuf};

const MESSAGES: usize = 300;
/// The deadline, which only turns a hang into a failure. It is long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory for a socket, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tieline-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The Python process, which is killed on drop or when the deadline has passed.
struct Python {
    child: Arc<Mutex<Child>>,
    is_late: Arc<AtomicBool>,
    /// Dropped at the end of the test, which stops the deadline.
    _in_time: mpsc::Sender<()>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(role: &str, with: &Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/python/session.py");
        let mut command = Command::new("python3");
        command.arg(program).arg(role).arg(with);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let (child, is_late) = (Arc::new(Mutex::new(child)), Arc::new(AtomicBool::new(false)));
        let (in_time, ended) = mpsc::channel();
        let (hung, late, place) = (child.clone(), is_late.clone(), with.to_owned());
        std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                late.store(true, Ordering::SeqCst);
                let _ = hung.lock().unwrap().kill();
                // This wakes a test that waits for the process to connect.
                let _ = UnixStream::connect(place);
            }
        });
        Self { child, is_late, _in_time: in_time, input, output }
    }

    fn is_in_time(&self) {
        assert!(!self.is_late.load(Ordering::SeqCst), "the Python process did not finish in time");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Writes all messages to the process, with commands to cut the connection, and then ends the input.
    fn feed(&mut self) {
        let mut lines = String::new();
        for at in 0..MESSAGES {
            lines += &format!("send {}\n", message("python", at));
            match at % 60 {
                20 => lines += "cut\n",
                // The connection is cut within the following frames: before, in and after the head of
                // one.
                40 => lines += &format!("cut {}\n", 1 + at / 4),
                _ => {}
            }
        }
        let mut input = self.input.take().unwrap();
        // The process reads the lines when its session has room, so another thread waits for that.
        std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    }

    /// Reads the remaining output of the process, and waits until it exits successfully.
    fn rest(&mut self) -> Vec<String> {
        let lines = (&mut self.output).lines().map(|line| line.unwrap()).collect();
        let status = self.child.lock().unwrap().wait().unwrap();
        assert!(status.success(), "{status}: {lines:?}");
        lines
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn message(from: &str, at: usize) -> String {
    format!("{from} {at} {}", "€".repeat(at % 7))
}

/// A blocking connection that carries frames.
struct Line {
    stream: UnixStream,
    framing: LengthPrefix,
    received: BytesMut,
    begun: Instant,
}

impl Line {
    fn new(stream: UnixStream) -> Self {
        // Reads time out, so that acknowledgements are sent in time.
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (framing, received) = (LengthPrefix::default(), BytesMut::new());
        Self { stream, framing, received, begun: Instant::now() }
    }

    /// Writes a frame. Returns false if the connection is closed.
    fn write(&mut self, frame: Frame) -> bool {
        let mut out = WriteBuf::new();
        self.framing.encode(&frame.to_bytes(), &mut out).unwrap();
        self.stream.write_all(&out.to_bytes()).is_ok()
    }

    /// Reads the next frame. Returns `None` if the read timed out, and an error if the connection is
    /// closed.
    fn frame(&mut self) -> Result<Option<Frame>, ()> {
        loop {
            assert!(self.begun.elapsed() < PATIENCE, "no frame arrived in time");
            if let Some(tieline_proto::Frame::Message(frame)) =
                self.framing.decode(&mut self.received).unwrap()
            {
                return Ok(Some(Frame::decode(frame).unwrap()));
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(()),
                Ok(length) => self.received.extend_from_slice(&part[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => return Ok(None),
                Err(_) => return Err(()),
            }
        }
    }

    fn greeting(&mut self) -> Option<Frame> {
        loop {
            match self.frame() {
                Ok(None) => {}
                Ok(frame) => return frame,
                Err(()) => return None,
            }
        }
    }
}

/// Our end, which sends its messages when there is room, and closes the connection after every 70th
/// received message.
struct Ours {
    session: SessionMachine,
    sent: usize,
    received: Vec<String>,
    begun: Instant,
}

impl Ours {
    fn new() -> Self {
        let config = SessionConfig { replay_messages: 50, ..SessionConfig::default() };
        Self {
            session: SessionMachine::new(config),
            sent: 0,
            received: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// Exchanges frames until the connection is closed or the session is over. Returns true if the
    /// session is over.
    fn exchange(&mut self, line: &mut Line, mut seen: impl FnMut()) -> bool {
        loop {
            while self.sent < MESSAGES && self.session.has_room() {
                self.session.send(message("ours", self.sent).into()).unwrap();
                self.sent += 1;
            }
            if self.sent == MESSAGES {
                self.session.end();
            }
            while let Some(frame) = self.session.next(self.begun.elapsed()) {
                if !line.write(frame) {
                    return false;
                }
            }
            if self.session.is_over() {
                return true;
            }
            match line.frame() {
                Err(()) => return false,
                Ok(None) => {}
                Ok(Some(frame)) => {
                    seen();
                    let event = self.session.receive(self.begun.elapsed(), frame).unwrap();
                    if let Some(Received::Message { message, .. }) = event {
                        self.received.push(String::from_utf8(message.into()).unwrap());
                        if self.received.len() % 70 == 0 {
                            return false;
                        }
                    }
                }
            }
        }
    }

    /// Checks that both ends have received every message once and in order.
    fn check(&self, output: &[String]) {
        let theirs: Vec<_> = (0..MESSAGES).map(|at| message("python", at)).collect();
        assert_eq!(self.received, theirs);
        let messages = output.iter().filter(|line| line.starts_with("message "));
        let ours = (1..).zip((0..MESSAGES).map(|at| message("ours", at)));
        let ours: Vec<_> = ours.map(|(number, it)| format!("message {number} {it}")).collect();
        assert!(messages.eq(&ours), "{output:?}");
        let count = |word: &str| output.iter().filter(|line| line.starts_with(word)).count();
        assert_eq!((count("ended 301"), count("over")), (1, 1), "{output:?}");
        // The process closes the connection ten times and we close it four times, often at the same
        // moment.
        assert!(count("closed") >= 5 && count("open ") >= count("closed"), "{output:?}");
    }
}

#[test]
fn python_agrees_on_the_golden_vectors() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/session-1.txt");
    assert_eq!(Python::start("vectors", Path::new(vectors)).rest(), [""; 0]);
}

#[test]
fn python_client_sends_and_receives_each_message_once() {
    let folder = Folder::new("python-client");
    let socket = folder.0.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut python = Python::start("client", &socket);
    python.feed();
    let mut ours = Ours::new();
    let mut lease: Option<Lease<()>> = None;
    for number in 1_u8.. {
        let mut line = Line::new(listener.accept().unwrap().0);
        python.is_in_time();
        let Some(Frame::Hello(hello)) = line.greeting() else { continue };
        let secret = Secret([number; 16]);
        let welcome = match &mut lease {
            None => {
                let (new, welcome) = Lease::new(SessionId([7; 16]), (), secret);
                lease = Some(new);
                welcome
            }
            Some(lease) => {
                lease.check(&hello, &()).unwrap();
                ours.session.resume(hello.position).unwrap();
                lease.resume(&hello, &(), secret, ours.session.position()).unwrap()
            }
        };
        // Some welcomes are lost, so that the next greetings contain the previous secret.
        if number % 5 == 3 {
            continue;
        }
        let lease = lease.as_mut().unwrap();
        if line.write(Frame::Welcome(welcome)) && ours.exchange(&mut line, || lease.seen()) {
            break;
        }
    }
    ours.check(&python.rest());
}

#[test]
fn python_server_sends_and_receives_each_message_once() {
    let folder = Folder::new("python-server");
    let socket = folder.0.join("socket");
    let mut python = Python::start("server", &socket);
    assert_eq!(python.line(), "listening");
    python.feed();
    let mut ours = Ours::new();
    let mut ticket: Option<Ticket> = None;
    let mut shown = Vec::new();
    for number in 1.. {
        python.is_in_time();
        let mut line = Line::new(UnixStream::connect(&socket).unwrap());
        let hello = match &ticket {
            None => Ticket::ask(),
            Some(ticket) => ticket.present(ours.session.position()),
        };
        shown.push(hello.clone());
        line.write(Frame::Hello(hello));
        // Some connections are abandoned before the response arrives.
        if number % 5 == 3 {
            continue;
        }
        let Some(Frame::Welcome(welcome)) = line.greeting() else { continue };
        match &mut ticket {
            None => ticket = Some(Ticket::granted(&welcome).unwrap()),
            Some(ticket) => {
                ticket.renewed(&welcome).unwrap();
                ours.session.resume(welcome.position).unwrap();
            }
        }
        if ours.exchange(&mut line, || ()) {
            // An old secret, a wrong secret, another session, and a second session are refused.
            let wrong = |of: &Ticket| {
                let mut hello = of.present(Position::default());
                hello.resumes = hello.resumes.map(|(id, _, epoch)| (id, Secret([0; 16]), epoch));
                hello
            };
            let mut elsewhere = shown.last().unwrap().clone();
            elsewhere.resumes =
                elsewhere.resumes.map(|(_, secret, epoch)| (SessionId([0; 16]), secret, epoch));
            for (hello, refusal) in [
                (shown[1].clone(), Refusal::Secret),
                (wrong(ticket.as_ref().unwrap()), Refusal::Secret),
                (elsewhere, Refusal::Unknown),
                (Ticket::ask(), Refusal::Full),
            ] {
                let mut other = Line::new(UnixStream::connect(&socket).unwrap());
                other.write(Frame::Hello(hello));
                let answer = other.greeting();
                let Some(Frame::Refused { refusal: got, .. }) = answer else {
                    panic!("{refusal:?}: {answer:?}")
                };
                assert_eq!(got, refusal);
            }
            break;
        }
    }
    ours.check(&python.rest());
    assert!(!socket.exists());
}
