//! Random steps of both sides, and hostile input.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    Program(usize),
    Get(Option<(u64, u64)>),
    Answer(usize),
    Next(usize),
    Detach(usize),
    Expire(u64),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<usize>().prop_map(Step::Post),
        3 => any::<usize>().prop_map(Step::Program),
        1 => proptest::option::of((0..6_u64, 0..6_u64)).prop_map(Step::Get),
        2 => any::<usize>().prop_map(Step::Answer),
        3 => any::<usize>().prop_map(Step::Next),
        1 => any::<usize>().prop_map(Step::Detach),
        1 => (0..100_u64).prop_map(Step::Expire),
        1 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Asserts that the counts remain right and kept messages remain bounded for any actions of both
    /// sides in any order.
    #[test]
    fn counters_stay_exact_after_any_steps(steps in steps()) {
        let limits = SessionLimits {
            kept_bytes: 600, waiting_bytes: 400, finished: 2, calls: 4, ..SessionLimits::default()
        };
        let mut client = Client::open_with(limits, "2025-03-26");
        let bodies = [
            request("1", "tools/call"), request("2", "tools/call"), call_with_token("3", "1"),
            call_with_token("6", "1"),
            cancel("1"), cancel("2"), result("9"), notification("n", "{}"),
            format!("[{},{}]", request("4", "a"), request("5", "b")),
        ];
        let messages = [
            result("1"), result("2"), result("3"), result("4"), result("5"), progress("1"),
            request("9", "sampling/createMessage"), cancel("9"),
            notification("notifications/tools/list_changed", "{}"), "no JSON".to_owned(),
            r#"{"id":1,"result":1,"error":{}}"#.to_owned(),
        ];
        let mut places = Vec::new();
        for step in steps {
            let mut is_expired = false;
            let pick = |index: usize, places: &[Place]| {
                (!places.is_empty()).then(|| places[index % places.len()])
            };
            match step {
                Step::Post(index) => {
                    let posted = client.try_post(&Head::default(), &bodies[index % bodies.len()]);
                    places.extend(posted.ok().and_then(|it| it.place));
                }
                Step::Program(index) => _ = client.program(&messages[index % messages.len()]),
                Step::Get(last) => {
                    let last = last.map(|(stream, number)| format!("{stream}.{number}"));
                    let got = client.session.get(client.now, &get(last.as_deref()));
                    places.extend(got.ok().map(|(place, _)| place));
                }
                Step::Answer(index) => if let Some(place) = pick(index, &places) {
                    client.session.answer(client.now, place);
                },
                Step::Next(index) => if let Some(place) = pick(index, &places) {
                    client.session.next(place, &mut BytesMut::new());
                },
                Step::Detach(index) => if let Some(place) = pick(index, &places) {
                    client.session.detach(client.now, place);
                },
                Step::Expire(seconds) => {
                    client.now += Duration::from_secs(seconds);
                    client.session.expire(client.now);
                    is_expired = !client.session.is_over();
                }
                Step::Forget => client.session.forget(),
            }
            let session = &client.session;
            let streams = || session.streams.values();
            prop_assert_eq!(session.kept, streams().map(Stream::cost).sum::<usize>());
            let there = || streams().filter(|it| it.connection.is_some());
            prop_assert_eq!(session.attached, there().count());
            prop_assert_eq!(session.waiting, there().map(Stream::unwritten).sum::<usize>());
            prop_assert_eq!(&session.open, &session.requests.streams());
            prop_assert!(session.requests.calls() <= 4);
            session.requests.check_exact();
            for (number, it) in &session.streams {
                let is_idle = number != &GENERAL && it.open == 0 && it.connection.is_none();
                prop_assert_eq!(it.idle_since.is_some(), is_idle);
            }
            prop_assert!(session.idle_streams().count() <= 2);
            prop_assert!(session.deadline().is_none_or(|at| at > client.now || !is_expired));
        }
    }

    #[test]
    fn hostile_input_does_not_panic(
        body: Vec<u8>,
        message: Vec<u8>,
        name in "[a-z-]{0,20}|accept|content-type|mcp-session-id|mcp-protocol-version|last-event-id",
        value: Vec<u8>,
    ) {
        let mut client = Client::open();
        if let Ok(head) = Head::of([(&*name, &*value)]) {
            let _ = head.check_post();
            let _ = client.session.get(ZERO, &head);
        }
        if let Err(refusal) = Posted::read(body.into(), Limits::default()) {
            prop_assert!(!refusal.body().is_empty());
        }
        client.session.from_program(ZERO, message.into());
    }
}
