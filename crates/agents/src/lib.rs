//! Support for specific programs on top of a line of messages: their types and their deviations. How to build such
//! support on a JSON-RPC peer is shown by `crates/rpc/examples/xi`.

#[cfg(unix)]
pub mod claude;
