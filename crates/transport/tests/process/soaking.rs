//! Repeated starting and ending, to detect leaks. With `TIELINE_SOAK=1`, ten thousand lines and five
//! hundred kills are run instead of a sample.

use std::collections::BTreeMap;
use std::fs;

use tieline_testkit::{helper, misbehave, test_name};
use tieline_transport::until_children_are_gone;

use super::guarding::held;
use super::holding::in_a_group;
use super::leaving::{ENDS, MISBEHAVING, run};
use super::*;

pub(super) fn is_long() -> bool {
    std::env::var_os("TIELINE_SOAK").is_some()
}

/// The resources that a process could leak.
#[derive(Debug, PartialEq)]
struct Holdings {
    descriptors: BTreeMap<String, usize>,
    threads: usize,
    children: Vec<u32>,
}

impl Holdings {
    fn now() -> Self {
        let mut descriptors = BTreeMap::new();
        for descriptor in fs::read_dir("/proc/self/fd").unwrap() {
            let target = fs::read_link(descriptor.unwrap().path());
            let target = target.map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
            // Each pipe or socket has its own number, so only the kinds are counted.
            let kind = target.split(':').next().unwrap_or_default().to_owned();
            *descriptors.entry(kind).or_default() += 1;
        }
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        Self { descriptors, threads, children: misbehave::children_of(std::process::id()) }
    }
}

/// Checks that the helper succeeds, like [`helper::succeeds`], but without a time limit in long runs.
pub(super) fn succeeds(helper: &mut std::process::Command) {
    match is_long() {
        true => assert_eq!(helper.status().unwrap().code(), Some(42)),
        false => _ = helper::succeeds(helper),
    }
}

fn start_and_end(hold: Hold) {
    let rounds = if is_long() { 10_000 } else { 100 };
    let mark = misbehave::new_mark();
    let well_behaved: &[&str] = &["say=up", "echo"];
    run(held(hold, &mark, well_behaved), ENDS[0]);
    assert!(until_children_are_gone(wait::LIMIT));
    let before = Holdings::now();
    for round in 0..rounds {
        let (misbehaving, _) = MISBEHAVING[round / 2 % MISBEHAVING.len()];
        let to_do = if round % 2 == 0 { well_behaved } else { misbehaving };
        run(held(hold, &mark, to_do), ENDS[round % ENDS.len()]);
    }
    assert!(until_children_are_gone(wait::LIMIT));
    assert_eq!(misbehave::survivors(&mark), [0; 0]);
    wait::until("the threads of the last runtime have ended", || {
        Holdings::now().threads <= before.threads
    });
    assert_eq!(Holdings::now(), before);
}

#[test]
fn starting_and_ending_leaks_nothing() {
    succeeds(&mut helper::plain(test_name!(), || start_and_end(Hold::Descent)));
}

#[test]
fn starting_and_ending_in_cgroups_leaks_nothing() {
    in_a_group(test_name!(), 0, || start_and_end(Hold::Cgroup));
}

#[test]
fn starting_and_ending_in_namespaces_leaks_nothing() {
    succeeds(&mut helper::plain(test_name!(), || start_and_end(Hold::Isolated)));
}
