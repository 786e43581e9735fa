//! `tieline share` on Windows, which refuses.

use std::convert::Infallible;
use std::time::Duration;

use crate::args::{Logging, Share};
use crate::report::Failure;
use crate::status::StatusSource;

/// A server in the background, of which there is none.
pub(crate) struct Background(Infallible);

impl Background {
    pub(crate) fn idle_timeout(&self) -> Duration {
        match self.0 {}
    }

    pub(crate) fn begin(&self, _: StatusSource) -> StatusSource {
        match self.0 {}
    }

    pub(crate) async fn stopped(&self) {
        match self.0 {}
    }
}

#[allow(clippy::unused_async, reason = "the command waits on other systems")]
pub(crate) async fn run(_: Share, _: &Logging) -> Result<(), Failure> {
    Err(Failure::Usage(
        "tieline share is not available on Windows, where a host ends all processes that it has started. Use \
         `tieline serve --dialect mcp --process shared --name NAME -- COMMAND`, and write `tieline connect NAME` in \
         place of the program"
            .into(),
    ))
}
