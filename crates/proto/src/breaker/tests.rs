use super::*;
use proptest::prelude::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn breaker() -> Breaker {
    Breaker::new(BreakerConfig::default())
}

/// Makes a call at `now` that ends immediately.
fn call(breaker: &mut Breaker, now: Duration, outcome: CallOutcome) {
    let permit = breaker.acquire(now, 0.5).unwrap();
    breaker.report(permit, outcome, now, 0.5);
}

/// Returns a breaker that has opened at 0 for the first time.
fn opened() -> Breaker {
    let mut breaker = breaker();
    (0..5).for_each(|_| call(&mut breaker, s(0), CallOutcome::Failed));
    assert_eq!(breaker.state(s(0), 0.5), BreakerState::Open { until: s(5) });
    breaker
}

#[test]
fn opens_after_five_consecutive_failures_but_not_four() {
    let mut breaker = breaker();
    for round in 0..3 {
        for _ in 0..4 {
            call(&mut breaker, s(100 * round), CallOutcome::Failed);
            call(&mut breaker, s(100 * round), CallOutcome::Cancelled);
        }
        assert_eq!(breaker.state(s(100 * round), 0.5), BreakerState::Closed);
        call(&mut breaker, s(100 * round), CallOutcome::Passed);
    }
    // The time between the failures does not matter.
    for day in 1..=5 {
        call(&mut breaker, s(86_400 * day), CallOutcome::Failed);
    }
    assert!(matches!(breaker.state(s(86_400 * 5), 0.5), BreakerState::Open { .. }));
}

#[test]
fn opens_when_half_of_twenty_calls_in_the_window_fail() {
    for (apart, failures, opens) in [(1, 10, true), (1, 9, false), (2, 10, false)] {
        let mut breaker = breaker();
        for number in 0..20 {
            let outcome = if number % 2 == 0 && number / 2 < failures {
                CallOutcome::Failed
            } else {
                CallOutcome::Passed
            };
            call(&mut breaker, s(apart * number), outcome);
        }
        let state = breaker.state(s(apart * 19), 0.5);
        assert_eq!(state != BreakerState::Closed, opens, "{apart} s apart, {failures} failures");
    }
}

#[test]
fn stays_open_longer_each_time_the_trials_fail_up_to_the_maximum() {
    let mut breaker = opened();
    let (mut now, mut waits) = (s(0), Vec::new());
    for _ in 0..12 {
        let BreakerState::Open { until } = breaker.state(now, 0.5) else { panic!("not open") };
        waits.push((until - now).as_secs());
        assert_eq!(breaker.acquire(until - s(1), 0.5), Err(Rejected { retry_at: Some(until) }));
        now = until;
        call(&mut breaker, now, CallOutcome::Failed);
    }
    assert_eq!(waits, [5, 8, 12, 20, 32, 52, 83, 134, 214, 300, 300, 300]);
    for (random, wait) in [(0.0, 4), (1.0, 6)] {
        let mut breaker = self::breaker();
        for _ in 0..5 {
            let permit = breaker.acquire(s(0), random).unwrap();
            breaker.report(permit, CallOutcome::Failed, s(0), random);
        }
        assert_eq!(breaker.state(s(0), random), BreakerState::Open { until: s(wait) });
    }
}

#[test]
fn three_passed_trials_close_it_and_reset_the_open_time() {
    let mut breaker = opened();
    call(&mut breaker, s(5), CallOutcome::Failed);
    assert_eq!(breaker.state(s(5), 0.5), BreakerState::Open { until: s(13) });
    let trials: Vec<Permit> = (0..3).map(|_| breaker.acquire(s(13), 0.5).unwrap()).collect();
    assert_eq!(breaker.acquire(s(13), 0.5), Err(Rejected { retry_at: None }));
    for trial in trials {
        assert_eq!(breaker.state(s(14), 0.5), BreakerState::HalfOpen);
        breaker.report(trial, CallOutcome::Passed, s(14), 0.5);
    }
    assert_eq!(breaker.state(s(14), 0.5), BreakerState::Closed);
    (0..5).for_each(|_| call(&mut breaker, s(20), CallOutcome::Failed));
    assert_eq!(breaker.state(s(20), 0.5), BreakerState::Open { until: s(25) });
}

#[test]
fn cancelled_trial_can_be_repeated() {
    let mut breaker = opened();
    for _ in 0..100 {
        call(&mut breaker, s(5), CallOutcome::Cancelled);
    }
    // Without trials in flight, there is no deadline.
    assert_eq!(breaker.state(s(500), 0.5), BreakerState::HalfOpen);
    (0..3).for_each(|_| call(&mut breaker, s(500), CallOutcome::Passed));
    assert_eq!(breaker.state(s(500), 0.5), BreakerState::Closed);
}

