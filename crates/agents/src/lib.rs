//! What known programs add to a JSON-RPC peer: their types, and what they do differently.

pub mod xi;
