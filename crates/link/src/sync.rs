//! What is locked, in one place: a test puts another library's locks here, which tries every order in
//! which threads can take them.

pub(crate) use std::sync::{Mutex, MutexGuard};
