//! The pipes between this process and a child. Our ends are overlapped named pipes, because reading from
//! an anonymous pipe needs a thread that cannot be interrupted. The child's ends are plain handles.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use tokio::time::Sleep;
use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, ERROR_PIPE_NOT_CONNECTED};
use windows_sys::Win32::Storage::FileSystem::SECURITY_IDENTIFICATION;

use crate::control::BoxFuture;
use crate::process::lifecycle::Lifecycle;
use crate::windows::ended::has_ended;
use crate::windows::is_code;
use crate::windows::security::{self, Descriptor};

/// How many bytes a pipe holds before its writer waits.
const BUFFER: u32 = 64 * 1024;

/// The maximum size of one write.
const WRITE: usize = 64 * 1024;

/// Creates a pipe to the child. Returns our end and the child's.
pub(super) fn to_child() -> io::Result<(ToChild, File)> {
    let mut options = ServerOptions::new();
    options.access_inbound(false);
    let (ours, theirs) = pair(&mut options, OpenOptions::new().read(true))?;
    Ok((ToChild(ours), theirs))
}

/// Creates a pipe from the child. Returns our end and the child's.
pub(super) fn from_child() -> io::Result<(Output, File)> {
    let mut options = ServerOptions::new();
    options.access_outbound(false);
    let (ours, theirs) = pair(&mut options, OpenOptions::new().write(true))?;
    Ok((Output(ours), theirs))
}

/// Creates a connected pipe. Must be called within a runtime.
fn pair(
    server: &mut ServerOptions,
    client: &mut OpenOptions,
) -> io::Result<(NamedPipeServer, File)> {
    // A process that guesses the name could create the pipe first and prevent programs from starting.
    // `RandomState` is seeded randomly.
    let random = RandomState::new().hash_one(std::process::id());
    let path: PathBuf = format!(r"\\.\pipe\tieline-child-{random:016x}").into();
    server.first_pipe_instance(true).max_instances(1).reject_remote_clients(true);
    server.in_buffer_size(BUFFER).out_buffer_size(BUFFER);
    let ours = Descriptor::private()?.create(server, &path)?;
    let theirs = client.security_qos_flags(SECURITY_IDENTIFICATION).open(&path)?;
    {
        // The client has already connected, so this does not wait.
        let mut connecting = pin!(ours.connect());
        let Poll::Ready(connected) =
            connecting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        connected?;
    }
    check_client(&ours)?;
    Ok((ours, theirs))
}

#[allow(unsafe_code)]
fn handle(pipe: &NamedPipeServer) -> BorrowedHandle<'_> {
    // SAFETY: the pipe is borrowed as long as the handle, and cannot be closed during that time.
    unsafe { BorrowedHandle::borrow_raw(pipe.as_raw_handle()) }
}

/// Checks that the client of the pipe's only instance is this process.
fn check_client(ours: &NamedPipeServer) -> io::Result<()> {
    match security::client_of(handle(ours))? == std::process::id() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Our end of the child's stdin.
#[derive(Debug)]
pub(crate) struct ToChild(NamedPipeServer);

impl AsyncWrite for ToChild {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.0).poll_write(cx, bytes.get(..WRITE).unwrap_or(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An empty write is accepted when the one before it is done. The child at most takes it for the
        // end of its input, which follows anyway.
        Pin::new(&mut self.0).poll_write(cx, &[]).map_ok(drop)
    }
}

/// Our end of the child's output. The end of the stream is reached when no process has the other end
/// open.
#[derive(Debug)]
pub(crate) struct Output(NamedPipeServer);

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(Pin::new(&mut self.0).poll_read(cx, buffer)).or_else(end_of_pipe)?;
            let has_room = buffer.remaining() > 0;
            if buffer.filled().len() > before || !has_room || has_ended(handle(&self.0)) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Our end of the child's stdout.
pub struct ChildStdout {
    pipe: Output,
    stage: Stage,
    drain: Duration,
}

enum Stage {
    /// The stream ends with the pipe, or soon after the future is ready.
    Open(BoxFuture<'static, ()>),
    /// All processes in the job were killed. Because a process outside the job may still hold the pipe
    /// open, reading stops when this timer ends.
    Over(Pin<Box<Sleep>>),
}

impl ChildStdout {
    pub(crate) fn new(stdout: Output, lifecycle: &Lifecycle) -> Self {
        let stage = Stage::Open(lifecycle.over());
        Self { pipe: stdout, stage, drain: lifecycle.drain() }
    }
}

impl crate::ReadEnd for ChildStdout {}

impl AsyncRead for ChildStdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(read) = Pin::new(&mut this.pipe).poll_read(cx, buffer) {
                return Poll::Ready(read);
            }
            match &mut this.stage {
                Stage::Open(over) => {
                    ready!(over.as_mut().poll(cx));
                    this.stage = Stage::Over(Box::pin(tokio::time::sleep(this.drain)));
                }
                Stage::Over(patience) => {
                    ready!(patience.as_mut().poll(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// Converts the errors of a pipe whose other end no process has open to the end of the stream.
fn end_of_pipe(error: io::Error) -> io::Result<()> {
    match is_code(&error, &[ERROR_BROKEN_PIPE, ERROR_PIPE_NOT_CONNECTED]) {
        true => Ok(()),
        false => Err(error),
    }
}
