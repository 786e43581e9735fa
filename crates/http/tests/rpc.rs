//! Tests of JSON-RPC calls by single POSTs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::events::ask;
use support::{LIMIT, Served, TOKEN, config, end, exit, message, serve, status_of};
use tieline_http::WebLine;
use tieline_transport::{Acceptor, BoxChannel, Channel, CloseReason, SenderExt};

async fn rpc(port: u16, body: &str) -> (u16, String) {
    let more = format!("Authorization: Bearer {TOKEN}\r\n");
    let (head, body) = ask("POST", port, "/rpc", body, &more).await;
    (status_of(&head), body)
}

async fn accepted(served: &mut Served) -> BoxChannel {
    WebLine::boxed(served.plain.accept().await.unwrap())
}

fn request(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#)
}

fn result(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":[1]}}"#)
}

const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"n"}"#;

#[tokio::test]
async fn a_request_has_its_own_line_which_ends_after_the_response() {
    let mut served = serve(config()).await;
    let port = served.port;
    for id in ["1", "\"a\\u0041\"", "12345678901234567890"] {
        let serving = async {
            let (mut sender, mut receiver) = accepted(&mut served).await.split();
            assert_eq!(message(&mut receiver).await, request(id));
            // Other messages from the program are discarded.
            for other in [NOTIFICATION.into(), request("7"), result("77"), "not JSON".into()] {
                sender.send(other).await.unwrap();
            }
            sender.send(result(id)).await.unwrap();
            end(&mut receiver).await
        };
        let asked = request(id);
        let (answer, reason) = tokio::join!(rpc(port, &asked), serving);
        assert_eq!(answer, (200, result(id)));
        assert!(matches!(reason, CloseReason::ByPeer), "{reason}");
    }
    assert_eq!(served.web.counts().rpc_calls, 3);
}

#[tokio::test]
async fn a_batch_is_split_and_its_responses_are_joined() {
    let mut served = serve(config()).await;
    let port = served.port;
    let batch = format!("[{},\n {NOTIFICATION},{}, 7]", request("1"), request("\"b\""));
    let serving = async {
        let (mut sender, mut receiver) = accepted(&mut served).await.split();
        for expected in [request("1"), NOTIFICATION.into(), request("\"b\"")] {
            assert_eq!(message(&mut receiver).await, expected);
        }
        sender.send(result("\"b\"")).await.unwrap();
        sender.send(result("1")).await.unwrap();
        end(&mut receiver).await
    };
    let (answer, _) = tokio::join!(rpc(port, &batch), serving);
    let invalid = &answer.1[..answer.1.find(&result("\"b\"")).unwrap()];
    assert!(invalid.contains("-32600"), "{invalid}");
    assert!(answer.1.ends_with(&format!("{},{}]", result("\"b\""), result("1"))), "{answer:?}");
}

#[tokio::test]
async fn notifications_are_accepted_without_a_response() {
    let mut served = serve(config()).await;
    let port = served.port;
    for body in [NOTIFICATION.to_owned(), format!("[{NOTIFICATION},{NOTIFICATION}]")] {
        assert_eq!(rpc(port, &body).await, (202, "\n".to_owned()));
        let (_sender, mut receiver) = accepted(&mut served).await.split();
        assert_eq!(message(&mut receiver).await, NOTIFICATION);
        assert!(matches!(end(&mut receiver).await, CloseReason::ByPeer));
    }
}

#[tokio::test]
async fn an_invalid_request_starts_nothing() {
    let mut served = serve(config()).await;
    let port = served.port;
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("\u{0}", -32700),
        ("[1,", -32700),
        ("[]", -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"result":2}"#, -32600),
        (r#"{"id":1,"method":"m"}"#, -32600),
    ] {
        let (status, answer) = rpc(port, body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer.contains(&format!("\"code\":{code},")), "{body}: {answer}");
    }
    let accepting = tokio::time::timeout(Duration::ZERO, served.plain.accept()).await;
    assert!(accepting.is_err(), "a line was started");
}

/// The program's output is shown only to clients with a token.
#[tokio::test]
async fn a_failed_program_is_reported_as_an_error_with_its_status() {
    for is_open in [false, true] {
        let mut config = config();
        if is_open {
            config.access = tieline_http::Access::Anybody;
        }
        let mut served = serve(config).await;
        let (port, body) = (served.port, request("1"));
        let serving = async {
            let line = accepted(&mut served).await;
            line.control().report_at_close(CloseReason::ChildExited(exit(3, "a line\n").into()));
        };
        let ((status, answer), ()) = tokio::join!(rpc(port, &body), serving);
        assert_eq!(status, 502);
        assert!(answer.contains("\"message\":\"the program has failed with exit "), "{answer}");
        assert!(answer.contains("\"data\":{\"code\":3,"), "{answer}");
        assert_eq!(answer.contains("a line"), !is_open, "{answer}");
    }
}

