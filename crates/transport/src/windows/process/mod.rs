//! Child processes on Windows. They are in a job before their first instruction, and reads from their
//! pipes can be canceled. The platform-independent parts are in `process`.

mod command_line;
pub(crate) mod held;
mod job;
pub(crate) mod pipes;
pub(crate) mod reaper;
pub(crate) mod resolve;
mod spawn;
pub(crate) mod start;
mod wait;
