use super::*;
use proptest::prelude::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn heartbeat() -> Heartbeat {
    Heartbeat::new(HeartbeatConfig::default(), s(0))
}

/// All that it says up to `end`, woken when it asks for it.
fn run(heartbeat: &mut Heartbeat, from: u64, end: u64) -> Vec<(u64, HeartbeatEvent)> {
    let (mut now, mut said) = (s(from), Vec::new());
    while now <= s(end) {
        while let Some(beat) = heartbeat.poll(now) {
            said.push((now.as_secs(), beat));
        }
        assert!(heartbeat.next_wake() > now, "woken in vain at {now:?}");
        now = heartbeat.next_wake();
    }
    said
}

/// As `run`, where outgoing bytes move: `outgoing` says how many have left at a second, and how many not.
fn run_sending(
    heartbeat: &mut Heartbeat,
    end: u64,
    outgoing: impl Fn(u64) -> (u64, u64),
) -> Vec<(u64, HeartbeatEvent)> {
    let mut said = Vec::new();
    for now in 0..=end {
        let (left, waiting) = outgoing(now);
        heartbeat.sending(s(now), left, waiting);
        while let Some(beat) = heartbeat.poll(s(now)) {
            said.push((now, beat));
        }
    }
    said
}

#[test]
fn a_line_whose_outgoing_bytes_move_is_not_dead_and_a_ping_behind_them_is_given_time() {
    // 9,000 bytes at 150 a second, and the six of a ping behind them.
    let slow = |now: u64| ((now * 150).min(9_006), 9_000_u64.saturating_sub(now * 150));
    let mut heartbeat = heartbeat();
    let said = run_sending(&mut heartbeat, 109, slow);
    assert_eq!(
        said,
        [(10, HeartbeatEvent::Ping)],
        "its answer may take as long as the bytes before it took"
    );
    assert!(heartbeat.is_up());
    // What is on the way to it may be as slow, but not for ever.
    assert_eq!(
        run(&mut heartbeat, 110, 117),
        [(112, HeartbeatEvent::Ping), (117, HeartbeatEvent::Down)]
    );
}

#[test]
fn outgoing_bytes_that_do_not_move_are_no_sign_of_life() {
    let said = run_sending(&mut heartbeat(), 29, |now| (100 * now.min(2), 500));
    assert_eq!(
        said,
        [(10, HeartbeatEvent::Ping), (20, HeartbeatEvent::Ping), (25, HeartbeatEvent::Down)]
    );
}

#[test]
fn a_ping_that_the_other_sides_kernel_took_is_no_sign_of_life() {
    // Six bytes leave at once whenever a ping was sent.
    let said = run_sending(&mut heartbeat(), 29, |now| (6 * (now / 10), 0));
    assert_eq!(
        said,
        [(10, HeartbeatEvent::Ping), (20, HeartbeatEvent::Ping), (25, HeartbeatEvent::Down)]
    );
}

#[test]
fn a_long_message_that_comes_in_makes_this_side_ping() {
    let mut heartbeat = heartbeat();
    let mut said = Vec::new();
    for now in 1..=20 {
        heartbeat.alive(s(now));
        heartbeat.receiving(now <= 15);
        while let Some(beat) = heartbeat.poll(s(now)) {
            said.push((now, beat));
        }
    }
    assert_eq!(said, [5, 10, 15].map(|now| (now, HeartbeatEvent::Ping)));
}

