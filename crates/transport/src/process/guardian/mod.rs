//! A guardian process between this process and a child.
//!
//! ```text
//!   us ── socket pair ──▶ guardian (child subreaper)
//!    │  orders, reports        │ parent of
//!    └──── three pipes ───▶  child ── its descendants …
//! ```
//!
//! The guardian lives as long as our end of the socket: when it is closed, by us or by the end of this
//! process, the guardian kills and reaps until the kernel says that it has no children. A descendant that
//! calls `setsid` and loses its parent becomes the guardian's child, so none is missed.
//!
//! Where possible, the guardian puts the child into a cgroup, and if requested, into a PID namespace
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
