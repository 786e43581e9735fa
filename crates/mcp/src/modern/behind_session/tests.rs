//! A session of an earlier version in front of a program of 2026-07-28.

use super::*;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"elicitation":{}},"clientInfo":{"name":"c"}}}"#;
const REFUSED: &str = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"m"}}"#;
const DISCOVERED: &str = r#"{"jsonrpc":"2.0","id":"tieline-discover","result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"logging":{}},"instructions":"Do.","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}}"#;
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/logLevel":"info""#;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn texts(messages: &[Bytes]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(message).unwrap()).collect()
}

/// A translator, and checks of what it makes of each message.
struct Bench(SessionTranslator);

impl Bench {
    fn modern() -> Self {
        let mut bench = Self(SessionTranslator::default());
        bench.client(INITIALIZE, &[INITIALIZE], &[]);
        let question = format!(
            r#"{{"jsonrpc":"2.0","id":"tieline-discover","method":"server/discover","params":{{{}}}}}}}"#,
            META.replace(r#","io.modelcontextprotocol/logLevel":"info""#, "")
        );
        bench.program(REFUSED, &[&question], &[]);
        let initialized = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"logging":{}},"serverInfo":{"name":"s"},"instructions":"Do."}}"#;
        bench.program(DISCOVERED, &[], &[initialized]);
        bench
    }

    #[track_caller]
    fn client(&mut self, message: &str, to_program: &[&str], to_client: &[&str]) {
        let translated = self.0.from_client(bytes(message));
        assert_eq!(texts(&translated.to_program), to_program);
        assert_eq!(texts(&translated.to_client), to_client);
    }

    #[track_caller]
    fn program(&mut self, message: &str, to_program: &[&str], to_client: &[&str]) {
        let translated = self.0.from_program(bytes(message));
        assert_eq!(texts(&translated.to_program), to_program);
        assert_eq!(texts(&translated.to_client), to_client);
    }
}

#[test]
fn messages_pass_unchanged_if_the_program_accepts_initialize() {
    let mut bench = Bench(SessionTranslator::default());
    bench.client(INITIALIZE, &[INITIALIZE], &[]);
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    bench.program(log, &[], &[log]);
    assert!(!bench.0.is_transparent());
    let initialized = r#"{"jsonrpc":"2.0", "id":0,"result":{"protocolVersion":"2025-06-18"}}"#;
    bench.program(initialized, &[], &[initialized]);
    assert!(bench.0.is_transparent());
    assert_eq!(bench.0.held_bytes(), 0);
}

#[test]
fn refusal_reaches_the_client_if_the_program_cannot_be_used_at_all() {
    for answer in [
        r#"{"jsonrpc":"2.0","id":"tieline-discover","error":{"code":-32601,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":"tieline-discover","result":{"supportedVersions":["2099-01-01"]}}"#,
    ] {
        let mut bench = Bench(SessionTranslator::default());
        bench.client(INITIALIZE, &[INITIALIZE], &[]);
        bench.0.from_program(bytes(REFUSED));
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        bench.client(ping, &[], &[]);
        bench.program(answer, &[ping], &[REFUSED]);
        assert!(bench.0.is_transparent());
    }
}

#[test]
fn requests_get_the_envelope_and_keep_their_ids() {
    let mut bench = Bench::modern();
    bench.client(
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#,
        &[&format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{{{META}}}}}}}"#)],
        &[],
    );
    bench.client(
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":2},"y":1.0}}"#,
        &[&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{{META},"progressToken":2}},"y":1.0}}}}"#
        )],
        &[],
    );
    let response = r#"{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","tools":[]}}"#;
    bench.program(response, &[], &[response]);
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":2}}"#;
    bench.program(progress, &[], &[progress]);
    bench.program(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &[], &[]);
}

