//! Tests that random steps cause no panic, and that all counters stay right.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    Says(String),
    Bytes(Vec<u8>),
    Answer(usize),
    Events(usize),
    Close(usize),
    Later(u64),
    Shed,
    End,
}

const REQUESTS: [(&str, &str, &str); 8] = [
    ("tools/call", r#","name":"t","arguments":{}"#, ALL_CAPABILITIES),
    ("tools/call", r#","name":"t","arguments":{}"#, NO_CAPABILITIES),
    (
        "tools/call",
        r#","name":"t","arguments":{},"requestState":"state-1","inputResponses":{"input-1":{}}"#,
        ALL_CAPABILITIES,
    ),
    ("resources/read", r#","uri":"u""#, ALL_CAPABILITIES),
    ("tools/list", "", NO_CAPABILITIES),
    ("server/discover", "", NO_CAPABILITIES),
    (
        "subscriptions/listen",
        r#","notifications":{"toolsListChanged":true,"resourceSubscriptions":["u"]}"#,
        NO_CAPABILITIES,
    ),
    ("other", "", NO_CAPABILITIES),
];

fn step() -> impl Strategy<Value = Step> {
    let id = 0..12_u64;
    let messages = prop_oneof![
        id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)),
        id.clone().prop_map(|id| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{"listChanged":true}},"resources":{{"subscribe":true}}}}}}}}"#
            )
        }),
        id.clone().prop_map(|id| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"m"}}}}"#)
        }),
        id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":1,"error":2}}"#)),
        id.clone().prop_map(|id| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{"message":"m"}}}}"#
            )
        }),
        id.clone().prop_map(|id| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            )
        }),
        id.clone().prop_map(|id| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id}}}}}"#
            )
        }),
        id.prop_map(|id| {
            format!(
                r#"[{{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}},{{"jsonrpc":"2.0","id":{id},"result":{{}}}}]"#
            )
        }),
        Just(r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#.to_owned()),
    ];
    prop_oneof![
        4 => (0..REQUESTS.len()).prop_map(Step::Post),
        6 => messages.prop_map(Step::Says),
        1 => any::<Vec<u8>>().prop_map(Step::Bytes),
        2 => (0..12_usize).prop_map(Step::Answer),
        2 => (0..12_usize).prop_map(Step::Events),
        2 => (0..12_usize).prop_map(Step::Close),
        2 => (0..400_000_u64).prop_map(Step::Later),
        1 => Just(Step::Shed),
        1 => Just(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn counters_stay_exact_after_any_steps(
        era in prop_oneof![Just(None), Just(Some(ProgramEra::Modern)), Just(Some(ProgramEra::Legacy))],
        steps in proptest::collection::vec(step(), 0..40),
    ) {
        let limits = ModernLimits { calls: 6, waiting_bytes: 2000, ..ModernLimits::default() };
        let mut bench = Bench::within(era, limits);
        for step in steps {
            match step {
                Step::Post(which) => {
                    let (method, more, capabilities) = REQUESTS[which];
                    let token = r#","progressToken":1"#;
                    let request = read(&text("1", method, capabilities, more, token));
                    let _ = bench.program.post(bench.now, &request);
                }
                Step::Says(message) => bench.says(&message),
                Step::Bytes(bytes) => bench.program.from_program(bench.now, bytes.into()),
                Step::Answer(call) => drop(bench.answer(call as u64)),
                Step::Events(call) => {
                    let mut out = BytesMut::new();
                    while bench.program.next(call as u64, &mut out) == ModernNext::Event {}
                }
                Step::Close(call) => bench.close(call as u64),
                Step::Later(milliseconds) => bench.later(Duration::from_millis(milliseconds)),
                Step::Shed => drop(bench.program.shed()),
                Step::End => bench.program.ended(),
            }
            bench.check();
            bench.sent();
        }
        let calls: Vec<_> = bench.program.calls.keys().copied().collect();
        calls.into_iter().for_each(|call| bench.close(call));
        bench.sent();
        prop_assert_eq!(bench.program.held, 0);
        prop_assert!(bench.program.is_over() || bench.program.legacy.watched.is_empty());
    }
}
