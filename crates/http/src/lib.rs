//! The line on the web.
//!
//! ```text
//!   ws://host/ws ── connect ──▶ WebChannel ◀── accept ── Web: one listener, and a gate in front of all
//! ```

mod address;
mod channel;
mod client;
mod handshake;
mod server;
mod stream;
mod tls;
mod token;

pub use address::{Place, WebAddress};
pub use channel::{WebChannel, WebReceiver, WebSender, WebSocketConfig};
pub use client::{ClientConfig, connect, register};
pub use handshake::{PLAIN, RESUMABLE, TOKEN_PREFIX};
pub use server::{Access, ServerConfig, ServerCounts, ServerLimits, Web, WebAcceptor};
pub use tls::{ClientTls, ServerTls};
pub use token::Token;
