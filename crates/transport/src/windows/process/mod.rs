//! A child process on Windows: in a job from before its first instruction, on pipes whose reads can be
//! cancelled. What is not here is as everywhere, in `process`.

mod command_line;
pub(crate) mod held;
mod job;
pub(crate) mod pipes;
pub(crate) mod reaper;
pub(crate) mod resolve;
mod spawn;
pub(crate) mod start;
mod wait;
