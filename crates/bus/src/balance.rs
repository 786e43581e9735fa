//! Which member of a group gets a message: the one with the fewest unanswered requests; among equals the
//! one whose turn was longest ago. No I/O.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The turns of one group. A choice and its effect on the [`Load`] of the member are one step, because the
/// caller has exclusive access.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    turn: u64,
}

/// The load of one member. Only [`Balance`] and [`settle`](Self::settle) write the counts.
#[derive(Debug, Default)]
pub(crate) struct Load {
    unanswered: AtomicU32,
    /// When the member was last chosen.
    turn: AtomicU64,
    is_full: AtomicBool,
}

impl Balance {
    /// Chooses one of the members, and counts a request as unanswered if it is one. Members whose queue is
    /// full are chosen only if all are full. Returns the index, or `None` if there are no members. Takes
    /// time proportional to the number of members.
    pub(crate) fn choose<'a>(
        &mut self,
        members: impl IntoIterator<Item = &'a Load>,
        is_request: bool,
    ) -> Option<usize> {
        let (index, chosen) =
            members.into_iter().enumerate().min_by_key(|(_, load)| load.rank())?;
        self.turn += 1;
        chosen.turn.store(self.turn, Ordering::Relaxed);
        if is_request {
            chosen.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        Some(index)
    }
}

impl Load {
    fn rank(&self) -> (bool, u32, u64) {
        let turn = self.turn.load(Ordering::Relaxed);
        (self.is_full.load(Ordering::Relaxed), self.unanswered(), turn)
    }

    /// Returns the number of requests that this member has not answered.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Counts one request less.
    pub(crate) fn settle(&self) {
        let less = |count: u32| count.checked_sub(1);
        let _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Sets whether the member's queue is full.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_testkit::random::Random;

    #[test]
    fn idle_members_take_turns_and_a_member_that_hangs_is_left_alone() {
        let loads = [Load::default(), Load::default(), Load::default()];
        let mut balance = Balance::default();
        let mut choose = |is_request| balance.choose(&loads, is_request).unwrap();
        assert_eq!([choose(false), choose(false), choose(false), choose(false)], [0, 1, 2, 0]);
        let hanging = choose(true);
        assert_eq!(hanging, 1);
        for _ in 0..10 {
            let other = choose(true);
            assert_ne!(other, hanging);
            loads[other].settle();
        }
        loads[hanging].settle();
        assert_eq!(choose(true), hanging);
    }

    #[test]
    fn full_members_are_chosen_last() {
        let loads = [Load::default(), Load::default()];
        let mut balance = Balance::default();
        loads[0].set_full(true);
        assert_eq!([(); 3].map(|()| balance.choose(&loads, true)), [Some(1); 3]);
        loads[1].set_full(true);
        assert_eq!(balance.choose(&loads, true), Some(0));
        assert_eq!(balance.choose([], true), None);
    }

    /// A member as the model sees it: a list of the turns at which it was chosen, and its open requests.
    #[derive(Default)]
    struct Model {
        id: u64,
        turns: Vec<u64>,
        open: u32,
        is_full: bool,
    }

    #[test]
    fn choices_agree_with_a_naive_model() {
        let seed = 20_261_201;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut balance = Balance::default();
        let mut members: Vec<(Load, Model)> = Vec::new();
        let mut next = 0;
        for step in 1..=200_000_u64 {
            let any = random.below(members.len().max(1) as u64) as usize;
            match random.below(20) {
                0 if members.len() < 12 => {
                    next += 1;
                    members.push((Load::default(), Model { id: next, ..Model::default() }));
                }
                1 if members.len() > 8 => drop(members.remove(any)),
                2 => {
                    if let Some((load, model)) = members.get_mut(any) {
                        model.is_full = !model.is_full;
                        load.set_full(model.is_full);
                    }
                }
                3..=9 => {
                    if let Some((load, model)) = members.get_mut(any) {
                        load.settle();
                        model.open = model.open.saturating_sub(1);
                    }
                }
                kind => {
                    let is_request = kind > 12;
                    let expected = naive(&members);
                    let loads = members.iter().map(|(load, _)| load);
                    let chosen = balance.choose(loads, is_request);
                    assert_eq!(chosen.map(|it| members[it].1.id), expected, "step {step}");
                    if let Some((_, model)) = chosen.and_then(|it| members.get_mut(it)) {
                        model.turns.push(step);
                        model.open += u32::from(is_request);
                    }
                }
            }
            assert!(members.iter().all(|(load, model)| load.unanswered() == model.open));
        }
        assert!(next > 100, "{next} members");
    }

    /// Sorts the members, one criterion after the other.
    fn naive(members: &[(Load, Model)]) -> Option<u64> {
        let mut left: Vec<&Model> = members.iter().map(|(_, model)| model).collect();
        if left.iter().any(|it| !it.is_full) {
            left.retain(|it| !it.is_full);
        }
        let fewest = left.iter().map(|it| it.open).min()?;
        left.retain(|it| it.open == fewest);
        left.iter().min_by_key(|it| (it.turns.last().copied(), it.id)).map(|it| it.id)
    }
}