#[tokio::test]
async fn a_missing_response_is_reported_as_an_error() {
    let mut config = config();
    config.limits.rpc_timeout = Duration::from_millis(100);
    let mut served = serve(config).await;
    let port = served.port;
    let (body, serving) = (request("1"), async { drop(accepted(&mut served).await) });
    let ((status, answer), ()) = tokio::join!(rpc(port, &body), serving);
    assert_eq!(status, 502);
    assert!(answer.contains("\"id\":1,\"error\":{\"code\":-32000"), "{answer}");
    let serving = async {
        let channel = accepted(&mut served).await;
        end(&mut channel.split().1).await
    };
    let ((status, answer), reason) = tokio::join!(rpc(port, &body), serving);
    assert_eq!(status, 504);
    assert!(answer.contains("\"id\":1,\"error\":{\"code\":-32000"), "{answer}");
    assert!(matches!(reason, CloseReason::ByPeer), "{reason}");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused() {
    let mut config = config();
    config.limits.rpc_calls = 1;
    let mut served = serve(config).await;
    let port = served.port;
    let body = request("1");
    let serving = async {
        let (mut sender, mut receiver) = accepted(&mut served).await.split();
        assert_eq!(message(&mut receiver).await, body);
        assert_eq!(rpc(port, &body).await.0, 503);
        sender.send(result("1")).await.unwrap();
    };
    let (answer, ()) = tokio::join!(rpc(port, &body), serving);
    assert_eq!(answer.0, 200);
    // When the client disconnects, its line ends.
    let asking = tokio::spawn({
        let body = body.clone();
        async move { rpc(port, &body).await }
    });
    let (_sender, mut receiver) = accepted(&mut served).await.split();
    assert_eq!(message(&mut receiver).await, body);
    asking.abort();
    let ended = tokio::time::timeout(LIMIT, end(&mut receiver)).await.unwrap();
    assert!(matches!(ended, CloseReason::ByPeer), "{ended}");
}

#[tokio::test]
async fn ids_are_compared_after_unescaping() {
    let mut served = serve(config()).await;
    let port = served.port;
    let serving = async {
        let (mut sender, mut receiver) = accepted(&mut served).await.split();
        assert_eq!(message(&mut receiver).await, request("\"a\\u0041\""));
        sender.send(result("\"A\"")).await.unwrap();
        sender.send(result("\"aA\"")).await.unwrap();
        end(&mut receiver).await
    };
    let asked = request("\"a\\u0041\"");
    let (answer, _) = tokio::join!(rpc(port, &asked), serving);
    assert_eq!(answer, (200, result("\"a\\u0041\"")));
}

/// Each pair has the program's response to request 1 and the response that the client receives: the same
/// one (`None`) or a corrected one.
#[tokio::test]
async fn slightly_invalid_responses_complete_their_request() {
    let mut served = serve(config()).await;
    let port = served.port;
    let error = |code: i64, message: &str| {
        let error = format!(r#"{{"code":{code},"message":{message:?}}}"#);
        Some(format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#))
    };
    for (response, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"result":[1],"error":null}"#, None),
        (r#"{"id":1,"result":[1],"method":null}"#, None),
        (r#"{"jsonrpc":"2.0","id":"1","result":[1]}"#, Some(result("1"))),
        (r#"{"jsonrpc":"2.0","id":1.0,"result":[1]}"#, Some(result("1"))),
        (r#"[{"jsonrpc":"2.0","id":1,"result":[1]}]"#, Some(result("1"))),
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#,
            error(-32700, "what?"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1}"#,
            error(
                -32000,
                "the program's response is not valid: `result` is missing; \
                 received: \"{\\\"jsonrpc\\\":\\\"2.0\\\",\\\"id\\\":1}\"",
            ),
        ),
    ] {
        let serving = async {
            let (mut sender, mut receiver) = accepted(&mut served).await.split();
            assert_eq!(message(&mut receiver).await, request("1"));
            sender.send(response).await.unwrap();
            end(&mut receiver).await
        };
        let asked = request("1");
        let (answer, _) = tokio::join!(rpc(port, &asked), serving);
        assert_eq!(answer, (200, expected.unwrap_or_else(|| response.to_owned())));
    }
}

#[tokio::test]
async fn a_notification_is_counted_as_a_call_until_its_line_ends() {
    let mut config = config();
    config.limits.rpc_calls = 1;
    let mut served = serve(config).await;
    let port = served.port;
    assert_eq!(rpc(port, NOTIFICATION).await.0, 202);
    let line = accepted(&mut served).await;
    assert_eq!(rpc(port, NOTIFICATION).await.0, 503);
    drop(line);
    let again = async { while rpc(port, NOTIFICATION).await.0 == 503 {} };
    tokio::time::timeout(LIMIT, again).await.unwrap();
}
