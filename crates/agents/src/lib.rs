//! What known programs add to a JSON-RPC peer, or to a plain line of messages: their types, and what
//! they do differently.

#[cfg(unix)]
pub mod claude;
pub mod xi;
