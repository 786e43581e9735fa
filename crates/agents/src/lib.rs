//! Support for specific programs on top of a line of messages: their types, and their deviations from
//! the protocols. `crates/rpc/examples/xi` shows how to build such support on a JSON-RPC peer.

#[cfg(unix)]
pub mod claude;