#[test]
fn requests_that_the_program_no_longer_knows_are_answered() {
    let mut bench = Bench::modern();
    let done = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    bench.client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &[], &[done]);
    let level = |level: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#
        )
    };
    bench.client(&level("error"), &[], &[done]);
    let translated = bench.0.from_client(bytes(&level("loud")));
    assert!(texts(&translated.to_client)[0].contains("-32602"));
    let translated =
        bench.0.from_client(bytes(r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#));
    assert!(texts(&translated.to_client)[0].contains("-32601"));
    let translated =
        bench.0.from_client(bytes(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#));
    assert!(texts(&translated.to_program)[0].contains(r#"logLevel":"error""#));
}

#[test]
fn session_listens_for_its_subscriptions() {
    let mut bench = Bench::modern();
    let listen = |number: u32, filter: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"tieline-{number}","method":"subscriptions/listen","params":{{{META}}},"notifications":{{{filter}}}}}}}"#
        )
    };
    let first = listen(1, r#""toolsListChanged":true"#);
    bench.client(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &[&first], &[]);
    let subscribe = |method: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"resources/{method}","params":{{"uri":"u"}}}}"#
        )
    };
    let done = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let cancel = |number: u32| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{{META}}},"requestId":"tieline-{number}"}}}}"#
        )
    };
    let second = listen(2, r#""toolsListChanged":true,"resourceSubscriptions":["u"]"#);
    bench.client(&subscribe("subscribe"), &[&cancel(1), &second], &[done]);
    bench.client(&subscribe("subscribe"), &[], &[done]);
    let tagged = |method: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":"tieline-2"}},"uri":"u"}}}}"#
        )
    };
    bench.program(&tagged("subscriptions/acknowledged"), &[], &[]);
    let updated =
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"u"}}"#;
    bench.program(&tagged("resources/updated"), &[], &[updated]);
    let third = listen(3, r#""toolsListChanged":true"#);
    bench.client(&subscribe("unsubscribe"), &[&cancel(2), &third], &[done]);
    bench.program(r#"{"jsonrpc":"2.0","id":"tieline-3","result":{}}"#, &[], &[]);
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#;
const NEEDED: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","requestState":"s","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"?"}},"b":{"method":"roots/list"}}}}"#;

/// `more` is what follows the arguments of the call.
fn repeated(number: u32, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"tieline-{number}","method":"tools/call","params":{{{META}}},"name":"t",{more}}}}}"#
    )
}

