//! The accept loop of a server.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::channel::{BoxChannel, Channel, DynAcceptor};
use crate::close::CloseReason;
use crate::error::{ConfigError, TransportError};

/// The pause after an accept that failed but may succeed later, for example when there is a free file
/// descriptor again.
const PAUSE: Duration = Duration::from_secs(1);

/// The limits of [`serve`].
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// The maximum number of channels served at once; 1,024 by default. While that many are open, no
    /// more are accepted, and clients wait in the backlog of the operating system.
    pub max_channels: usize,
    /// How long handlers may continue after the stop signal; 10 s by default. After that time they are
    /// dropped, which ends their channels.
    pub drain: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { max_channels: 1024, drain: Duration::from_secs(10) }
    }
}

/// Accepts channels until `stop` completes, and runs `handler` for each of them in a separate task.
///
/// An accept that fails for lack of file descriptors or memory is logged and retried after a second. A
/// handler that panics ends only its own channel.
///
/// After `stop`, no channel is accepted, and the running handlers have [`ServeOptions::drain`] to
/// finish. Until then, the acceptor stays open, so that sessions can resume and finish. Dropping the
/// future ends all channels at once.
///
/// ```
/// use tieline_transport::{
///     Channel, Options, ReceiverExt, Registry, SenderExt, ServeOptions, serve,
/// };
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let registry = Registry::new();
/// let acceptor = registry.listen(&"mem:echo".parse()?, &Options::default()).await?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let serving = tokio::spawn(serve(acceptor, ServeOptions::default(), stopped, |channel| async {
///     let (mut sender, mut receiver) = channel.split();
///     while let Some(message) = receiver.next_message().await {
///         if sender.send(message).await.is_err() {
///             break;
///         }
///     }
/// }));
///
/// let client = registry.connect(&"mem:echo".parse()?, &Options::default()).await?;
/// let (mut sender, mut receiver) = client.split();
/// sender.send("hello").await?;
/// assert_eq!(receiver.next_message().await.unwrap(), "hello");
///
/// drop((sender, receiver));
/// drop(stop);
/// serving.await??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// An option is out of bounds, or accepting failed with an error that is not retryable. In the second
/// case, the running handlers also have [`ServeOptions::drain`] to finish.
pub async fn serve<H, F>(
    mut acceptor: Box<dyn DynAcceptor>,
    options: ServeOptions,
    stop: impl Future,
    handler: H,
) -> Result<(), TransportError>
where
    H: Fn(BoxChannel) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    if options.max_channels == 0 {
        return Err(ConfigError { field: "max_channels", must: "be at least 1" }.into());
    }
    let mut stop = pin!(stop);
    let mut handlers = JoinSet::new();
    let ended = loop {
        let has_room = handlers.len() < options.max_channels;
        tokio::select! {
            _ = &mut stop => break Ok(()),
            Some(finished) = handlers.join_next() => log_panic(finished),
            accepted = acceptor.accept(), if has_room => match accepted {
                Ok(channel) => match catch_unwind(AssertUnwindSafe(|| handler(channel))) {
                    Ok(handling) => _ = handlers.spawn(handling),
                    Err(_) => tracing::error!("the handler of a channel panicked"),
                },
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::select! {
                        _ = &mut stop => break Ok(()),
                        () = sleep(PAUSE) => {}
                    }
                }
                Err(error) => break Err(error),
            },
        }
    };
    let drained = timeout(options.drain, async {
        // This keeps the listener working for sessions that resume. New channels are refused.
        let mut refusing = pin!(async {
            loop {
                match acceptor.accept().await {
                    Ok(channel) => _ = channel.control().end(CloseReason::ByUs),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        });
        loop {
            tokio::select! {
                biased;
                finished = handlers.join_next() => match finished {
                    Some(finished) => log_panic(finished),
                    None => break,
                },
                () = &mut refusing => {}
            }
        }
    });
    if drained.await.is_err() {
        tracing::warn!(channels = handlers.len(), "ended channels that did not finish in time");
    }
    ended
}

fn log_panic(finished: Result<(), tokio::task::JoinError>) {
    if let Err(error) = finished {
        tracing::error!(%error, "the handler of a channel panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::{
        BoxFuture, Endpoint, ErrorKind, Incoming, Operation, Options, ReceiverExt, Registry,
        SenderExt,
    };

    fn endpoint() -> Endpoint {
        Endpoint::memory("serve")
    }

    async fn listen(registry: &Registry) -> Box<dyn DynAcceptor> {
        registry.listen(&endpoint(), &Options::default()).await.unwrap()
    }

    async fn connect(registry: &Registry) -> BoxChannel {
        registry.connect(&endpoint(), &Options::default()).await.unwrap()
    }

    async fn echo(channel: BoxChannel) {
        let (mut sender, mut receiver) = channel.split();
        while let Some(message) = receiver.next_message().await {
            assert_ne!(message, "panic");
            if sender.send(message).await.is_err() {
                break;
            }
        }
    }

    #[tokio::test]
    async fn panic_of_one_handler_does_not_affect_the_others() {
        let registry = Registry::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let acceptor = listen(&registry).await;
        let serving = tokio::spawn(serve(acceptor, ServeOptions::default(), stopped, echo));
        let (mut bad, mut bad_receiver) = connect(&registry).await.split();
        bad.send("panic").await.unwrap();
        assert!(matches!(bad_receiver.recv().await, Incoming::End(_)));
        let (mut sender, mut receiver) = connect(&registry).await.split();
        sender.send("a").await.unwrap();
        assert_eq!(receiver.next_message().await.unwrap(), "a");
        drop((sender, receiver, stop));
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn panic_before_a_handler_starts_does_not_end_the_server() {
        let registry = Registry::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let acceptor = listen(&registry).await;
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let handler = move |channel| {
            assert!(!is_first.swap(false, Ordering::Relaxed));
            echo(channel)
        };
        let serving = tokio::spawn(serve(acceptor, ServeOptions::default(), stopped, handler));
        let (_sender, mut receiver) = connect(&registry).await.split();
        assert_eq!(receiver.next_message().await, None);
        let (mut sender, mut receiver) = connect(&registry).await.split();
        sender.send("a").await.unwrap();
        assert_eq!(receiver.next_message().await.unwrap(), "a");
        drop((sender, receiver, stop));
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_that_do_not_finish_are_dropped_after_the_drain() {
        let registry = Registry::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let acceptor = listen(&registry).await;
        let serving = tokio::spawn(serve(acceptor, ServeOptions::default(), stopped, echo));
        let (mut sender, mut receiver) = connect(&registry).await.split();
        sender.send("a").await.unwrap();
        assert_eq!(receiver.next_message().await.unwrap(), "a");
        drop(stop);
        // The handler still works during the drain.
        tokio::task::yield_now().await;
        sender.send("b").await.unwrap();
        assert_eq!(receiver.next_message().await.unwrap(), "b");
        let (_late_sender, mut late) = connect(&registry).await.split();
        assert_eq!(late.next_message().await, None, "a new channel is refused");
        serving.await.unwrap().unwrap();
        assert_eq!(receiver.next_message().await, None);
    }

    #[tokio::test]
    async fn no_more_channels_than_the_limit_are_served_at_once() {
        let registry = Registry::new();
        let (served, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ServeOptions { max_channels: 2, ..ServeOptions::default() };
        let (counter, released) = (served.clone(), release.clone());
        let acceptor = listen(&registry).await;
        let serving = tokio::spawn(serve(acceptor, options, stopped, move |channel| {
            counter.fetch_add(1, Ordering::Relaxed);
            let released = released.clone();
            async move {
                released.notified().await;
                drop(channel);
            }
        }));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(connect(&registry).await.split());
        }
        let mut turns = 0;
        while served.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
            turns += 1;
            assert!(turns < 1_000_000);
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(served.load(Ordering::Relaxed), 2);
        release.notify_one();
        while served.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        release.notify_waiters();
        drop((clients, stop));
        serving.await.unwrap().unwrap();
    }

    /// An acceptor that fails with the given number of retryable errors, and then with an error that is
    /// not retryable.
    struct Failing(usize, Endpoint);

    impl DynAcceptor for Failing {
        fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
            let kind = match self.0 {
                0 => ErrorKind::Io,
                _ => ErrorKind::ResourcesExhausted,
            };
            self.0 = self.0.saturating_sub(1);
            Box::pin(async move { Err(TransportError::new(kind, Operation::Accept)) })
        }

        fn endpoint(&self) -> &Endpoint {
            &self.1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retryable_errors_are_retried_and_others_returned() {
        let acceptor = Box::new(Failing(3, endpoint()));
        let begun = tokio::time::Instant::now();
        let stop = std::future::pending::<()>();
        let error = serve(acceptor, ServeOptions::default(), stop, echo).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io), "{error}");
        assert_eq!(begun.elapsed(), 3 * PAUSE);
    }

    #[tokio::test]
    async fn limit_of_zero_channels_is_refused() {
        let options = ServeOptions { max_channels: 0, ..ServeOptions::default() };
        let acceptor = listen(&Registry::new()).await;
        let error = serve(acceptor, options, std::future::pending::<()>(), echo).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)), "{error}");
    }
}
