//! One core for everybody, where the time to wake another core would hide what is measured.

use crate::compare::Result;

/// As long as it lives, this process and what it starts run on one core.
///
/// Whether two processes that wait for each other share a core or not changes a round trip by more
/// than anything measured here, and the scheduler decides it anew every now and then. On one core a
/// round trip is the work of both ends and two switches between them, on every side the same.
pub(crate) struct Pinned {
    before: imp::Cores,
}

impl Pinned {
    pub(crate) fn to_one_core() -> Result<Self> {
        let before = imp::cores()?;
        imp::confine(&imp::one_of(&before))?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = imp::confine(&self.before) {
            eprintln!("tieline-bench: still on one core: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use super::Result;
    use std::fs;

    use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

    pub(super) type Cores = CpuSet;

    pub(super) fn cores() -> Result<Cores> {
        Ok(sched_getaffinity(None)?)
    }

    pub(super) fn one_of(cores: &Cores) -> Cores {
        let mut one = CpuSet::new();
        if let Some(core) = (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)) {
            one.set(core);
        }
        one
    }

    /// Every thread: also the one that starts the children of tieline.
    pub(super) fn confine(cores: &Cores) -> Result<()> {
        for thread in fs::read_dir("/proc/self/task")? {
            let id = thread?.file_name().to_str().and_then(|id| id.parse().ok());
            if let Some(thread) = id.and_then(Pid::from_raw) {
                sched_setaffinity(Some(thread), cores)?;
            }
        }
        Ok(())
    }
}

/// Elsewhere the scheduler keeps its freedom.
#[cfg(not(target_os = "linux"))]
mod imp {
    use super::Result;

    pub(super) type Cores = ();

    pub(super) fn cores() -> Result<Cores> {
        Ok(())
    }

    pub(super) fn one_of((): &Cores) -> Cores {}

    pub(super) fn confine((): &Cores) -> Result<()> {
        Ok(())
    }
}
