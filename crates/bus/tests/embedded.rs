//! The embedded broker: the conformance suite, and what only a bus within one process can promise.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod conformance;

use conformance::{Scene, conformance};
use tieline_bus::{Broker, Client, ClientLimits, Rights};

struct Embedded(Broker);

impl Scene for Embedded {
    type Client = Client;

    const MAX_SUBSCRIPTIONS: usize = 1024;
    const MAX_MESSAGE: usize = 8 << 20;

    async fn start() -> Self {
        Self(Broker::default())
    }

    async fn client(&self) -> Client {
        self.0.client(Rights::user(), ClientLimits::default())
    }
}

conformance!(Embedded);