#[test]
fn late_trial_is_considered_failed_at_its_deadline() {
    let mut breaker = opened();
    // Without trials in flight, there is no deadline.
    assert_eq!(breaker.state(s(1000), 0.5), BreakerState::HalfOpen);
    let late = breaker.acquire(s(1000), 0.5).unwrap();
    let other = breaker.acquire(s(1020), 0.5).unwrap();
    breaker.report(other, CallOutcome::Passed, s(1029), 0.5);
    assert_eq!(breaker.state(s(1029), 0.5), BreakerState::HalfOpen);
    assert_eq!(breaker.state(s(1030), 0.5), BreakerState::Open { until: s(1038) });
    breaker.report(late, CallOutcome::Passed, s(1032), 0.5);
    assert_eq!(breaker.state(s(1037), 0.5), BreakerState::Open { until: s(1038) });
    assert_eq!(breaker.state(s(1038), 0.5), BreakerState::HalfOpen);
}

#[test]
fn outcomes_of_an_older_generation_are_ignored() {
    let mut breaker = breaker();
    let mut old: Vec<Permit> = (0..30).map(|_| breaker.acquire(s(0), 0.5).unwrap()).collect();
    let fail = |breaker: &mut Breaker, old: &mut Vec<Permit>, now| {
        breaker.report(old.pop().unwrap(), CallOutcome::Failed, now, 0.5);
    };
    (0..5).for_each(|_| fail(&mut breaker, &mut old, s(0)));
    // Failures while the breaker is open do not extend that time.
    (0..5).for_each(|_| fail(&mut breaker, &mut old, s(4)));
    assert_eq!(breaker.state(s(4), 0.5), BreakerState::Open { until: s(5) });
    // These failures are treated neither as failed trials nor, after the breaker has closed, as failed
    // calls.
    (0..5).for_each(|_| fail(&mut breaker, &mut old, s(5)));
    assert_eq!(breaker.state(s(5), 0.5), BreakerState::HalfOpen);
    (0..3).for_each(|_| call(&mut breaker, s(5), CallOutcome::Passed));
    (0..5).for_each(|_| fail(&mut breaker, &mut old, s(6)));
    assert_eq!(breaker.state(s(6), 0.5), BreakerState::Closed);
    breaker.isolate();
    breaker.reset();
    (0..10).for_each(|_| fail(&mut breaker, &mut old, s(6)));
    assert_eq!(breaker.state(s(6), 0.5), BreakerState::Closed);
}

#[test]
fn stays_isolated_until_it_is_reset() {
    let mut breaker = opened();
    breaker.isolate();
    assert_eq!(breaker.state(s(100_000), 0.5), BreakerState::Isolated);
    assert_eq!(breaker.acquire(s(100_000), 0.5), Err(Rejected { retry_at: None }));
    breaker.reset();
    call(&mut breaker, s(100_000), CallOutcome::Passed);
    assert_eq!(breaker.state(s(100_000), 0.5), BreakerState::Closed);
}

/// A simple model of the breaker, based on a list of all outcomes since the last change of mode.
struct Model {
    config: BreakerConfig,
    now: Duration,
    log: Vec<(Duration, bool)>,
    mode: Mode,
    /// Increases with every change of mode.
    era: u32,
    opened: i32,
}

enum Mode {
    Closed,
    Open(Duration),
    /// The trials in flight, with their numbers and the times when they began, and the number of passed
    /// trials.
    HalfOpen(Vec<(usize, Duration)>, u32),
    Isolated,
}