#[test]
fn nobody_is_down_after_twenty_five_seconds() {
    let said = run(&mut heartbeat(), 0, 40);
    assert_eq!(
        said,
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
    // One missed answer is forgotten with the next byte.
    assert_eq!(
        run(&mut heartbeat, 114, 138),
        [(124, HeartbeatEvent::Ping), (134, HeartbeatEvent::Ping)]
    );
    assert!(heartbeat.is_up());
}

#[test]
fn two_answers_one_after_the_other_and_it_is_up_again() {
    let mut heartbeat = heartbeat();
    run(&mut heartbeat, 0, 29);
    assert!(!heartbeat.is_up());
    // What was not asked for is no answer, but it is asked at once.
    heartbeat.alive(s(29));
    assert_eq!(run(&mut heartbeat, 29, 29), [(29, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(30));
    assert_eq!(run(&mut heartbeat, 30, 34), [(30, HeartbeatEvent::Ping)]);
    // The second is missed: two others are needed.
    assert_eq!(run(&mut heartbeat, 35, 40), [(40, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(41));
    assert_eq!(run(&mut heartbeat, 41, 41), [(41, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(42));
    assert_eq!(run(&mut heartbeat, 42, 42), [(42, HeartbeatEvent::Up)]);
}

#[test]
fn a_peer_that_started_anew_is_noticed_by_its_answer() {
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
fn a_machine_that_slept_asks_at_once_and_a_long_sleep_is_one_missed_answer() {
    let mut heartbeat = heartbeat();
    assert_eq!(run(&mut heartbeat, 0, 10), [(10, HeartbeatEvent::Ping)]);
    // The timer comes an hour late.
    assert_eq!(run(&mut heartbeat, 3600, 3604), [(3600, HeartbeatEvent::Ping)]);
    heartbeat.alive(s(3601));
    heartbeat.probe_now();
    heartbeat.probe_now();
    assert!(heartbeat.next_wake() <= s(3602), "at once");
    assert_eq!(run(&mut heartbeat, 3602, 3603), [(3602, HeartbeatEvent::Ping)]);
    // One that is awaited is not asked again.
    heartbeat.probe_now();
    assert_eq!(run(&mut heartbeat, 3604, 3612), [(3612, HeartbeatEvent::Ping)]);
}

/// The rules again, second by second, from the history of pings and bytes.
struct Model {
    /// When each was sent, and when the first byte behind it came.
    pings: Vec<(u64, Option<u64>)>,
    /// When bytes came, the line's beginning included.
    lives: Vec<u64>,
    /// Whether it was said to be down, and how many pings had been sent then.
    down_since: Option<usize>,
    wants_probe: bool,
    said: Vec<(u64, HeartbeatEvent)>,
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
                // A byte that came too late for one ping still clears it.
                let missed = missed.filter(|(sent, _)| *sent >= heard && now >= sent + 5).count();
                if missed == 2 {
                    self.down_since = Some(self.pings.len());
                    self.said.push((now, HeartbeatEvent::Down));
                }
            }
            Some(since) => {
                let passed = self.pings[since..].iter().rev().take_while(|it| Self::is_passed(it));
                if passed.count() == 2 {
                    self.down_since = None;
                    self.said.push((now, HeartbeatEvent::Up));
                }
            }
        }
        let last_ping = self.pings.last().map_or(0, |(sent, _)| *sent);
        let is_due = now >= self.last_life().max(last_ping) + 10;
        if !self.is_awaited(now) && (is_due || self.wants_probe) {
            self.wants_probe = false;
            self.pings.push((now, None));
            self.said.push((now, HeartbeatEvent::Ping));
        }
    }
}

proptest! {
    #[test]
    fn as_the_model_says(
        // How many seconds behind the one before, and whether it is a probe.
        inputs in prop::collection::vec((1_u64..40, prop::bool::weighted(0.2)), 0..40),
        // How soon the other side answers each ping; 5 is too late, and beyond it never does.
        answers in prop::collection::vec(1_u64..9, 1..30),
    ) {
        let end = 600;
        let mut at = 0;
        let mut inputs: Vec<(u64, bool)> = inputs
            .into_iter()
            .map(|(behind, is_probe)| { at += behind; (at, is_probe) })
            .collect();

        // The model says when pings go, and so when their answers come.
        let mut model = Model {
            pings: Vec::new(),
            lives: vec![0],
            down_since: None,
            wants_probe: false,
            said: Vec::new(),
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

        // The machine gets the same, and sleeps in between for as long as it says.
        let mut heartbeat = heartbeat();
        let (mut now, mut said, mut last_life) = (0, Vec::new(), 0);
        let mut next = inputs.iter().peekable();
        while now <= end {
            while let Some(beat) = heartbeat.poll(s(now)) {
                said.push((now, beat));
                if beat == HeartbeatEvent::Down {
                    prop_assert!(now <= last_life + 25, "{last_life} to {now}");
                }
            }
            if let Some((_, is_probe)) = next.next_if(|(at, _)| *at <= now) {
                if *is_probe { heartbeat.probe_now() } else { heartbeat.alive(s(now)); last_life = now }
                continue;
            }
            let wake = heartbeat.next_wake().as_secs();
            prop_assert!(wake > now, "woken in vain at {now}");
            now = next.peek().map_or(wake, |(at, _)| wake.min(*at));
        }
        said.retain(|(at, _)| *at <= end);
        prop_assert_eq!(said, model.said);
    }
}
