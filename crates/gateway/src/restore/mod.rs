//! Restores the state of a restarted program.
//!
//! There are two state machines without I/O: a [`Record`] of the messages that make up the state of a program,
//! and a [`Replay`] of these messages to the new program. The dialect defines what counts as state
//! ([`Handshake`](tieline_proto::jsonrpc::Handshake)).

mod record;
mod replay;

pub(crate) use record::Record;
pub(crate) use replay::{Replay, ReplayStep};
