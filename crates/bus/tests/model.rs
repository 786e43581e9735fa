//! Random steps on an embedded broker, compared with naive lists: what each subscription receives, in
//! which order, and where messages are missing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::VecDeque;

use tieline_bus::{
    Broker, Bus, End, Event, Message, Overflow, Pattern, QueueLimits, Subject, SubscribeOptions,
    Subscription,
};
use tieline_testkit::random::Random;
use tieline_testkit::wait::poll_once;
use tokio::task::coop::unconstrained;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const OVERFLOWS: [Overflow; 3] = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect];

/// A subscription, and what its model expects.
struct Pair {
    real: Subscription,
    pattern: Vec<String>,
    group: Option<&'static str>,
    overflow: Overflow,
    limit: usize,
    /// What the reader has taken out of the queue at once: messages, and numbers of lost ones.
    taken: VecDeque<Result<u64, u64>>,
    /// The messages after that, and whether each was kept.
    messages: VecDeque<(u64, bool)>,
    has_ended: bool,
    /// When the member was last chosen.
    turn: Option<u64>,
}

impl Pair {
    fn waiting(&self) -> usize {
        self.messages.iter().filter(|(_, is_kept)| *is_kept).count()
    }

    fn matches(&self, subject: &[&str]) -> bool {
        let is_open = self.pattern.last().is_some_and(|it| it == ">");
        let fixed = self.pattern.len() - usize::from(is_open);
        let fits = if is_open { subject.len() > fixed } else { subject.len() == fixed };
        fits && (0..fixed).all(|at| self.pattern[at] == "*" || self.pattern[at] == subject[at])
    }

    fn publish(&mut self, number: u64) {
        let is_full = self.waiting() >= self.limit;
        match self.overflow {
            Overflow::DropOldest if is_full => {
                self.messages.iter_mut().find(|(_, is_kept)| *is_kept).unwrap().1 = false;
            }
            Overflow::Disconnect if is_full => self.has_ended = true,
            _ => {}
        }
        let is_kept = !is_full || self.overflow == Overflow::DropOldest;
        self.messages.push_back((number, is_kept));
    }

    fn take(&mut self) {
        while self.taken.len() < 32 {
            let lost = self.messages.iter().take_while(|(_, is_kept)| !is_kept).count();
            self.messages.drain(..lost);
            let next = match lost {
                0 => self.messages.pop_front().map(|(number, _)| Ok(number)),
                _ => Some(Err(lost as u64)),
            };
            let Some(next) = next else { return };
            self.taken.push_back(next);
        }
    }

    async fn read(&mut self) {
        if self.taken.is_empty() {
            self.take();
        }
        let received = poll_once(self.real.next()).await;
        match self.taken.pop_front() {
            Some(Ok(number)) => {
                let Some(Event::Message(delivery)) = &received else { panic!("{received:?}") };
                assert_eq!(*delivery.payload(), number.to_string());
            }
            Some(Err(lost)) => assert_eq!(received, Some(Event::Gap { lost })),
            None => assert_eq!(received, self.has_ended.then_some(Event::End(End::TooSlow))),
        }
    }
}

async fn run(seed: u64, steps: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let bus = Broker::default();
    let mut pairs: Vec<Pair> = Vec::new();
    let (mut lost, mut ended, mut chosen) = (0, 0, 0);
    for step in 1..=steps {
        match random.below(100) {
            0..=7 if pairs.len() < 24 => pairs.push(subscribe(&bus, &mut random).await),
            8..=11 if !pairs.is_empty() => {
                let cut = pairs.remove(random.below(pairs.len() as u64) as usize);
                ended += u64::from(cut.has_ended);
            }
            12..=55 if !pairs.is_empty() => {
                let any = random.below(pairs.len() as u64) as usize;
                pairs[any].read().await;
            }
            _ => {
                let length = 1 + random.below(3);
                let tokens: Vec<_> = (0..length).map(|_| random.pick(&NAMES)).collect();
                let subject = Subject::new(&tokens.join(".")).unwrap();
                let mut expected = 0;
                for pair in pairs.iter_mut().filter(|it| it.group.is_none()) {
                    if !pair.has_ended && pair.matches(&tokens) {
                        pair.publish(step);
                        expected += 1;
                    }
                }
                for group in ["v", "w"] {
                    let member = |it: &&mut Pair| {
                        it.group == Some(group) && !it.has_ended && it.matches(&tokens)
                    };
                    let members = pairs.iter_mut().filter(member);
                    let order = |it: &&mut Pair| (it.waiting() >= it.limit, it.turn);
                    if let Some(pair) = members.min_by_key(order) {
                        pair.turn = Some(step);
                        pair.publish(step);
                        expected += 1;
                        chosen += 1;
                    }
                }
                let message = Message::new(step.to_string());
                let receipt = poll_once(bus.publish(&subject, message)).await;
                assert_eq!(receipt.unwrap().unwrap().matched, Some(expected), "step {step}");
                lost = bus.stats().lost;
            }
        }
    }
    for pair in &mut pairs {
        while !(pair.messages.is_empty() && pair.taken.is_empty()) {
            pair.read().await;
        }
        pair.read().await;
    }
    println!("{lost} lost, {ended} disconnected, {chosen} to groups");
    assert!(lost > steps / 1000 && ended > steps / 10_000 && chosen > steps / 100);
    drop(pairs);
    assert_eq!(bus.stats().subscriptions, 0);
}

async fn subscribe(bus: &Broker, random: &mut Random) -> Pair {
    let length = 1 + random.below(3);
    let mut pattern: Vec<_> =
        (0..length).map(|_| if random.percent(30) { "*" } else { random.pick(&NAMES) }).collect();
    if random.percent(25) {
        pattern.push(">");
    }
    let group = random.pick(&[None, None, Some("v"), Some("w")]);
    let overflow = random.pick(&OVERFLOWS);
    let limit = if random.percent(10) { 50 } else { 1 + random.below(6) as usize };
    let options = SubscribeOptions {
        group: group.map(str::to_owned),
        queue: QueueLimits { messages: limit, ..QueueLimits::default() },
        overflow,
    };
    let real = bus.subscribe(&Pattern::new(&pattern.join(".")).unwrap(), options).await.unwrap();
    let pattern = pattern.into_iter().map(str::to_owned).collect();
    let (taken, messages) = (VecDeque::new(), VecDeque::new());
    Pair { real, pattern, group, overflow, limit, taken, messages, has_ended: false, turn: None }
}

#[test]
fn order_and_gaps_are_those_of_naive_lists() {
    // The seed is fixed, so that more runs test nothing new; a soak draws other numbers.
    let runs = if std::env::var_os("TIELINE_SOAK").is_some() { 20 } else { 1 };
    for seed in 0..runs {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Without the cooperative budget, because a step that is due must be ready when it is polled.
        runtime.block_on(unconstrained(run(seed, 1_000_000)));
    }
}
