//! Calls that are made again when they fail.

use std::sync::{Arc, Mutex};

use tieline_proto::{Backoff, BackoffConfig, RetryBudget, RetryBudgetConfig};

use crate::recovery::random;
use crate::shared::lock;

/// A [budget](RetryBudget) for all who call the same other side, so that calling again never makes an
/// overload worse. Clones share it. It has no task.
#[derive(Clone, Debug)]
pub struct Retries {
    budget: Arc<Mutex<RetryBudget>>,
    waits: BackoffConfig,
}

impl Retries {
    /// A full budget. Before a call is made again for the first time it waits up to `waits.first`, and
    /// then as [`Backoff`] says.
    pub fn new(budget: RetryBudgetConfig, waits: BackoffConfig) -> Self {
        Self { budget: Arc::new(Mutex::new(RetryBudget::new(budget))), waits }
    }

    /// Calls, and calls again as long as `again` says of the error that it is a failure of the other
    /// side's and that calling again does no harm, and the budget allows it. All other errors are given
    /// back at once, and cost nothing: the other side has answered.
    ///
    /// ```
    /// # async fn example(retries: tieline_link::Retries) -> std::io::Result<()> {
    /// use std::io::ErrorKind;
    ///
    /// let line = retries
    ///     .run(
    ///         || tokio::net::TcpStream::connect("127.0.0.1:7000"),
    ///         |error| error.kind() == ErrorKind::ConnectionRefused,
    ///     )
    ///     .await?;
    /// # drop(line);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future gives the call up. Needs a tokio runtime with its timer.
    ///
    /// # Errors
    /// The last call's.
    pub async fn run<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        mut call: impl FnMut() -> F,
        again: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut backoff = Backoff::new(self.waits);
        loop {
            let outcome = call().await;
            match &outcome {
                Err(error) if again(error) => {
                    if !lock(&self.budget).failed() {
                        return outcome;
                    }
                }
                Ok(_) => {
                    lock(&self.budget).passed();
                    return outcome;
                }
                Err(_) => return outcome,
            }
            tokio::time::sleep(backoff.next(random())).await;
        }
    }

    /// How many tokens are left: with half of them or fewer, no call is made again.
    pub fn tokens(&self) -> u16 {
        lock(&self.budget).tokens()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    fn retries() -> Retries {
        Retries::new(RetryBudgetConfig::default(), BackoffConfig::LOCAL)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_is_made_again_after_growing_waits() {
        let (retries, calls, begun) = (retries(), Cell::new(0), Instant::now());
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(if calls.get() < 4 { Err("away") } else { Ok(calls.get()) })
        };
        assert_eq!(retries.run(call, |_| true).await, Ok(4));
        let waited = begun.elapsed().as_millis();
        // At once, 50 ms and 80 ms, a fifth more or less.
        assert!((104..=157).contains(&waited), "{waited} ms");
        assert_eq!(retries.tokens(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_to_be_repeated_is_not_and_costs_nothing() {
        let (retries, calls) = (retries(), Cell::new(0));
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(Err::<(), _>("no such method"))
        };
        assert_eq!(retries.run(call, |error| *error == "away").await, Err("no such method"));
        assert_eq!((calls.get(), retries.tokens()), (1, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_fails_the_budget_that_all_share_ends_it() {
        let (retries, calls) = (retries(), Cell::new(0));
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(Err::<(), _>("away"))
        };
        assert_eq!(retries.clone().run(call, |_| true).await, Err("away"));
        assert_eq!(calls.get(), 5);
        assert_eq!(retries.run(call, |_| true).await, Err("away"));
        assert_eq!(calls.get(), 6, "another caller's is not made again at all");
    }
}
