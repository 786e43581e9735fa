use super::*;
use proptest::prelude::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn heartbeat() -> Heartbeat {
    Heartbeat::new(HeartbeatConfig::default(), s(0))
}

/// Polls from `from` to `end` whenever `next_wake` is due, and returns the events.
fn run(heartbeat: &mut Heartbeat, from: u64, end: u64) -> Vec<(u64, HeartbeatEvent)> {
    let (mut now, mut events) = (s(from), Vec::new());
    while now <= s(end) {
        while let Some(event) = heartbeat.poll(now) {
            events.push((now.as_secs(), event));
        }
        assert!(heartbeat.next_wake() > now, "woken without effect at {now:?}");
        now = heartbeat.next_wake();
    }
    events
}

/// Polls every second, with outgoing bytes, and returns the events. `outgoing` returns how many bytes
/// have been sent by a given second and how many are waiting.
fn run_sending(
    heartbeat: &mut Heartbeat,
    end: u64,
    outgoing: impl Fn(u64) -> (u64, u64),
) -> Vec<(u64, HeartbeatEvent)> {
    let mut events = Vec::new();
    for now in 0..=end {
        let (left, waiting) = outgoing(now);
        heartbeat.sending(s(now), left, waiting);
        while let Some(event) = heartbeat.poll(s(now)) {
            events.push((now, event));
        }
    }
    events
}

#[test]
fn progress_of_outgoing_bytes_keeps_the_line_up_and_delays_the_ping_deadline() {
    // 9,000 bytes are sent at 150 per second, followed by the six bytes of a ping.
    let slow = |now: u64| ((now * 150).min(9_006), 9_000_u64.saturating_sub(now * 150));
    let mut heartbeat = heartbeat();
    let events = run_sending(&mut heartbeat, 109, slow);
    assert_eq!(
        events,
        [(10, HeartbeatEvent::Ping)],
        "the response may take as long as sending the bytes before the ping"
    );
    assert!(heartbeat.is_up());
    // The extra time is limited.
    assert_eq!(
        run(&mut heartbeat, 110, 117),
        [(112, HeartbeatEvent::Ping), (117, HeartbeatEvent::Down)]
    );
}

#[test]
fn stalled_outgoing_bytes_do_not_keep_the_line_up() {
    let events = run_sending(&mut heartbeat(), 29, |now| (100 * now.min(2), 500));
    assert_eq!(
        events,
        [(10, HeartbeatEvent::Ping), (20, HeartbeatEvent::Ping), (25, HeartbeatEvent::Down)]
    );
}

#[test]
fn sent_ping_alone_does_not_keep_the_line_up() {
    // The six bytes of each ping leave at once.
    let events = run_sending(&mut heartbeat(), 29, |now| (6 * (now / 10), 0));
    assert_eq!(
        events,
        [(10, HeartbeatEvent::Ping), (20, HeartbeatEvent::Ping), (25, HeartbeatEvent::Down)]
    );
}

#[test]
fn pings_are_sent_while_a_long_message_is_received() {
    let mut heartbeat = heartbeat();
    let mut events = Vec::new();
    for now in 1..=20 {
        heartbeat.alive(s(now));
        heartbeat.receiving(now <= 15);
        while let Some(event) = heartbeat.poll(s(now)) {
            events.push((now, event));
        }
    }
    assert_eq!(events, [5, 10, 15].map(|now| (now, HeartbeatEvent::Ping)));
}

