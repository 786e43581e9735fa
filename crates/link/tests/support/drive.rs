//! A client and a server with sessions over a simulated network, and checks of the messages that they
//! received.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "drive_talk.rs"]
mod talk;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_link::{Recovery, SessionOptions, connector, listen};
use tieline_proto::BackoffConfig;
use tieline_proto::session::Delivered;
use tieline_testkit::network::{Events, Network};
use tieline_testkit::random::Random;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Incoming, Options, Receiver, ReceiverExt, Registry,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use talk::{Pauses, Settled, Talk, read};

/// The parameters of a run, all derived from the seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    /// The number of messages in each direction.
    pub(crate) messages: u64,
    pub(crate) kind: Kind,
    /// For how long the network misbehaves.
    pub(crate) wild: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No session is lost, and the last message is sent after the network has calmed down: everything
    /// arrives, and both ends end cleanly.
    Kept,
    /// No session is lost, but the end may be affected by cuts.
    Ends,
    /// The client leaves in the middle.
    Leaves,
    /// The server drops sessions of clients that are away for long, and is restarted.
    Forgets,
}

impl Run {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let kinds = [Kind::Kept, Kind::Kept, Kind::Ends, Kind::Leaves, Kind::Forgets];
        Self {
            seed,
            kind: kinds[(seed % kinds.len() as u64) as usize],
            messages: 1 + random.below(random.clone().pick(&[30, 100, 300])),
            wild: Duration::from_secs(random.pick(&[5, 20, 60])),
        }
    }

    fn grace(&self) -> Duration {
        match self.kind {
            Kind::Forgets => Duration::from_secs(2),
            _ => Duration::from_secs(600),
        }
    }

    fn options(&self, random: &mut Random) -> SessionOptions {
        let at_once =
            BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
        let mut options = SessionOptions {
            recovery: Some(Recovery::Reconnect(at_once)),
            handshake_timeout: Duration::from_secs(2),
            grace: self.grace(),
            ..SessionOptions::default()
        };
        options.session.replay_messages = random.pick(&[1, 3, 30, 1024]);
        options.session.replay_bytes = random.pick(&[1, 2_000, 8 << 20]);
        options
    }
}

/// The observations of both sides.
#[derive(Default)]
struct Seen {
    sessions: Vec<Served>,
    client: Client,
}

/// A session, as the server observed it.
#[derive(Clone, Default, Debug)]
struct Served {
    /// The number of the first message from the client.
    first: Option<u64>,
    taken: u64,
    sent: u64,
    has_settled: bool,
    end: Option<CloseReason>,
}

/// The observations of the client: its consecutive sessions, the last of which may still be open.
#[derive(Default, Debug)]
struct Client {
    generations: Vec<Generation>,
    sent: u64,
    reported: u64,
    has_settled: bool,
    has_left: bool,
    end: Option<CloseReason>,
}

#[derive(Default, Debug)]
struct Generation {
    /// The server's session that the messages came from.
    served: Option<usize>,
    taken: u64,
    words: Option<Delivered>,
    lost: u64,
}

type Shared = Arc<Mutex<Seen>>;

fn see(seen: &Shared) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

/// The totals over all runs.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) delivered: u64,
    pub(crate) complete: u64,
    pub(crate) resets: u64,
    pub(crate) lost: u64,
    pub(crate) events: Events,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { runs, delivered, complete, resets, lost, events } = other;
        self.runs += runs;
        self.delivered += delivered;
        self.complete += complete;
        self.resets += resets;
        self.lost += lost;
        self.events.add(events);
    }
}

