//! The library's one permanent thread on Windows: it sees to it that of a job that was ended nobody is
//! left. The system tells nobody who waits for that and for nothing else, so it is asked, while there is
//! something to ask for.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::job::Job;

/// What is to be done once nobody is left in a job. It is told how many others had to be killed with the
/// child, if that is certain.
pub(crate) type Reaped = Box<dyn FnOnce(Option<u32>) + Send>;

/// How often it is asked: what was killed is gone within milliseconds, unless the system itself is stuck.
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

/// Waits until nobody is left in a job that was ended. Never blocks.
pub(super) fn reap(job: Job, left: u32, then: Option<Reaped>) {
    let dying = Dying { job, left, then };
    match thread() {
        // The thread ends only with the process.
        Ok(thread) => _ = thread.send(Task::Reap(dying)),
        Err(_) => dying.over(None),
    }
}

/// Waits until nothing is left of any program whose line has ended, at most so long; false when
/// something is. Blocks; for the end of a program.
///
/// What was killed and is not gone by then is still ended by the system.
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
                // What one that was being killed was just starting may have come into the job behind
                // those who were.
                dying.iter().for_each(|one| one.job.kill());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for one in dying.extract_if(.., |it| it.job.active().unwrap_or(0) == 0) {
            // One that cannot be asked is not waited for.
            let left = one.job.active().is_some().then_some(one.left);
            one.over(left);
        }
    }
}

impl Dying {
    fn over(self, left: Option<u32>) {
        // It is closed before anybody is told.
        drop(self.job);
        if let Some(then) = self.then {
            then(left);
        }
    }
}
