//! The lock types. A test replaces this module with loom's locks to try every interleaving of threads.

pub(crate) use std::sync::{Mutex, MutexGuard};
