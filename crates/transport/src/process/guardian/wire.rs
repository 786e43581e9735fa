//! The protocol between this process and a guardian. It uses a socket pair that no other process holds.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::guardian::Hold;

/// The maximum length of a request in bytes. No kernel accepts arguments and environments that are
/// longer.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The descriptors sent with a request: the child's stdin, stdout and stderr.
const DESCRIPTORS: usize = 3;

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) program: PathBuf,
    /// `argv[0]` and the arguments.
    pub(super) argv: Vec<OsString>,
    pub(super) cwd: Option<PathBuf>,
    /// The whole environment of the program.
    pub(super) env: Vec<(OsString, OsString)>,
    /// How the program is to be contained.
    pub(super) hold: Hold,
    /// Whether the guardian needs a keeper as its parent.
    pub(super) keeper: bool,
}

/// The text form of each `Hold`.
const HOLDS: [(&str, Hold); 4] = [
    ("auto", Hold::Auto),
    ("descent", Hold::Descent),
    ("cgroup", Hold::Cgroup),
    ("isolated", Hold::Isolated),
];

impl Request {
    /// Encodes the request as its length and its content.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut put = |word: &std::ffi::OsStr| {
            let bytes = word.as_encoded_bytes();
            body.extend((bytes.len() as u32).to_le_bytes());
            body.extend(bytes);
        };
        put(self.program.as_os_str());
        put(self.cwd.clone().unwrap_or_default().as_os_str());
        let hold = HOLDS.iter().find(|(_, hold)| *hold == self.hold);
        put(hold.map_or("", |(said, _)| *said).as_ref());
        put(if self.keeper { "keeper" } else { "" }.as_ref());
        put(self.argv.len().to_string().as_ref());
        for word in &self.argv {
            put(word);
        }
        for (name, value) in &self.env {
            put(name);
            put(value);
        }
        let mut message = (body.len() as u32).to_le_bytes().to_vec();
        message.extend(body);
        message
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        let mut words = Vec::new();
        while let Some((length, rest)) = body.split_first_chunk() {
            let (word, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            words.push(OsString::from_vec(word.to_vec()));
            body = rest;
        }
        let mut words = words.into_iter();
        let program = words.next()?.into();
        let cwd = words.next().filter(|cwd| !cwd.is_empty()).map(PathBuf::from);
        let hold = words.next()?;
        let hold = HOLDS.iter().find(|(said, _)| hold == *said)?.1;
        let keeper = !words.next()?.is_empty();
        let count = words.next()?.to_str()?.parse().ok()?;
        let argv = words.by_ref().take(count).collect();
        let mut env = Vec::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            env.push((name, value));
        }
        Some(Self { program, argv, cwd, env, hold, keeper })
    }

    /// Waits for a request and its descriptors.
    pub(super) fn receive(line: &mut UnixStream) -> io::Result<(Self, Vec<OwnedFd>)> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut length)];
        let received = recvmsg(&mut *line, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        line.read_exact(length.get_mut(received.bytes..).unwrap_or_default())?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        line.read_exact(&mut body)?;
        let request = Self::decode(&body).ok_or(io::ErrorKind::InvalidData)?;
        Ok((request, descriptors))
    }
}

/// Sends the beginning of a request with its descriptors. Returns how many bytes were sent.
pub(super) fn send(
    line: impl AsFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let iov = [IoSlice::new(message)];
    Ok(sendmsg(line, &iov, &mut control, SendFlags::NOSIGNAL)?)
}

/// An order to a guardian; the end of the line also means [`Kill`](Self::Kill).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Send SIGTERM to all processes.
    Terminate,
    /// Send SIGKILL to all processes, and exit.
    Kill,
}

impl Order {
    pub(super) fn encode(self) -> [u8; 1] {
        [if self == Self::Terminate { b'T' } else { b'K' }]
    }

    pub(super) fn decode([byte]: [u8; 1]) -> Self {
        if byte == b'T' { Self::Terminate } else { Self::Kill }
    }
}

