//! Functions that wait for events. Their limits make a test that hangs fail, and do not measure speed.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The longest time to wait. No event takes this long on any machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Returns the outcome of `event`. Panics if it takes longer than [`LIMIT`].
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("timed out after {LIMIT:?}: {what}"),
    }
}

/// Runs `test` in a new runtime with two threads. Panics if it takes longer than [`LIMIT`].
#[track_caller]
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    match runtime.block_on(async { tokio::time::timeout(LIMIT, test).await }) {
        Ok(outcome) => outcome,
        Err(_) => panic!("timed out after {LIMIT:?}"),
    }
}

/// Returns the result of the blocking `call`. Panics if it takes longer than [`LIMIT`].
#[track_caller]
pub fn blocking<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(call()));
    match outcome.recv_timeout(LIMIT) {
        Ok(outcome) => outcome,
        Err(_) => panic!("timed out after {LIMIT:?}: {what}"),
    }
}

/// Polls a condition until it is true. Use this only if there is no event to wait for.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out after {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Leaves a Unix socket at `path` that no process has open.
#[cfg(target_os = "linux")]
#[track_caller]
pub fn leave_dead_socket(path: &std::path::Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    until_unheld(path);
}

/// Waits until no process has the Unix socket at `path` open. A child that another test is starting has
/// a copy of every descriptor until it executes its program.
#[cfg(target_os = "linux")]
#[track_caller]
pub fn until_unheld(path: &std::path::Path) {
    let path = path.to_str().unwrap();
    until("no process holds the socket", || {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        !sockets.lines().any(|line| line.ends_with(path))
    });
}

/// Polls the future once and drops it. Returns its output if the future was ready.
pub async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits until the process has ended and was reaped, so that it no longer exists even as a zombie.
#[cfg(target_os = "linux")]
#[track_caller]
pub fn until_reaped(pid: u32) {
    until(&format!("the end of process {pid}"), || state_of(pid).is_none());
}

/// Waits until the process has ended. It may still exist as a zombie.
#[cfg(target_os = "linux")]
#[track_caller]
pub fn until_ended(pid: u32) {
    until(&format!("the end of process {pid}"), || !is_running(pid));
}

/// Returns whether the process exists and has not ended.
#[cfg(target_os = "linux")]
pub fn is_running(pid: u32) -> bool {
    !matches!(state_of(pid), None | Some('Z' | 'X'))
}

/// Returns the letter that describes the state of the process in `/proc`.
#[cfg(target_os = "linux")]
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain any characters, including parentheses.
    stat.rsplit_once(") ")?.1.chars().next()
}
