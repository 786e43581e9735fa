//! A client's connector to the programs of a pool.

use std::sync::{Arc, Mutex};

use tieline_transport::{BoxChannel, BoxFuture, DynConnector, TransportError};

use super::{Place, Pool};
use crate::lock::lock;

/// A connector for one client. Each connection is to a program that has had no client before.
pub(super) struct ForClient {
    pool: Arc<Pool>,
    /// The place of the program that the client uses. The client's link drops the connector after the program has
    /// been stopped.
    place: Mutex<Option<Place>>,
}

impl ForClient {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, place: Mutex::default() }
    }
}

impl DynConnector for ForClient {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            let own = lock(&self.place).take();
            let (channel, place) = self.pool.take(own).await?;
            *lock(&self.place) = Some(place);
            Ok(channel)
        })
    }
}
