//! The memory limit for all lines together.

use std::sync::OnceLock;

use clap::Args as Group;
use tieline_proto::{ByteSize, ByteSizeError};
use tieline_transport::MemoryBudget;

use crate::memory::default_limit;

/// The memory limit for all lines together.
#[derive(Group)]
pub(super) struct Memory {
    /// Limit the memory for unfinished messages and queues of all lines together, for example 256MiB
    /// [default: a quarter of the memory available]
    ///
    /// At the limit, the line with the largest unfinished message is ended first. The default is a quarter of
    /// the machine's memory, of the cgroup's limit or of the free space below RLIMIT_AS, whichever is smallest.
    #[arg(long, value_name = "SIZE", value_parser = at_least_a_mebibyte)]
    #[arg(hide_short_help = true)]
    max_memory: Option<ByteSize>,
    /// The budget, which is created once and shared by all lines.
    #[arg(skip)]
    budget: OnceLock<MemoryBudget>,
}

impl Memory {
    pub(super) fn budget(&self) -> MemoryBudget {
        let limit = || self.max_memory.unwrap_or_else(default_limit);
        self.budget.get_or_init(|| MemoryBudget::new(limit())).clone()
    }
}

fn at_least_a_mebibyte(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error: ByteSizeError| error.to_string())?;
    match size >= ByteSize::mib(1) {
        true => Ok(size),
        false => Err("must be at least 1MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_at_least_one_mebibyte() {
        assert_eq!(at_least_a_mebibyte("256MiB"), Ok(ByteSize::mib(256)));
        for bad in ["", "0", "1023KiB", "much"] {
            assert!(at_least_a_mebibyte(bad).is_err(), "{bad}");
        }
    }
}
