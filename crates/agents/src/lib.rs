//! Support for specific programs on top of a JSON-RPC peer or a plain line of messages: their types and
//! their deviations.

#[cfg(unix)]
pub mod claude;
pub mod xi;