/// A report from a guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The child is running, contained in this way and with this process ID.
    Started(Held, i32),
    /// The child could not be started, with this error number of the operating system.
    Failed(i32),
    /// The child cannot be contained as requested, with this error number.
    Refused(i32),
    /// The child was stopped by this signal.
    Stopped(i32),
    /// The child was stopped and now continues.
    Continued,
    /// The child has ended with this wait status.
    Ended(i32),
    /// The guardian exits because the kernel reports that it has no children. It killed this many
    /// processes besides the child.
    Gone(i32),
    /// The guardian is still killing processes.
    Ending,
}

/// How a child is contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Descent,
    Cgroup,
    /// In a namespace with its own `/proc`.
    Isolated,
    IsolatedWithoutProc,
}

impl Report {
    pub(super) const LENGTH: usize = 5;

    pub(super) fn encode(self) -> [u8; Self::LENGTH] {
        let (kind, number) = match self {
            Self::Started(Held::Descent, number) => (b'S', number),
            Self::Started(Held::Cgroup, number) => (b'C', number),
            Self::Started(Held::Isolated, number) => (b'I', number),
            Self::Started(Held::IsolatedWithoutProc, number) => (b'P', number),
            Self::Failed(number) => (b'F', number),
            Self::Refused(number) => (b'R', number),
            Self::Stopped(signal) => (b'T', signal),
            Self::Continued => (b'N', 0),
            Self::Ended(number) => (b'X', number),
            Self::Gone(number) => (b'G', number),
            Self::Ending => (b'E', 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    /// Sends the report if there is room. Never waits, because a process that does not read the reports
    /// must not block its guardian.
    pub(super) fn send(self, line: impl AsFd) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::send(line, &self.encode(), flags);
    }

    pub(super) fn decode([kind, number @ ..]: [u8; Self::LENGTH]) -> Option<Self> {
        let number = i32::from_le_bytes(number);
        match kind {
            b'S' => Some(Self::Started(Held::Descent, number)),
            b'C' => Some(Self::Started(Held::Cgroup, number)),
            b'I' => Some(Self::Started(Held::Isolated, number)),
            b'P' => Some(Self::Started(Held::IsolatedWithoutProc, number)),
            b'F' => Some(Self::Failed(number)),
            b'R' => Some(Self::Refused(number)),
            b'T' => Some(Self::Stopped(number)),
            b'N' => Some(Self::Continued),
            b'X' => Some(Self::Ended(number)),
            b'G' => Some(Self::Gone(number)),
            b'E' => Some(Self::Ending),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_arrives_unchanged_with_its_descriptors() {
        let odd = OsString::from_vec(vec![0xff, b' ', b'\n']);
        let plain = Request {
            program: "/bin/x".into(),
            argv: vec!["x".into(), String::new().into(), odd.clone()],
            cwd: None,
            env: Vec::new(),
            hold: Hold::Auto,
            keeper: false,
        };
        let full = Request {
            cwd: Some("/".into()),
            env: vec![("A".into(), odd), ("B".into(), OsString::new())],
            hold: Hold::Isolated,
            keeper: true,
            ..plain.clone()
        };
        for request in [plain, full] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let message = request.encode();
            let null = std::fs::File::open("/dev/null").unwrap();
            let sent = send(&ours, &message, &[null.as_fd(), null.as_fd()]).unwrap();
            assert_eq!(sent, message.len());
            let (received, descriptors) = Request::receive(&mut theirs).unwrap();
            assert_eq!((received, descriptors.len()), (request, 2));
        }
    }

    #[test]
    fn orders_and_reports_arrive_unchanged() {
        for order in [Order::Terminate, Order::Kill] {
            assert_eq!(Order::decode(order.encode()), order);
        }
        let held = [Held::Descent, Held::Cgroup, Held::Isolated, Held::IsolatedWithoutProc];
        let others = [
            Report::Failed(2),
            Report::Refused(3),
            Report::Stopped(19),
            Report::Continued,
            Report::Ended(i32::MIN),
            Report::Gone(0),
            Report::Ending,
        ];
        for report in held.map(|held| Report::Started(held, 1)).into_iter().chain(others) {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode(*b"?1234"), None);
    }
}
