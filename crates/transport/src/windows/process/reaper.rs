//! The library's only permanent thread on Windows. It waits until ended jobs contain no processes. The
//! system has no event for that, so the thread polls while there are ended jobs.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::job::Job;

/// A function that is called when a job contains no processes. The argument is the number of other
/// processes that were killed with the child, if it is certain.
pub(crate) type Reaped = Box<dyn FnOnce(Option<u32>) + Send>;

/// The first and the longest polling interval. Killed processes end within milliseconds, unless the
/// system itself hangs.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

enum Task {
    Reap(Dying),
    Tell(Sender<()>),
}

/// A job that was ended.
struct Dying {
    job: Job,
    left: u32,
    then: Option<Reaped>,
}

/// Passes an ended job to the thread, which waits until it contains no processes. Never blocks.
pub(super) fn reap(job: Job, left: u32, then: Option<Reaped>) {
    let dying = Dying { job, left, then };
    match thread() {
        // The thread ends only with the process.
        Ok(thread) => _ = thread.send(Task::Reap(dying)),
        Err(_) => dying.over(None),
    }
}

/// Waits until all processes whose line has ended no longer exist. Returns false if some still exist
/// after `limit`. This blocks the thread; call it at the end of a program.
///
/// The system still ends the killed processes that exist after `limit`.
pub fn until_children_are_gone(limit: Duration) -> bool {
    let Some(Ok(thread)) = THREAD.get() else { return true };
    let (told, wait) = channel();
    thread.send(Task::Tell(told)).is_ok() && wait.recv_timeout(limit).is_ok()
}

static THREAD: OnceLock<Result<Sender<Task>, io::ErrorKind>> = OnceLock::new();

fn thread() -> io::Result<Sender<Task>> {
    let started = THREAD.get_or_init(|| {
        let (sender, tasks) = channel();
        let builder = std::thread::Builder::new().name("tieline-process".into());
        let spawned = builder.spawn(move || run(&tasks));
        spawned.map(|_| sender).map_err(|error| error.kind())
    });
    started.clone().map_err(io::Error::from)
}

fn run(tasks: &Receiver<Task>) {
    let (mut dying, mut waiting) = (Vec::<Dying>::new(), Vec::<Sender<()>>::new());
    let mut pause = FIRST_PAUSE;
    loop {
        let task = if dying.is_empty() {
            waiting.drain(..).for_each(|told| _ = told.send(()));
            tasks.recv().map_err(RecvTimeoutError::from)
        } else {
            tasks.recv_timeout(pause)
        };
        match task {
            Ok(Task::Reap(one)) => {
                dying.push(one);
                pause = FIRST_PAUSE;
            }
            Ok(Task::Tell(told)) => waiting.push(told),
            Err(RecvTimeoutError::Timeout) => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                // A process that was being killed may have added to the job another process that it was
                // just starting.
                dying.iter().for_each(|one| one.job.kill());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let is_over = |it: &Dying| it.job.active().unwrap_or(0) == 0;
        let (over, rest): (Vec<_>, Vec<_>) = dying.into_iter().partition(is_over);
        dying = rest;
        for one in over {
            // The thread does not wait for a job that cannot be queried.
            let left = one.job.active().is_some().then_some(one.left);
            one.over(left);
        }
    }
}

impl Dying {
    fn over(self, left: Option<u32>) {
        // The job is closed before the callback is called.
        drop(self.job);
        if let Some(then) = self.then {
            then(left);
        }
    }
}