impl Model {
    fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        self.era += 1;
        self.log.clear();
    }

    fn open(&mut self, at: Duration) {
        let wait = self.config.open.as_secs_f64() * 1.6_f64.powi(self.opened);
        let wait = wait.min(self.config.max_open.as_secs_f64());
        self.opened += 1;
        self.enter(Mode::Open(at + Duration::from_secs_f64(wait)));
    }

    /// Advances to `now` in one step, which has the same result as many short steps.
    fn pass_time(&mut self, now: Duration) {
        self.now = now;
        if let Mode::HalfOpen(under_way, _) = &self.mode {
            // A trial that began while others were in flight has the deadline of the first one.
            if let Some((_, began)) = under_way.first() {
                let deadline = *began + self.config.trial_timeout;
                if deadline <= now {
                    self.open(deadline);
                }
            }
        }
        if let Mode::Open(until) = self.mode
            && until <= now
        {
            self.enter(Mode::HalfOpen(Vec::new(), 0));
        }
    }

    fn acquire(&mut self, number: usize) -> bool {
        match &mut self.mode {
            Mode::Closed => true,
            Mode::Open(_) | Mode::Isolated => false,
            Mode::HalfOpen(under_way, passed) => {
                let free = under_way.len() as u32 + *passed < self.config.trials;
                if free {
                    let began = under_way.first().map_or(self.now, |(_, began)| *began);
                    under_way.push((number, began));
                }
                free
            }
        }
    }

    fn report(&mut self, number: usize, era: u32, outcome: CallOutcome) {
        if era != self.era {
            return;
        }
        match &mut self.mode {
            Mode::Open(_) | Mode::Isolated => unreachable!("no calls are permitted in this mode"),
            Mode::HalfOpen(under_way, passed) => {
                under_way.retain(|(other, _)| *other != number);
                match outcome {
                    CallOutcome::Failed => self.open(self.now),
                    CallOutcome::Cancelled => {}
                    CallOutcome::Passed => {
                        *passed += 1;
                        if *passed == self.config.trials {
                            self.reset();
                        }
                    }
                }
            }
            Mode::Closed if outcome == CallOutcome::Cancelled => {}
            Mode::Closed => {
                self.log.push((self.now, outcome == CallOutcome::Failed));
                let second = |at: Duration| at.as_secs();
                let window: Vec<bool> = (self.log.iter())
                    .filter(|(at, _)| second(*at) + 30 > second(self.now))
                    .map(|(_, failed)| *failed)
                    .collect();
                let failures = window.iter().filter(|failed| **failed).count();
                let in_a_row = self.log.iter().rev().take_while(|(_, failed)| *failed).count();
                if (window.len() >= 20 && failures * 2 >= window.len()) || in_a_row >= 5 {
                    self.open(self.now);
                }
            }
        }
    }

    fn reset(&mut self) {
        self.opened = 0;
        self.enter(Mode::Closed);
    }

    fn state(&self) -> BreakerState {
        match self.mode {
            Mode::Closed => BreakerState::Closed,
            Mode::Open(until) => BreakerState::Open { until },
            Mode::HalfOpen(..) => BreakerState::HalfOpen,
            Mode::Isolated => BreakerState::Isolated,
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Acquire,
    /// Reports the outcome of one of the calls in flight.
    Report(prop::sample::Index, CallOutcome),
    Isolate,
    Reset,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let outcome = prop_oneof![
        5 => Just(CallOutcome::Passed),
        5 => Just(CallOutcome::Failed),
        1 => Just(CallOutcome::Cancelled),
    ];
    let op = prop_oneof![
        20 => (0_u64..3_000).prop_map(Op::Wait),
        2 => (0_u64..400_000).prop_map(Op::Wait),
        40 => Just(Op::Acquire),
        40 => (any::<prop::sample::Index>(), outcome).prop_map(|(at, outcome)| Op::Report(at, outcome)),
        1 => Just(Op::Isolate),
        2 => Just(Op::Reset),
    ];
    prop::collection::vec(op, 0..400)
}

proptest! {
    #[test]
    fn breaker_behaves_like_the_model(ops in ops()) {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::new(config);
        let (mut now, mut under_way, mut number) = (Duration::ZERO, Vec::new(), 0);
        let mut model =
            Model { config, now, log: Vec::new(), mode: Mode::Closed, era: 0, opened: 0 };
        for op in ops {
            model.pass_time(now);
            match op {
                Op::Wait(ms) => now += Duration::from_millis(ms),
                Op::Acquire => {
                    let got = breaker.acquire(now, 0.5);
                    number += 1;
                    prop_assert_eq!(got.is_ok(), model.acquire(number));
                    under_way.extend(got.ok().map(|permit| (permit, number, model.era)));
                }
                Op::Report(at, outcome) if !under_way.is_empty() => {
                    let (permit, number, era) = under_way.remove(at.index(under_way.len()));
                    breaker.report(permit, outcome, now, 0.5);
                    model.report(number, era, outcome);
                }
                Op::Report(..) => {}
                Op::Isolate => { breaker.isolate(); model.enter(Mode::Isolated); }
                Op::Reset => { breaker.reset(); model.reset(); }
            }
            model.pass_time(now);
            let (state, expected) = (breaker.state(now, 0.5), model.state());
            if let (BreakerState::Open { until }, BreakerState::Open { until: expected }) = (state, expected) {
                prop_assert!(until.abs_diff(expected) < Duration::from_micros(1));
            } else {
                prop_assert_eq!(state, expected);
            }
        }
    }

    #[test]
    fn breaker_never_remains_without_trials(ends in prop::collection::vec(0_u8..3, 1..100), random in 0.0..1.0) {
        let mut breaker = opened();
        let mut now = s(5);
        for end in ends {
            // Unless it is isolated, the breaker allows a call again after some time.
            now += s(400);
            let permit = breaker.acquire(now, random);
            prop_assert!(permit.is_ok());
            match (permit, end) {
                (Ok(permit), 0) => breaker.report(permit, CallOutcome::Cancelled, now, random),
                (Ok(permit), 1) => breaker.report(permit, CallOutcome::Passed, now, random),
                // The outcome is never reported.
                (permit, _) => drop(permit),
            }
        }
    }
}
