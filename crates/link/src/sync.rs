//! The lock types. A test replaces this module by loom's locks, to try every interleaving of threads.

pub(crate) use std::sync::{Mutex, MutexGuard};
