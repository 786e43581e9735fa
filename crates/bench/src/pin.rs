//! Pins all processes to one core for rows whose figures would otherwise be dominated by the time to
//! wake another core.

use crate::compare::Result;

/// A guard that pins this process and its children to one core until it is dropped.
///
/// A round trip takes much longer if the two processes that wait for each other do not share a core, and
/// the scheduler moves processes from time to time. This effect is larger than any difference measured
/// here. On one core, a round trip consists of the work of both ends and two context switches, for
/// every library that is compared.
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
            eprintln!("tieline-bench: cannot undo the pinning to one core: {error}");
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

    /// Pins all threads, including the one that starts child processes in tieline.
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

/// On other systems, processes are not pinned.
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
