//! Retrying failed calls within a budget.

use std::sync::{Arc, Mutex};

use tieline_proto::{Backoff, BackoffConfig, RetryBudget, RetryBudgetConfig};

use crate::lock::lock;
use crate::recovery::random;

/// A [retry budget](RetryBudget) shared by all callers of one server, so that retries do not make an
/// overload worse. Clones refer to the same budget. It has no task.
#[derive(Clone, Debug)]
pub struct Retries {
    budget: Arc<Mutex<RetryBudget>>,
    waits: BackoffConfig,
}

impl Retries {
    /// Creates a full budget. The first retry waits up to `waits.first`, later ones wait as [`Backoff`]
    /// specifies.
    pub fn new(budget: RetryBudgetConfig, waits: BackoffConfig) -> Self {
        Self { budget: Arc::new(Mutex::new(RetryBudget::new(budget))), waits }
    }

    /// Runs `call`, and retries it while it fails and the budget allows it. `again` decides whether an
    /// error is a failure of the server after which a retry is safe. Other errors are returned at once and
    /// do not count against the budget.
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
    /// Dropping the future abandons the call. Requires a tokio runtime with its timer.
    ///
    /// # Errors
    /// The error of the last call.
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

    /// Returns the number of tokens left. With half of them left, or fewer, calls are not retried.
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
    async fn failed_call_is_retried_after_growing_waits() {
        let (retries, calls, begun) = (retries(), Cell::new(0), Instant::now());
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(if calls.get() < 4 { Err("away") } else { Ok(calls.get()) })
        };
        assert_eq!(retries.run(call, |_| true).await, Ok(4));
        let waited = begun.elapsed().as_millis();
        // The waits are 0, 50 and 80 ms, each ± 20 %.
        assert!((104..=157).contains(&waited), "{waited} ms");
        assert_eq!(retries.tokens(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_not_retried_and_use_no_tokens() {
        let (retries, calls) = (retries(), Cell::new(0));
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(Err::<(), _>("no such method"))
        };
        assert_eq!(retries.run(call, |error| *error == "away").await, Err("no such method"));
        assert_eq!((calls.get(), retries.tokens()), (1, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn shared_budget_ends_retries_while_all_calls_fail() {
        let (retries, calls) = (retries(), Cell::new(0));
        let call = || {
            calls.set(calls.get() + 1);
            std::future::ready(Err::<(), _>("away"))
        };
        assert_eq!(retries.clone().run(call, |_| true).await, Err("away"));
        assert_eq!(calls.get(), 5);
        assert_eq!(retries.run(call, |_| true).await, Err("away"));
        assert_eq!(calls.get(), 6, "another caller's call is not retried at all");
    }
}
