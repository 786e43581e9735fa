//! Kernel queries about a descriptor: its readiness, and how many bytes it still holds.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` for `interest`. Must be called within a runtime.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and refers to the same open file until it is dropped. The `AsyncFd`
    // owns it from here on, and drops it last.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

/// Returns how many written bytes the kernel still holds for `socket`: bytes that the peer has not
/// acknowledged (TCP) or not read (Unix sockets, in whole buffers). Returns `None` if the kernel does
/// not report it.
#[cfg(target_os = "linux")]
pub fn unsent(socket: impl AsFd) -> Option<usize> {
    use rustix::ioctl::{Getter, Opcode, ioctl};
    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;
    // SAFETY: this request writes one `int` and reads nothing.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, libc::c_int>::new()) };
    usize::try_from(bytes.ok()?).ok()
}

/// Returns `None`. On this system, a socket becomes writable as soon as some bytes were sent, so the
/// count is not needed.
#[cfg(not(target_os = "linux"))]
pub fn unsent(_: impl AsFd) -> Option<usize> {
    None
}

/// Returns how many bytes can be read from a socket or, for either end of a pipe, from the pipe. Returns
/// `None` if the kernel does not report this. For the write end of a pipe, only Linux reports it.
pub(crate) fn unread(fd: impl AsFd) -> Option<u64> {
    rustix::io::ioctl_fionread(fd).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Fills `to`, then reads from `from` until `count` decreases.
    fn counts_down(
        mut to: impl Write + AsFd,
        mut from: impl Read,
        count: impl Fn(std::os::fd::BorrowedFd<'_>) -> Option<u64>,
    ) {
        assert_eq!(count(to.as_fd()), Some(0));
        let mut written = 0;
        let chunk = [7; 64 * 1024];
        while let Ok(more) = to.write(&chunk) {
            written += more;
        }
        let full = count(to.as_fd()).unwrap();
        assert!(full > 0, "{written} bytes were written");
        let mut buffer = [0; 1024];
        let mut read = 0;
        while read < written && count(to.as_fd()).unwrap() >= full {
            read += from.read(&mut buffer).unwrap();
        }
        assert!(read < written, "the count fell only when all bytes were read");
    }

    #[test]
    fn unix_socket_reports_unread_bytes() {
        let (to, from) = UnixStream::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        counts_down(to, from, |fd| unsent(fd)?.try_into().ok());
    }

    #[test]
    fn tcp_socket_reports_unacknowledged_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (from, _) = listener.accept().unwrap();
        to.set_nonblocking(true).unwrap();
        counts_down(to, from, |fd| unsent(fd)?.try_into().ok());
    }

    #[test]
    fn pipe_reports_unread_bytes() {
        let (from, to) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&to, true).unwrap();
        counts_down(to, from, |fd| unread(fd));
    }
}
