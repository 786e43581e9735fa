//! Random steps of both sides, and hostile input.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    Program(usize),
    Get(Option<&'static str>, Option<(u64, u64)>),
    Next(usize),
    Detach(usize),
    Expire(u64),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("c"))];
    let last = proptest::option::of((0..6_u64, 0..6_u64));
    let step = prop_oneof![
        3 => any::<usize>().prop_map(Step::Post),
        4 => any::<usize>().prop_map(Step::Program),
        2 => (session, last).prop_map(|(session, last)| Step::Get(session, last)),
        3 => any::<usize>().prop_map(Step::Next),
        1 => any::<usize>().prop_map(Step::Detach),
        1 => (0..100_u64).prop_map(Step::Expire),
        1 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Asserts that the counts remain right and kept messages remain bounded for any actions of both sides in any
    /// order.
    #[test]
    fn counters_stay_exact_after_any_steps(steps in steps()) {
        let limits = AcpLimits {
            kept_bytes: 600, waiting_bytes: 400, calls: 4, sessions: 2, unknown_sessions: 1,
            ..AcpLimits::default()
        };
        let mut client = Client::open_with(limits);
        let of = |id: &str, method: &str, session: &str| request(id, method, &in_session(session));
        let bodies = [
            (None, request("1", "session/new", "{}")), (Some("a"), of("2", "session/prompt", "a")),
            (Some("b"), of("3", "session/load", "b")), (Some("a"), of("4", "session/close", "a")),
            (Some("c"), of("5", "session/fork", "c")), (Some("b"), result("9", "{}")),
            (Some("a"), notification("session/cancel", &in_session("a"))), (None, error("9")),
        ];
        let messages = [
            result("1", &in_session("a")), result("2", "{}"), result("3", "null"), result("4", "{}"),
            result("5", &in_session("b")), error("3"), update("a"), update("b"), update("c"), "no JSON".into(),
            of("9", "session/request_permission", "a"), notification("$/cancel_request", r#"{"requestId":9}"#),
            r#"{"id":1,"result":1,"error":{}}"#.to_owned(),
        ];
        let mut places = Vec::new();
        for step in steps {
            let pick = |index: usize, places: &[Place]| {
                (!places.is_empty()).then(|| places[index % places.len()])
            };
            match step {
                Step::Post(index) => {
                    let (session, body) = &bodies[index % bodies.len()];
                    let _ = client.try_post(*session, body);
                }
                Step::Program(index) => _ = client.program(&messages[index % messages.len()]),
                Step::Get(session, last) => {
                    let last = last.map(|(stream, number)| format!("{stream}.{number}"));
                    let got = client.try_get(session, last.as_deref());
                    places.extend(got.ok().map(|(place, _)| place));
                }
                Step::Next(index) => if let Some(place) = pick(index, &places) {
                    client.acp.next(place, &mut BytesMut::new());
                },
                Step::Detach(index) => if let Some(place) = pick(index, &places) {
                    client.acp.detach(client.now, place);
                },
                Step::Expire(seconds) => {
                    client.now += Duration::from_secs(seconds);
                    client.acp.expire(client.now);
                }
                Step::Forget => client.acp.forget(),
            }
            client.acp.check_exact();
        }
    }

    #[test]
    fn hostile_input_does_not_panic(
        body: Vec<u8>,
        message: Vec<u8>,
        name in "accept|content-type|acp-connection-id|acp-session-id|last-event-id",
        value: Vec<u8>,
    ) {
        let mut client = Client::open();
        if let Ok(head) = AcpHead::of([(&*name, &*value)]) {
            let _ = head.check_post();
            let _ = client.acp.get(ZERO, &head);
        }
        match AcpPosted::read(body.into(), Limits::default()) {
            Ok(posted) => _ = client.acp.post(ZERO, &AcpHead::default(), &posted),
            Err(refusal) => prop_assert!(!refusal.body().is_empty()),
        }
        client.acp.from_program(message.into());
    }
}
