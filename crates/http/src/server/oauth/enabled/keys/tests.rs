#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

const KEY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#;

/// What a fetch does, and how often it was started.
#[derive(Default)]
struct Issuer {
    fetches: AtomicUsize,
    fails: Mutex<bool>,
    /// How long a fetch takes.
    delay: Mutex<Duration>,
}

impl Issuer {
    fn keys(self: &Arc<Self>) -> Keys {
        let issuer = self.clone();
        Keys::new("https://example.org", move || {
            issuer.fetches.fetch_add(1, Relaxed);
            let (fails, delay) = (*lock(&issuer.fails), *lock(&issuer.delay));
            Box::pin(async move {
                tokio::time::sleep(delay).await;
                match fails {
                    true => Err("no".to_owned()),
                    false => KeySet::parse(KEY.as_bytes()),
                }
            })
        })
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Relaxed)
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_until_they_are_not_fresh_and_then_fetched_in_the_background() {
    let issuer = Arc::new(Issuer::default());
    let keys = issuer.keys();
    let first = keys.current().await.unwrap();
    pass(FRESH - Duration::from_secs(1)).await;
    assert!(Arc::ptr_eq(&first, &keys.current().await.unwrap()));
    assert_eq!(issuer.fetches(), 1);
    pass(Duration::from_secs(1)).await;
    // The old keys are returned at once.
    assert!(Arc::ptr_eq(&first, &keys.current().await.unwrap()));
    keys.settled().await;
    assert!(!Arc::ptr_eq(&first, &keys.current().await.unwrap()));
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_not_used_for_longer_than_an_hour_after_the_last_fetch() {
    let issuer = Arc::new(Issuer::default());
    let keys = issuer.keys();
    assert!(keys.current().await.is_some());
    *lock(&issuer.fails) = true;
    pass(USABLE - Duration::from_secs(1)).await;
    assert!(keys.current().await.is_some());
    keys.settled().await;
    pass(RETRY_INTERVAL).await;
    assert!(keys.current().await.is_none());
    *lock(&issuer.fails) = false;
    assert!(keys.current().await.is_none(), "it has just failed");
    pass(RETRY_INTERVAL).await;
    assert!(keys.current().await.is_some());
    assert_eq!(issuer.fetches(), 4);
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_cause_at_most_one_fetch_in_30_seconds() {
    let issuer = Arc::new(Issuer::default());
    let keys = issuer.keys();
    let mut known = keys.current().await.unwrap();
    for round in 0..3 {
        for _ in 0..100 {
            assert!(keys.newer(&known).await.is_none());
        }
        assert_eq!(issuer.fetches(), 1 + round);
        pass(UNKNOWN_INTERVAL).await;
        let newer = keys.newer(&known).await.unwrap();
        assert_eq!(issuer.fetches(), 2 + round);
        known = newer;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_issuer_is_given_up_and_all_clients_wait_for_the_same_fetch() {
    let issuer = Arc::new(Issuer::default());
    *lock(&issuer.delay) = Duration::from_secs(3600);
    let keys = Arc::new(issuer.keys());
    let start = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let keys = keys.clone();
        waiting.spawn(async move { keys.current().await.is_none() });
    }
    assert!(waiting.join_all().await.into_iter().all(|is_none| is_none));
    assert_eq!((issuer.fetches(), start.elapsed()), (1, FETCH_LIMIT));
}

#[tokio::test(start_paused = true)]
async fn fetch_goes_on_when_its_client_leaves_and_ends_with_the_server() {
    let issuer = Arc::new(Issuer::default());
    *lock(&issuer.delay) = Duration::from_secs(2);
    let keys = issuer.keys();
    assert!(timeout(Duration::from_secs(1), keys.current()).await.is_err());
    assert!(keys.current().await.is_some());
    assert_eq!(issuer.fetches(), 1);
    pass(FRESH).await;
    keys.start(RETRY_INTERVAL);
    assert_eq!(issuer.fetches(), 2);
    let mut state = keys.state.subscribe();
    drop(keys);
    assert!(state.wait_for(|_| false).await.is_err(), "the task is gone");
    assert!(state.borrow().is_fetching, "it did not finish");
}
