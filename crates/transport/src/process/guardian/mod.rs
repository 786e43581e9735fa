//! A guardian process between this process and a child.
//!
//! ```text
//!   us ── socket pair ──▶ guardian (child subreaper)
//!    │  orders, reports        │ parent of
//!    └──── three pipes ───▶  child ── its descendants …
//! ```
//!
//! The guardian runs until our end of the socket is closed, by us or by the end of this process. It then
//! kills and reaps processes until the kernel reports that it has no children. A descendant that calls
//! `setsid` and loses its parent becomes the guardian's child, so no descendant is missed.
//!
//! The guardian puts the child into a cgroup if it can, and into a PID namespace if that is requested
//! ([`Hold`](crate::Hold)).
//!
//! [`handle`] is our side and [`state`] the guardian's. [`exec`] starts the program, [`group`] and
//! [`isolate`] are the stronger ways to contain it, [`keeper`] is the parent of a guardian, [`wire`] the
//! protocol, and [`tree`] lists and signals processes.

mod exec;
pub(super) mod group;
pub(super) mod handle;
mod isolate;
pub(super) mod keeper;
pub(super) mod last_reports;
mod state;
pub(super) mod tree;
mod wire;

pub(crate) use state::run as guard;