#[test]
fn silent_peer_is_down_after_25_seconds() {
    let events = run(&mut heartbeat(), 0, 40);
    assert_eq!(
        events,
        [
            (10, HeartbeatEvent::Ping),
            (20, HeartbeatEvent::Ping),
            (25, HeartbeatEvent::Down),
            (30, HeartbeatEvent::Ping),
            (40, HeartbeatEvent::Ping)
        ]
    );
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut heartbeat = heartbeat();
    for second in (0..100).step_by(9) {
        heartbeat.alive(s(second));
        assert_eq!(run(&mut heartbeat, second, second + 8), []);
    }
    assert_eq!(run(&mut heartbeat, 99, 114), [(109, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(114));
    // The next byte resets the count of missed responses.
    assert_eq!(
        run(&mut heartbeat, 114, 138),
        [(124, HeartbeatEvent::Ping), (134, HeartbeatEvent::Ping)]
    );
    assert!(heartbeat.is_up());
}

#[test]
fn peer_is_up_again_after_two_consecutive_responses() {
    let mut heartbeat = heartbeat();
    run(&mut heartbeat, 0, 29);
    assert!(!heartbeat.is_up());
    // An unsolicited byte is not a response, but triggers a ping.
    heartbeat.alive(s(29));
    assert_eq!(run(&mut heartbeat, 29, 29), [(29, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(30));
    assert_eq!(run(&mut heartbeat, 30, 34), [(30, HeartbeatEvent::Ping)]);
    // The second response is missed, so two more are needed.
    assert_eq!(run(&mut heartbeat, 35, 40), [(40, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(41));
    assert_eq!(run(&mut heartbeat, 41, 41), [(41, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(42));
    assert_eq!(run(&mut heartbeat, 42, 42), [(42, HeartbeatEvent::Up)]);
}

#[test]
fn restarted_peer_is_detected_by_its_instance() {
    let mut heartbeat = heartbeat();
    for (second, instance, expected) in [
        (1, 7, None),
        (2, 7, None),
        (3, 8, Some(HeartbeatEvent::Restarted { from: 7, to: 8 })),
        (4, 8, None),
    ] {
        heartbeat.pong(s(second), instance);
        assert_eq!(heartbeat.poll(s(second)), expected, "at {second}");
        assert_eq!(heartbeat.poll(s(second)), None);
    }
    heartbeat.pong(s(5), 9);
    heartbeat.pong(s(5), 10);
    assert_eq!(heartbeat.next_wake(), Duration::ZERO);
    assert_eq!(heartbeat.poll(s(5)), Some(HeartbeatEvent::Restarted { from: 8, to: 10 }));
    assert_eq!(heartbeat.instance(), Some(10));
}

#[test]
fn suspend_triggers_a_ping_and_costs_one_missed_response() {
    let mut heartbeat = heartbeat();
    assert_eq!(run(&mut heartbeat, 0, 10), [(10, HeartbeatEvent::Ping)]);
    // The timer fires an hour late.
    assert_eq!(run(&mut heartbeat, 3600, 3604), [(3600, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(3601));
    heartbeat.probe_now();
    heartbeat.probe_now();
    assert!(heartbeat.next_wake() <= s(3602), "at once");
    assert_eq!(run(&mut heartbeat, 3602, 3603), [(3602, HeartbeatEvent::Ping)]);
    // No further ping is sent while a response is awaited.
    heartbeat.probe_now();
    assert_eq!(run(&mut heartbeat, 3604, 3612), [(3612, HeartbeatEvent::Ping)]);
}

/// A simple model of the heartbeat, which derives the events of each second from the history of pings
/// and bytes.
struct Model {
    /// The time when each ping was sent, and the time when the first byte after it was received.
    pings: Vec<(u64, Option<u64>)>,
    /// The times when bytes were received, including the start of the line.
    lives: Vec<u64>,
    /// The number of pings that had been sent when the peer was reported down, if it is down.
    down_since: Option<usize>,
    wants_probe: bool,
    events: Vec<(u64, HeartbeatEvent)>,
}

impl Model {
    fn last_life(&self) -> u64 {
        *self.lives.last().unwrap()
    }

    fn is_awaited(&self, now: u64) -> bool {
        self.pings.last().is_some_and(|(sent, answer)| answer.is_none() && now < sent + 5)
    }

    fn is_passed((sent, answer): &(u64, Option<u64>)) -> bool {
        answer.is_some_and(|answer| answer < sent + 5)
    }

    fn alive(&mut self, now: u64) {
        if self.is_awaited(now) {
            self.pings.last_mut().unwrap().1 = Some(now);
        }
        self.lives.push(now);
        if let Some(since) = self.down_since {
            let passed = self.pings[since..].iter().rev().take_while(|it| Self::is_passed(it));
            self.wants_probe = passed.count() < 2;
        }
    }

    fn probe(&mut self, now: u64) {
        self.wants_probe |= !self.is_awaited(now);
    }

    fn tick(&mut self, now: u64) {
        match self.down_since {
            None => {
                let heard = self.last_life();
                let missed = self.pings.iter().rev().take_while(|it| !Self::is_passed(it));
                // A byte that arrives too late to be a response still clears the missed ping.
                let missed = missed.filter(|(sent, _)| *sent >= heard && now >= sent + 5).count();
                if missed == 2 {
                    self.down_since = Some(self.pings.len());
                    self.events.push((now, HeartbeatEvent::Down));
                }
            }
            Some(since) => {
                let passed = self.pings[since..].iter().rev().take_while(|it| Self::is_passed(it));
                if passed.count() == 2 {
                    self.down_since = None;
                    self.events.push((now, HeartbeatEvent::Up));
                }
            }
        }
        let last_ping = self.pings.last().map_or(0, |(sent, _)| *sent);
        let is_due = now >= self.last_life().max(last_ping) + 10;
        if !self.is_awaited(now) && (is_due || self.wants_probe) {
            self.wants_probe = false;
            self.pings.push((now, None));
            self.events.push((now, HeartbeatEvent::Ping));
        }
    }
}

proptest! {
    #[test]
    fn heartbeat_behaves_like_the_model(
        // The seconds since the previous input, and whether this input is a probe.
        inputs in prop::collection::vec((1_u64..40, prop::bool::weighted(0.2)), 0..40),
        // The number of seconds after which the peer responds to each ping. 5 and 6 are too late; with 7
        // or more, the peer never responds.
        answers in prop::collection::vec(1_u64..9, 1..30),
    ) {
        let end = 600;
        let mut at = 0;
        let mut inputs: Vec<(u64, bool)> = inputs
            .into_iter()
            .map(|(behind, is_probe)| { at += behind; (at, is_probe) })
            .collect();

        // The model determines when pings are sent and thus when their responses arrive.
        let mut model = Model {
            pings: Vec::new(),
            lives: vec![0],
            down_since: None,
            wants_probe: false,
            events: Vec::new(),
        };
        let mut answered = 0;
        for now in 0..=end {
            model.tick(now);
            for (_, is_probe) in inputs.iter().filter(|(at, _)| *at == now) {
                if *is_probe { model.probe(now) } else { model.alive(now) }
                model.tick(now);
            }
            while answered < model.pings.len() {
                let soon = answers[answered % answers.len()];
                let (sent, _) = model.pings[answered];
                answered += 1;
                if soon < 7 {
                    inputs.push((sent + soon, false));
                }
            }
        }
        inputs.sort_by_key(|(at, _)| *at);

        // The heartbeat receives the same inputs and is polled only when `next_wake` is due.
        let mut heartbeat = heartbeat();
        let (mut now, mut events, mut last_life) = (0, Vec::new(), 0);
        let mut next = inputs.iter().peekable();
        while now <= end {
            while let Some(event) = heartbeat.poll(s(now)) {
                events.push((now, event));
                if event == HeartbeatEvent::Down {
                    prop_assert!(now <= last_life + 25, "{last_life} to {now}");
                }
            }
            if let Some((_, is_probe)) = next.next_if(|(at, _)| *at <= now) {
                if *is_probe { heartbeat.probe_now() } else { heartbeat.alive(s(now)); last_life = now }
                continue;
            }
            let wake = heartbeat.next_wake().as_secs();
            prop_assert!(wake > now, "woken without effect at {now}");
            now = next.peek().map_or(wake, |(at, _)| wake.min(*at));
        }
        events.retain(|(at, _)| *at <= end);
        prop_assert_eq!(events, model.events);
    }
}

/// Returns how many bytes have been sent and how many are waiting, if none are sent after the first two
/// seconds.
fn blocked(now: u64) -> (u64, u64) {
    (100 * now.min(2), 100_000)
}

#[test]
fn pings_after_a_blocked_write_are_not_missed_within_the_stall_limit() {
    let then_read = |now: u64| if now < 62 { blocked(now) } else { (200_000, 0) };
    let events = run_sending(&mut heartbeat().with_stall_limit(s(60)), 79, then_read);
    let pings = [10, 20, 30, 40, 50, 60, 70].map(|now| (now, HeartbeatEvent::Ping));
    assert_eq!(events[..7], pings);
    // Once the bytes have been sent, a silent peer is detected as on any other line.
    assert_eq!(events[7..], [(75, HeartbeatEvent::Down)]);
}

#[test]
fn blocked_write_beyond_the_stall_limit_makes_the_peer_down() {
    let events = run_sending(&mut heartbeat().with_stall_limit(s(60)), 90, blocked);
    let down = events.iter().find(|(_, event)| *event == HeartbeatEvent::Down);
    assert_eq!(down, Some(&(75, HeartbeatEvent::Down)), "{events:?}");
}

#[test]
fn few_stalled_bytes_are_not_a_blocked_write() {
    let few = |now: u64| (100 * now.min(2), 60_000);
    let events = run_sending(&mut heartbeat().with_stall_limit(s(60)), 29, few);
    assert_eq!(events.last(), Some(&(25, HeartbeatEvent::Down)), "{events:?}");
}

#[test]
fn stall_limit_below_the_time_of_two_misses_has_no_effect() {
    let events = run_sending(&mut heartbeat().with_stall_limit(s(10)), 29, blocked);
    assert_eq!(events.last(), Some(&(25, HeartbeatEvent::Down)), "{events:?}");
}

#[test]
fn polling_ends_even_if_all_times_are_zero() {
    let config = HeartbeatConfig { idle: s(0), timeout: s(0), ..HeartbeatConfig::default() };
    // A peer that does not read, and one that does not respond.
    for (limit, waiting) in [(s(30), BLOCKED + 1), (s(0), 0)] {
        let mut heartbeat = Heartbeat::new(config, s(0)).with_stall_limit(limit);
        for now in [s(0), s(1), s(2)] {
            heartbeat.sending(now, 0, waiting);
            let events = std::iter::from_fn(|| heartbeat.poll(now));
            assert!(events.take(10).count() < 10, "endless events at {now:?}");
            assert!(heartbeat.next_wake() > now, "woken without effect at {now:?}");
        }
    }
}
