//! A line that comes back, and a client that comes and goes.

mod client;
mod link;
mod receiver;
mod recovery;
mod shared;
mod state;

pub use client::{Client, ClientOptions, Messages};
pub use link::{Link, LinkOptions, LinkSender};
pub use receiver::LinkReceiver;
pub use recovery::Recovery;
pub use state::{State, States};
