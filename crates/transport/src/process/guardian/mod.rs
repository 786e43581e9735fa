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
//! [`leash`] is our side, [`ward`] the guardian's, [`exec`] how it starts the program, [`wire`] what
//! they say, [`tree`] how processes are listed and signalled.

mod exec;
pub(super) mod leash;
pub(super) mod tree;
mod ward;
mod wire;

pub(crate) use ward::run as guard;
