//! A comparison of `Lease` with a simple model, which is a list of valid secrets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;
use tieline_proto::session::{Hello, Lease, Position, Refusal, Secret, SessionId};

/// A step of the test: an attempt to resume, or a frame on the last connection.
#[derive(Clone, Debug)]
enum Grant {
    Resume { with: usize, epoch_off: bool, stranger: bool },
    Seen,
}

proptest! {
    #[test]
    fn lease_accepts_the_proven_secret_and_those_offered_since(
        steps in proptest::collection::vec(
            prop_oneof![
                5 => (0..24_usize, proptest::bool::weighted(0.1), proptest::bool::weighted(0.1))
                    .prop_map(|(with, epoch_off, stranger)| Grant::Resume { with, epoch_off, stranger }),
                1 => Just(Grant::Seen),
            ],
            1..60,
        ),
    ) {
        let id = SessionId([1; 16]);
        // The secrets differ only in the last byte.
        let secret = |number: u64| {
            let mut bytes = [9; 16];
            bytes[15] = number as u8;
            Secret(bytes)
        };
        let (mut lease, _) = Lease::new(id, 'a', secret(1));
        let (mut last, mut valid) = (1_u64, vec![1_u64]);
        for step in steps {
            match step {
                Grant::Seen => {
                    lease.seen();
                    valid = vec![*valid.last().unwrap()];
                }
                Grant::Resume { with, epoch_off, stranger } => {
                    let of = (last + 1).saturating_sub(with as u64).max(1);
                    let epoch = if epoch_off { of + 1 } else { of };
                    let resumes = Some((id, secret(of), epoch));
                    let hello = Hello { resumes, position: Position::default() };
                    let principal = if stranger { 'b' } else { 'a' };
                    let expected = match valid.iter().position(|it| *it == of) {
                        _ if stranger => Err(Refusal::Principal),
                        None => Err(Refusal::Secret),
                        Some(_) if epoch_off => Err(Refusal::Epoch),
                        Some(at) => Ok(at),
                    };
                    let checked = lease.check(&hello, &principal);
                    prop_assert_eq!(checked, expected.map(|_| ()));
                    let next = secret(last + 1);
                    let granted = lease.resume(&hello, &principal, next, Position::default());
                    prop_assert_eq!(granted.map(|it| it.epoch), expected.map(|_| last + 1));
                    if let Ok(at) = expected {
                        last += 1;
                        if at > 0 {
                            valid = vec![of];
                        }
                        valid.push(last);
                        // The proven secret and eight others remain.
                        if valid.len() > 9 {
                            valid.remove(1);
                        }
                    }
                }
            }
            prop_assert_eq!(lease.epoch(), last);
        }
    }
}
