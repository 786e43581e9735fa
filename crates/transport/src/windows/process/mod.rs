//! Child processes on Windows: in a job from before the first instruction, with pipes whose reads can be
//! canceled. The platform-independent parts are in `process`.

mod command_line;
pub(crate) mod held;
mod job;
pub(crate) mod pipes;
pub(crate) mod reaper;
pub(crate) mod resolve;
mod spawn;
pub(crate) mod start;
mod wait;