#[test]
fn client_is_asked_and_the_request_is_repeated_with_its_answers() {
    let mut bench = Bench::modern();
    let before = bench.0.held_bytes();
    bench.0.from_client(bytes(CALL));
    bench.program(
        NEEDED,
        &[],
        &[
            r#"{"jsonrpc":"2.0","id":"tieline-1","method":"elicitation/create","params":{"message":"?"}}"#,
            r#"{"jsonrpc":"2.0","id":"tieline-2","method":"roots/list","params":{}}"#,
        ],
    );
    bench.client(r#"{"jsonrpc":"2.0","id":"tieline-2","result":{"roots":[]}}"#, &[], &[]);
    let given = r#""inputResponses":{"b":{"roots":[]},"a":{"action":"cancel"}},"requestState":"s""#;
    let repeated = repeated(3, given);
    // A client that fails to show a form has cancelled it.
    let failed = r#"{"jsonrpc":"2.0","id":"tieline-1","error":{"code":1,"message":"m"}}"#;
    bench.client(failed, &[&repeated], &[]);
    bench.program(
        r#"{"jsonrpc":"2.0","id":"tieline-3","result":{"resultType":"complete","x":1}}"#,
        &[],
        &[r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","x":1}}"#],
    );
    assert_eq!(bench.0.held_bytes(), before);
}

#[test]
fn refused_question_fails_the_request() {
    let mut bench = Bench::modern();
    bench.0.from_client(bytes(CALL));
    bench.0.from_program(bytes(NEEDED));
    let refusal =
        r#"{"jsonrpc":"2.0","id":"tieline-2","error":{"code":-32601,"message":"no roots"}}"#;
    bench.client(
        refusal,
        &[],
        &[r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"the client refused roots/list: no roots"}}"#],
    );
    bench.client(r#"{"jsonrpc":"2.0","id":"tieline-1","result":{}}"#, &[], &[]);
}

#[test]
fn cancellation_has_the_id_that_the_program_knows() {
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    let passed = |id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{{META}}},"requestId":{id}}}}}"#
        )
    };
    let mut bench = Bench::modern();
    bench.0.from_client(bytes(CALL));
    bench.client(cancel, &[&passed("7")], &[]);

    let mut bench = Bench::modern();
    bench.0.from_client(bytes(CALL));
    bench.0.from_program(bytes(NEEDED));
    // The program has already answered the request.
    bench.client(cancel, &[], &[]);

    let mut bench = Bench::modern();
    bench.0.from_client(bytes(CALL));
    let again = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required"}}"#;
    bench.program(again, &[&repeated(1, r#""inputResponses":{}"#)], &[]);
    bench.client(cancel, &[&passed("\"tieline-1\"")], &[]);
}

#[test]
fn program_cannot_have_a_request_repeated_forever() {
    let mut bench = Bench::modern();
    bench.0.from_client(bytes(CALL));
    let mut id = "7".to_owned();
    for round in 1..100 {
        let again =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required"}}}}"#);
        let translated = bench.0.from_program(bytes(&again));
        if let Some(error) = translated.to_client.first() {
            assert_eq!(round, 33);
            assert!(texts(std::slice::from_ref(error))[0].contains(r#""id":7,"error""#));
            return;
        }
        id = format!("\"tieline-{round}\"");
    }
    panic!("it was repeated 100 times");
}

/// The messages of a random sequence; `#` stands for a number.
const MESSAGES: [&str; 14] = [
    INITIALIZE,
    REFUSED,
    DISCOVERED,
    r#"{"jsonrpc":"2.0","id":#,"method":"tools/call","params":{"name":"t"}}"#,
    r#"{"jsonrpc":"2.0","id":#,"method":"resources/subscribe","params":{"uri":"u#"}}"#,
    r#"{"jsonrpc":"2.0","id":#,"method":"resources/unsubscribe","params":{"uri":"u#"}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":#}}"#,
    r#"{"jsonrpc":"2.0","id":#,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":1}}}"#,
    r#"{"jsonrpc":"2.0","id":"tieline-#","result":{"resultType":"input_required","requestState":"s"}}"#,
    r#"{"jsonrpc":"2.0","id":"tieline-#","result":{}}"#,
    r#"{"jsonrpc":"2.0","id":"tieline-#","error":{"code":1,"message":"m"}}"#,
    r#"{"jsonrpc":"2.0","id":#,"result":{}}"#,
    "no JSON",
];

proptest::proptest! {
    #[test]
    fn any_sequence_is_answered_with_few_messages(
        steps in proptest::collection::vec((proptest::bool::ANY, 0..MESSAGES.len(), 0..8_u32), 0..60),
        is_modern in proptest::bool::ANY,
    ) {
        let mut bench = if is_modern { Bench::modern() } else { Bench(SessionTranslator::default()) };
        for (is_client, which, number) in steps {
            let message = bytes(&MESSAGES[which].replace('#', &number.to_string()));
            let translated = match is_client {
                true => bench.0.from_client(message),
                false => bench.0.from_program(message),
            };
            let count = translated.to_program.len() + translated.to_client.len();
            // The first messages of the client wait until it is known what the program speaks.
            proptest::prop_assert!(count <= opening::MAX_HELD * 3, "{count}");
        }
        proptest::prop_assert!(bench.0.held_bytes() < 10_000);
    }
}

#[test]
fn requests_beyond_the_limit_get_an_error_while_the_program_is_asked() {
    let mut bench = Bench(SessionTranslator::default());
    bench.client(INITIALIZE, &[INITIALIZE], &[]);
    bench.0.from_program(bytes(REFUSED));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for _ in 0..opening::MAX_HELD {
        bench.client(ping, &[], &[]);
    }
    let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31503,"message":"too many requests before the response to `initialize`"}}"#;
    bench.client(ping, &[], &[refused]);
}