impl Run {
    /// Executes the run in its own runtime, in virtual time.
    pub(crate) fn run(self, totals: &mut Totals) {
        let _printed_if_it_panics = Announced(self);
        totals.runs += 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            // The timeout is in virtual time, so a hang reaches it at once.
            let whole = timeout(Duration::from_secs(100_000), self.drive(totals));
            whole.await.expect("the run hangs");
        });
    }

    async fn drive(self, totals: &mut Totals) {
        let seen = Shared::default();
        let network = Network::new(self.seed, self.wild);
        let mut registry = Registry::default();
        registry.register("net", network.clone());
        let (stop, stopped) = watch::channel(false);
        let server =
            tokio::spawn(self.serve(registry.clone(), seen.clone(), network.calm(), stopped));
        self.client(&registry, &seen, network.calm()).await;
        stop.send_replace(true);
        server.await.unwrap();
        totals.events.add(&network.events());
        // Everything in flight has ended by then.
        sleep(Duration::from_secs(120)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!((tasks, network.halves()), (0, 0), "tasks or halves of connections are left");
        drop(registry);
        assert!(network.is_alone(), "the session still holds the network");
        self.judge(&see(&seen), totals);
    }

    async fn client(self, registry: &Registry, seen: &Shared, calm: Instant) {
        let mut random = Random::new(self.seed ^ 0xc11e_c11e);
        let options = self.options(&mut random);
        let endpoint = Network::endpoint().resumable();
        let connector = connector(registry, &endpoint, &Options::default(), options).unwrap();
        let session = loop {
            match connector.connect().await {
                Ok(session) => break session,
                // The first connection is not retried by the session.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        see(seen).client.generations.push(Generation::default());
        let (to_server, from_server) = session.split();
        let leaves = (self.kind == Kind::Leaves).then(|| random.below(self.messages + 1));
        let (left, leaving) = watch::channel(false);
        let sender = {
            let (seen, random) = (seen.clone(), Random::new(self.seed ^ 0x5e4d));
            let talk = Talk { run: self, calm, random, leaves };
            tokio::spawn(async move {
                let sent = |sent| see(&seen).client.sent = sent;
                let reported = |lost| see(&seen).client.reported += lost;
                let settled = talk.send(to_server, "c", sent, reported).await;
                match settled {
                    Settled::Left => see(&seen).client.has_left = true,
                    Settled::Yes => see(&seen).client.has_settled = true,
                    Settled::No => {}
                }
                left.send_replace(matches!(settled, Settled::Left));
            })
        };
        self.client_receives(from_server, seen, leaving).await;
        sender.await.unwrap();
    }

    async fn client_receives(
        self,
        mut receiver: Box<dyn Receiver>,
        seen: &Shared,
        mut leaving: watch::Receiver<bool>,
    ) {
        let mut pauses = Pauses::new(self.seed ^ 0x4ecc);
        loop {
            let incoming = tokio::select! {
                biased;
                Ok(_) = leaving.wait_for(|left| *left) => return,
                incoming = receiver.recv() => incoming,
            };
            {
                let client = &mut see(seen).client;
                let generation = client.generations.last_mut().unwrap();
                match incoming {
                    Incoming::Message(message) => {
                        let (side, number) = read(&message);
                        let served = side.strip_prefix('s').unwrap().parse().unwrap();
                        assert_eq!(
                            *generation.served.get_or_insert(served),
                            served,
                            "messages of two sessions"
                        );
                        assert_eq!(number, generation.taken, "lost, duplicated or out of order");
                        generation.taken += 1;
                    }
                    Incoming::Reset(reset) => {
                        let CloseReason::SessionLost(lost) = &reset.cause else {
                            panic!("{}", reset.cause)
                        };
                        (generation.words, generation.lost) = (Some(lost.delivered), reset.lost);
                        client.generations.push(Generation::default());
                    }
                    Incoming::End(reason) => {
                        client.end = Some(reason);
                        return;
                    }
                    other => panic!("{other:?}"),
                }
            }
            pauses.next().await;
        }
    }

    async fn serve(
        self,
        registry: Registry,
        seen: Shared,
        calm: Instant,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut random = Random::new(self.seed ^ 0x5e4e);
        let options = self.options(&mut random);
        let endpoint = Network::endpoint().resumable();
        let restarts = if self.kind == Kind::Forgets { random.below(3) } else { 0 };
        for restart in 0..=restarts {
            let usual = Options::default();
            let listening = listen(&registry, &endpoint, &usual, options);
            let mut acceptor = listening.await.unwrap();
            let mut sessions = JoinSet::new();
            let stops_at = Instant::now() + Duration::from_millis(random.below(20_000));
            loop {
                tokio::select! {
                    accepted = acceptor.accept() => {
                        let session = accepted.unwrap();
                        sessions.spawn(self.served(session, seen.clone(), calm));
                    }
                    Some(ended) = sessions.join_next() => ended.unwrap(),
                    () = sleep_until(stops_at), if restart < restarts => break,
                    Ok(_) = stopped.wait_for(|stopped| *stopped), if sessions.is_empty() => return,
                }
            }
            drop(acceptor);
            sessions.shutdown().await;
            sleep(Duration::from_millis(random.below(3_000))).await;
        }
    }

    async fn served(self, session: BoxChannel, seen: Shared, calm: Instant) {
        let (to_client, mut from_client) = session.split();
        let number = {
            let sessions = &mut see(&seen).sessions;
            sessions.push(Served::default());
            sessions.len() - 1
        };
        let mut tasks = JoinSet::new();
        let random = Random::new(self.seed ^ 0x7a1c ^ number as u64);
        let talk = Talk { run: self, calm, random, leaves: None };
        let of_sender = seen.clone();
        tasks.spawn(async move {
            let sent = |sent| see(&of_sender).sessions[number].sent = sent;
            let reported = |_| panic!("a server begins no other session");
            if let Settled::Yes = talk.send(to_client, &format!("s{number}"), sent, reported).await
            {
                see(&of_sender).sessions[number].has_settled = true;
            }
        });
        let mut pauses = Pauses::new(self.seed ^ 0x4ed5);
        loop {
            match from_client.recv().await {
                Incoming::Message(message) => {
                    let (side, place) = read(&message);
                    assert_eq!(side, "c");
                    let session = &mut see(&seen).sessions[number];
                    let first = *session.first.get_or_insert(place);
                    assert_eq!(place, first + session.taken, "lost, duplicated or out of order");
                    session.taken += 1;
                }
                Incoming::End(reason) => {
                    see(&seen).sessions[number].end = Some(reason);
                    break;
                }
                other => panic!("{other:?}"),
            }
            pauses.next().await;
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }

    /// Checks that the observations of both sides match, and that the reported losses are correct.
    fn judge(self, seen: &Seen, totals: &mut Totals) {
        let Seen { sessions, client } = seen;
        let generations = client.generations.len();
        let mut base = 0;
        for (place, generation) in client.generations.iter().enumerate() {
            let of_end = match &client.end {
                Some(CloseReason::SessionLost(lost)) if place + 1 == generations => {
                    Some(lost.delivered)
                }
                _ => None,
            };
            let words = generation.words.or(of_end);
            let sent = words.map_or(client.sent - base, |words| words.sent);
            // A server's session whose first message is in this range belongs to this generation.
            let mut served = sessions.iter().filter(|session| {
                session.first.is_some_and(|at| (base..base + sent).contains(&at))
            });
            let (taken, first) =
                served.next().map_or((0, base), |session| (session.taken, session.first.unwrap()));
            assert!(
                served.next().is_none(),
                "one generation in two sessions: {client:?} {sessions:?}"
            );
            assert_eq!(first, base, "the first messages are missing: {client:?} {sessions:?}");
            if let Some(Delivered { acknowledged, sent }) = words {
                let is_true = acknowledged <= taken && taken <= sent;
                assert!(is_true, "{acknowledged} <= {taken} <= {sent}: {client:?} {sessions:?}");
            }
            if let Some(words) = generation.words {
                assert_eq!(generation.lost, words.sent - words.acknowledged);
                totals.lost += words.sent - taken;
            }
            base += sent;
            totals.delivered += taken + generation.taken;
        }
        assert_eq!(base, client.sent, "messages belong to no generation: {client:?}");
        let lost: u64 = client.generations.iter().map(|generation| generation.lost).sum();
        // A client that has left, or has lost its last session, may not have flushed again.
        assert!(client.reported <= lost, "{} reported, {lost} lost", client.reported);
        if client.has_settled {
            assert_eq!(client.reported, lost, "all losses must be reported");
        }
        for (number, session) in sessions.iter().enumerate() {
            let of_client =
                client.generations.iter().find(|generation| generation.served == Some(number));
            let taken = of_client.map_or(0, |generation| generation.taken);
            assert!(taken <= session.sent);
            if let Some(CloseReason::SessionLost(lost)) = &session.end {
                let Delivered { acknowledged, sent } = lost.delivered;
                assert!(acknowledged <= taken && taken <= sent, "{lost}: {taken}");
            }
            assert!(
                !session.has_settled || taken == self.messages,
                "settled, but {taken} received"
            );
        }
        totals.resets += generations as u64 - 1;
        match self.kind {
            Kind::Kept => self.is_whole(seen, true),
            Kind::Ends => self.is_whole(seen, false),
            Kind::Leaves => assert_eq!(generations, 1, "{client:?}"),
            Kind::Forgets => return,
        }
        totals.complete += u64::from(!client.has_left);
    }

    /// Checks that everything has arrived and, with `cleanly`, that both ends have ended cleanly.
    fn is_whole(self, Seen { sessions, client }: &Seen, cleanly: bool) {
        assert_eq!(
            client.generations.len(),
            1,
            "the session was lost without a reason: {client:?}"
        );
        let served = sessions.iter().find(|session| session.first.is_some()).unwrap();
        assert_eq!((served.taken, client.sent), (self.messages, self.messages), "{client:?}");
        assert_eq!(client.generations[0].taken, self.messages, "{client:?} {served:?}");
        if cleanly {
            let ends = [&client.end, &served.end].map(|end| end.as_ref().unwrap().is_clean());
            assert_eq!(ends, [true; 2], "{client:?} {served:?}");
            assert!(client.has_settled && served.has_settled, "{client:?} {served:?}");
        }
    }
}

/// Prints how to reproduce a failed run.
struct Announced(Run);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Run { seed, .. } = self.0;
            eprintln!("{:?}", self.0);
            eprintln!(
                "reproduce: TIELINE_SEED={seed} cargo test -p tieline-link --test session_driver"
            );
        }
    }
}
