//! A client and a server that talk in sessions over a network that is not there, and what must be
//! true of what they saw.

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

/// What a run is to be, all of it said by the seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    /// So many messages each way.
    pub(crate) messages: u64,
    pub(crate) kind: Kind,
    /// For so long, things go wrong.
    pub(crate) wild: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody forgets anything, and the last is said when things go wrong no more: all arrives, and
    /// both ends end as they should.
    Kept,
    /// Nobody forgets anything, and the end may fall among the cuts.
    Ends,
    /// The client goes in the midst of it.
    Leaves,
    /// The server forgets who is away for long, and is started again.
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

/// What the two sides saw.
#[derive(Default)]
struct Seen {
    sessions: Vec<Served>,
    client: Client,
}

/// A session, as the server saw it.
#[derive(Clone, Default, Debug)]
struct Served {
    /// The number of the client's first message, and how many there were.
    first: Option<u64>,
    taken: u64,
    sent: u64,
    has_settled: bool,
    end: Option<CloseReason>,
}

/// What the client saw: of each session in turn, the last of which may go on.
#[derive(Default, Debug)]
struct Client {
    lives: Vec<Life>,
    sent: u64,
    told: u64,
    has_settled: bool,
    has_left: bool,
    end: Option<CloseReason>,
}

#[derive(Default, Debug)]
struct Life {
    /// Who speaks, and how much has come.
    served: Option<usize>,
    taken: u64,
    words: Option<Delivered>,
    lost: u64,
}

type Shared = Arc<Mutex<Seen>>;

fn see(seen: &Shared) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

