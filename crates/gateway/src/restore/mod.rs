//! What a program that was started again is told, so that it can take the place of the one before it.
//!
//! Two machines without I/O: the [`Record`] of what makes up the state of a program, and the [`Replay`]
//! of it. What counts as state is the dialect's to say ([`Handshake`](tieline_proto::jsonrpc::Handshake)).

mod record;
mod replay;

pub(crate) use record::Record;
pub(crate) use replay::{Heard, Replay};
