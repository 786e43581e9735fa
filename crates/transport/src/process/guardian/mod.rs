//! A guardian between us and a child.
//!
//! ```text
//!   we ── socket pair ──▶ guardian (child subreaper)
//!    │  orders, reports        │ parent of
//!    └──── three pipes ───▶  child ── its own children, and theirs …
//! ```
//!
//! The socket is the guardian's life: when our end of it is closed, by us or by our own end, it
//! kills and reaps until the kernel says that it has no children. A descendant that calls `setsid`
//! and loses its parent becomes its child, so there is none that it does not find.
//!
//! Where it can, the guardian puts the child into a cgroup, and where it is asked to, into a PID
//! namespace ([`Hold`](crate::Hold)).
//!
//! [`handle`] is our side, [`state`] the guardian's, [`exec`] how it starts the program, [`group`] and
//! [`isolate`] the two that hold more firmly, [`keeper`] what stands behind a guardian, [`wire`] what they say, [`tree`] how processes are listed
//! and signalled.

mod exec;
pub(super) mod group;
pub(super) mod handle;
mod isolate;
pub(super) mod keeper;
mod state;
pub(super) mod tree;
mod wire;

pub(crate) use state::run as guard;