/// What has happened in a run.
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
    /// Runs it in a runtime and a time of its own.
    pub(crate) fn run(self, totals: &mut Totals) {
        let _told_if_it_panics = Announced(self);
        totals.runs += 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            // In virtual time: who waits for ever is here at once.
            let whole = timeout(Duration::from_secs(100_000), self.drive(totals));
            whole.await.expect("somebody waits for ever");
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
        // Whatever was on its way has come to its end by then.
        sleep(Duration::from_secs(120)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!((tasks, network.halves()), (0, 0), "tasks and halves of connections are left");
        drop(registry);
        assert!(network.is_alone(), "something that the session has held is left");
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
                // The first connection is not sought again by itself.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        see(seen).client.lives.push(Life::default());
        let (to_server, from_server) = session.split();
        let leaves = (self.kind == Kind::Leaves).then(|| random.below(self.messages + 1));
        let (left, leaving) = watch::channel(false);
        let sender = {
            let (seen, random) = (seen.clone(), Random::new(self.seed ^ 0x5e4d));
            let talk = Talk { run: self, calm, random, leaves };
            tokio::spawn(async move {
                let sent = |sent| see(&seen).client.sent = sent;
                let told = |lost| see(&seen).client.told += lost;
                let settled = talk.send(to_server, "c", sent, told).await;
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
                let life = client.lives.last_mut().unwrap();
                match incoming {
                    Incoming::Message(message) => {
                        let (who, number) = read(&message);
                        let served = who.strip_prefix('s').unwrap().parse().unwrap();
                        assert_eq!(*life.served.get_or_insert(served), served, "of two sessions");
                        assert_eq!(number, life.taken, "lost, doubled or out of order");
                        life.taken += 1;
                    }
                    Incoming::Reset(reset) => {
                        let CloseReason::SessionLost(lost) = &reset.cause else {
                            panic!("{}", reset.cause)
                        };
                        (life.words, life.lost) = (Some(lost.delivered), reset.lost);
                        client.lives.push(Life::default());
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
            let dies = Instant::now() + Duration::from_millis(random.below(20_000));
            loop {
                tokio::select! {
                    accepted = acceptor.accept() => {
                        let session = accepted.unwrap();
                        sessions.spawn(self.served(session, seen.clone(), calm));
                    }
                    Some(ended) = sessions.join_next() => ended.unwrap(),
                    () = sleep_until(dies), if restart < restarts => break,
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
            let told = |_| panic!("a server begins no other session");
            if let Settled::Yes = talk.send(to_client, &format!("s{number}"), sent, told).await {
                see(&of_sender).sessions[number].has_settled = true;
            }
        });
        let mut pauses = Pauses::new(self.seed ^ 0x4ed5);
        loop {
            match from_client.recv().await {
                Incoming::Message(message) => {
                    let (who, place) = read(&message);
                    assert_eq!(who, "c");
                    let session = &mut see(&seen).sessions[number];
                    let first = *session.first.get_or_insert(place);
                    assert_eq!(place, first + session.taken, "lost, doubled or out of order");
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

    /// What both sides saw fits together, and what was said of it is true.
    fn judge(self, seen: &Seen, totals: &mut Totals) {
        let Seen { sessions, client } = seen;
        let lives = client.lives.len();
        let mut base = 0;
        for (place, life) in client.lives.iter().enumerate() {
            let of_end = match &client.end {
                Some(CloseReason::SessionLost(lost)) if place + 1 == lives => Some(lost.delivered),
                _ => None,
            };
            let words = life.words.or(of_end);
            let sent = words.map_or(client.sent - base, |words| words.sent);
            // A session that began with one of these has taken all that it has from this life.
            let mut served = sessions.iter().filter(|session| {
                session.first.is_some_and(|at| (base..base + sent).contains(&at))
            });
            let (taken, first) =
                served.next().map_or((0, base), |session| (session.taken, session.first.unwrap()));
            assert!(served.next().is_none(), "one life in two sessions: {client:?} {sessions:?}");
            assert_eq!(first, base, "the first messages are missing: {client:?} {sessions:?}");
            if let Some(Delivered { acknowledged, sent }) = words {
                let is_true = acknowledged <= taken && taken <= sent;
                assert!(is_true, "{acknowledged} <= {taken} <= {sent}: {client:?} {sessions:?}");
            }
            if let Some(words) = life.words {
                assert_eq!(life.lost, words.sent - words.acknowledged);
                totals.lost += words.sent - taken;
            }
            base += sent;
            totals.delivered += taken + life.taken;
        }
        assert_eq!(base, client.sent, "what was sent belongs to no life: {client:?}");
        let lost: u64 = client.lives.iter().map(|life| life.lost).sum();
        // Who has left, or has lost the last session, may not have asked again.
        assert!(client.told <= lost, "{} of {lost} were told", client.told);
        if client.has_settled {
            assert_eq!(client.told, lost, "what was lost was told");
        }
        for (number, session) in sessions.iter().enumerate() {
            let of_client = client.lives.iter().find(|life| life.served == Some(number));
            let taken = of_client.map_or(0, |life| life.taken);
            assert!(taken <= session.sent);
            if let Some(CloseReason::SessionLost(lost)) = &session.end {
                let Delivered { acknowledged, sent } = lost.delivered;
                assert!(acknowledged <= taken && taken <= sent, "{lost}: {taken}");
            }
            assert!(!session.has_settled || taken == self.messages, "settled, and {taken} taken");
        }
        totals.resets += lives as u64 - 1;
        match self.kind {
            Kind::Kept => self.is_whole(seen, true),
            Kind::Ends => self.is_whole(seen, false),
            Kind::Leaves => assert_eq!(lives, 1, "{client:?}"),
            Kind::Forgets => return,
        }
        totals.complete += u64::from(!client.has_left);
    }

    /// Everything has arrived, and `cleanly`: both ends have ended as they should.
    fn is_whole(self, Seen { sessions, client }: &Seen, cleanly: bool) {
        assert_eq!(client.lives.len(), 1, "it was lost, and nobody has forgotten it: {client:?}");
        let served = sessions.iter().find(|session| session.first.is_some()).unwrap();
        assert_eq!((served.taken, client.sent), (self.messages, self.messages), "{client:?}");
        assert_eq!(client.lives[0].taken, self.messages, "{client:?} {served:?}");
        if cleanly {
            let ends = [&client.end, &served.end].map(|end| end.as_ref().unwrap().is_clean());
            assert_eq!(ends, [true; 2], "{client:?} {served:?}");
            assert!(client.has_settled && served.has_settled, "{client:?} {served:?}");
        }
    }
}

/// Says how to see it again.
struct Announced(Run);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Run { seed, .. } = self.0;
            eprintln!("{:?}", self.0);
            eprintln!(
                "again: TIELINE_SEED={seed} cargo test -p tieline-link --test session_driver"
            );
        }
    }
}
