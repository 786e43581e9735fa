//! Several clients of a server share one program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/sharing.rs"]
mod sharing;

use std::time::Duration;

use serde_json::json;
use sharing::{Test, call, initialize, model, result, served};
use tieline_gateway::{Bridge, NotShareable, ProcessModel, Processes, Server, ServerWatch};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{Incoming, ReceiverExt, SenderExt};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_hundred_clients_with_clashing_ids_each_get_their_own_answers() {
    const CLIENTS: u64 = 100;
    const CALLS: u64 = 1_000;
    let mut test = Test::shared();
    let (first, mut program) = test.opened(None).await;
    let echo = tokio::spawn(async move {
        let mut held = Vec::new();
        let mut left = CLIENTS * CALLS;
        while left > 0 {
            let request = program.recv().await;
            let answer = result(&request["id"], request["params"]["arguments"].clone());
            held.push(answer);
            left -= 1;
            // Answers are sent in a different order than the requests.
            if held.len() == 7 || left == 0 {
                for answer in held.drain(..).rev() {
                    program.send(answer).await;
                }
            }
        }
        program
    });
    let mut clients = JoinSet::new();
    let mut first = Some(first);
    for number in 0..CLIENTS {
        let mut client = match first.take() {
            Some(first) => first,
            None => test.joined(None).await,
        };
        clients.spawn(async move {
            for call_number in 0..CALLS {
                let id = match call_number % 5 {
                    0 => json!(call_number),
                    1 => json!(call_number.to_string()),
                    2 => json!(9_007_199_254_740_993_u64 + call_number),
                    3 => json!(0.5),
                    _ => json!("\u{e9}\"\\"),
                };
                let data = json!([number, call_number]);
                client.send(call(id, data)).await;
            }
            let mut seen = Vec::new();
            for _ in 0..CALLS {
                let answer = client.recv().await;
                assert_eq!(answer["result"][0], json!(number), "{answer}");
                seen.push(answer["result"][1].as_u64().unwrap());
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..CALLS).collect::<Vec<_>>());
            client
        });
    }
    let clients = clients.join_all().await;
    let program = echo.await.unwrap();
    drop(clients);
    drop(program);
    let report = test.stop().await;
    assert_eq!((report.served, report.lost), (CLIENTS, 0));
}

#[tokio::test]
async fn stalled_client_is_disconnected_and_the_others_do_not_wait_for_it() {
    const MESSAGES: usize = 90;
    let mut test = Test::shared();
    let (mut first, mut program) = test.opened(None).await;
    let mut stalled = test.joined(None).await;
    let mut second = test.joined(None).await;
    let data = "x".repeat(1024 * 1024);
    for number in 0..MESSAGES {
        let params = json!({"number": number, "data": data});
        let message = json!({"jsonrpc": "2.0", "method": "notifications/custom", "params": params});
        program.send(message).await;
        for client in [&mut first, &mut second] {
            assert_eq!(client.recv().await["params"]["number"], number);
        }
    }
    // The other clients can still make calls.
    second.send(call(1, "still here")).await;
    let request = program.recv().await;
    program.send(result(&request["id"], "yes")).await;
    assert_eq!(second.recv().await, result(&json!(1), "yes"));
    let mut received = 0;
    while let Incoming::Message(_) = stalled.0.1.recv().await {
        received += 1;
    }
    assert!(received < MESSAGES, "{received}");
    test.until("the line ends", |watch| watch.now().report.failed == 1).await;
    drop((first, second));
    let report = test.stop().await;
    assert_eq!((report.served, report.failed), (3, 1));
}

/// What a client does not take waits for it alone.
#[tokio::test]
async fn stalled_client_among_a_hundred_delays_no_call_of_the_others() {
    const FAST: u64 = 99;
    const CALLS: u64 = 20;
    let mut test = Test::shared();
    let (mut stalled, mut program) = test.opened(None).await;
    let mut clients = Vec::new();
    for _ in 0..FAST {
        clients.push(test.joined(None).await);
    }
    // It asks for more than is kept for it, and takes nothing.
    for number in 0..90 {
        stalled.send(call(number, "large")).await;
    }
    let answering = tokio::spawn(async move {
        let large = "x".repeat(1024 * 1024);
        let mut calls = 0;
        while calls < FAST * CALLS {
            let request = program.recv().await;
            let asked = &request["params"]["arguments"];
            if request["method"] == "notifications/cancelled" {
                continue;
            }
            match asked == "large" {
                true => program.send(result(&request["id"], large.clone())).await,
                false => {
                    calls += 1;
                    program.send(result(&request["id"], asked.clone())).await;
                }
            }
        }
        program
    });
    let mut calling = JoinSet::new();
    for mut client in clients {
        calling.spawn(async move {
            for number in 0..CALLS {
                client.send(call(1, number)).await;
                assert_eq!(client.recv().await, result(&json!(1), number));
            }
        });
    }
    calling.join_all().await;
    let program = answering.await.unwrap();
    while let Incoming::Message(_) = stalled.0.1.recv().await {}
    drop(stalled);
    test.until("all lines end", |watch| watch.now().report.served == FAST + 1).await;
    drop(program);
    assert_eq!(test.stop().await.failed, 1);
}

#[tokio::test]
async fn second_initialize_of_a_client_is_refused_and_reaches_no_program() {
    let mut test = Test::shared();
    let (mut first, mut program) = test.opened(None).await;
    let mut second = test.joined(None).await;
    for client in [&mut first, &mut second] {
        client.send(initialize()).await;
        let answer = client.recv().await;
        assert_eq!(answer["error"]["code"], -32600, "{answer}");
        assert_eq!(answer["error"]["message"], "this client is already initialized");
        served(client, &mut program).await;
    }
    drop((first, second, program));
    test.stop().await;
}

#[tokio::test]
async fn calls_in_flight_get_an_error_when_the_program_fails() {
    const CLIENTS: usize = 100;
    let mut test = Test::shared();
    let (first, mut program) = test.opened(None).await;
    let mut clients = vec![first];
    while clients.len() < CLIENTS {
        clients.push(test.joined(None).await);
    }
    for client in &mut clients {
        client.send(call("a", 1)).await;
        program.recv().await;
    }
    drop(program);
    for client in &mut clients {
        let answer = client.recv().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("a"), &json!(-31000)));
        assert_eq!(answer["error"]["data"]["stderr"], "out of luck\n");
        assert_eq!(answer["error"]["data"]["code"], 3);
        client.ended().await;
    }
    // The next client gets a new program.
    let (client, program) = test.opened(None).await;
    drop((client, program, clients));
    assert_eq!(test.stop().await.served, CLIENTS as u64 + 1);
}

#[tokio::test]
async fn restarted_program_is_initialized_again_before_clients_are_served() {
    let mut test = Test::start(model(ProcessModel::Shared), RestartPolicy::OnFailure);
    let (mut first, mut program) = test.opened(None).await;
    let mut second = test.joined(None).await;
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": "a"}});
    second.send(subscribe.clone()).await;
    let request = program.recv().await;
    program.send(result(&request["id"], json!({}))).await;
    second.recv().await;
    first.send(call(1, 1)).await;
    program.recv().await;
    drop(program);
    let answer = first.recv().await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["code"]),
        (&json!(-31000), &json!(3))
    );
    first.send(call(2, 2)).await;
    let mut program = test.program().await;
    program.open().await;
    assert_eq!(program.recv().await["method"], "notifications/initialized");
    let mut methods = Vec::new();
    for _ in 0..2 {
        let request = program.recv().await;
        methods.push(request["method"].as_str().unwrap().to_owned());
        program.send(result(&request["id"], json!({}))).await;
    }
    methods.sort_unstable();
    assert_eq!(methods, ["resources/subscribe", "tools/call"]);
    assert_eq!(first.recv().await, result(&json!(2), json!({})));
    let updated = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a"}});
    program.send(updated.clone()).await;
    assert_eq!(second.recv().await, updated);
    drop((first, second, program));
    test.stop().await;
}

/// A program that crashes at once is not started again for each client.
#[tokio::test(start_paused = true)]
async fn program_that_keeps_failing_is_started_less_and_less_often() {
    let mut test = Test::start(model(ProcessModel::Shared), RestartPolicy::OnFailure);
    let (first, program) = test.opened(None).await;
    let mut clients = vec![first];
    while clients.len() < 50 {
        clients.push(test.joined(None).await);
    }
    drop(program);
    let begun = tokio::time::Instant::now();
    let mut starts = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        let program = tokio::time::timeout(Duration::from_secs(60), test.programs.recv()).await;
        let Ok(Some(program)) = program else { break };
        drop(program);
        starts += 1;
    }
    assert!((5..=20).contains(&starts), "{starts}");
    // Each client's line has ended, or is about to end.
    drop(clients);
    test.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idle_program_ends_and_starts_again_on_demand() {
    let mut test = Test::shared();
    let running = |watch: &ServerWatch| watch.now().programs.unwrap().running;
    assert_eq!(running(&test.watch), 0);
    let (client, mut program) = test.opened(None).await;
    assert_eq!(running(&test.watch), 1);
    drop(client);
    let begun = tokio::time::Instant::now();
    program.ended().await;
    assert!(begun.elapsed() >= Duration::from_secs(300), "{:?}", begun.elapsed());
    drop(program);
    test.until("the program ends", |watch| running(watch) == 0).await;
    let (client, mut program) = test.opened(None).await;
    // A program with a client does not end, no matter how long nothing happens.
    let idle = tokio::time::timeout(Duration::from_secs(3600), program.0.1.recv()).await;
    assert!(idle.is_err(), "{idle:?}");
    drop((client, program));
    test.stop().await;
}

#[tokio::test]
async fn users_never_share_a_program_and_clients_of_one_user_do() {
    let mut test = Test::start(
        Processes { max_programs: 2, ..model(ProcessModel::PerUser) },
        RestartPolicy::Never,
    );
    let (mut one, mut program_one) = test.opened(Some(1)).await;
    let (mut two, mut program_two) = test.opened(Some(2)).await;
    let mut also_one = test.joined(Some(1)).await;
    served(&mut one, &mut program_one).await;
    served(&mut also_one, &mut program_one).await;
    served(&mut two, &mut program_two).await;
    assert_eq!(test.watch.now().programs.unwrap().running, 2);
    for (principal, why) in [(Some(3), "the limit of 2"), (None, "not known which user")] {
        let mut refused = test.client(principal);
        refused.send(initialize()).await;
        let answer = refused.recv().await;
        assert_eq!(answer["error"]["code"], -31000);
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.contains(why), "{text}");
    }
    drop((one, two, also_one, program_one, program_two));
    let report = test.stop().await;
    assert_eq!((report.served, report.refused), (3, 2));
}

#[tokio::test]
async fn end_of_input_ends_the_line_after_the_last_answer_and_the_program_continues() {
    let mut test = Test::shared();
    let (mut first, mut program) = test.opened(None).await;
    let mut second = test.joined(None).await;
    first.send(call(1, 1)).await;
    first.0.0.close().await.unwrap();
    let request = program.recv().await;
    program.send(result(&request["id"], "done")).await;
    assert_eq!(first.recv().await, result(&json!(1), "done"));
    first.ended().await;
    second.send(call(1, 1)).await;
    let request = program.recv().await;
    program.send(result(&request["id"], "also done")).await;
    assert_eq!(second.recv().await, result(&json!(1), "also done"));
    drop(second);
    test.until("both lines end", |watch| watch.now().report.served == 2).await;
    drop(program);
    let report = test.stop().await;
    assert_eq!((report.served, report.failed), (2, 0));
}

#[test]
fn programs_that_cannot_be_shared_are_refused_with_the_reason() {
    for (dialect, why) in [
        (None, "only share a program if the protocol is known"),
        (Some(Dialect::XI), "the dialect xi"),
        (Some(Dialect::LSP), "copy of each document"),
        (Some(Dialect::ACP), "belongs to the client"),
    ] {
        for model in [ProcessModel::Shared, ProcessModel::PerUser] {
            let bridge = Bridge { dialect, ..Bridge::default() };
            let mut server = Server::new(1, bridge);
            let processes = Processes { model, ..Processes::default() };
            let refused = server.processes(processes).unwrap_err();
            assert_eq!(matches!(refused, NotShareable::NoDialect), dialect.is_none());
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }
    let mut server = Server::new(1, Bridge::default());
    assert_eq!(server.processes(Processes::default()), Ok(()));
}

/// Otherwise a client that connects again and again starts a failing program each time.
#[tokio::test(start_paused = true)]
async fn pause_after_a_failure_is_kept_when_the_last_client_has_left() {
    let mut test = Test::shared();
    for number in 0..4 {
        let before = tokio::time::Instant::now();
        let (mut client, program) = test.opened(None).await;
        // The first restart follows at once.
        assert_eq!(before.elapsed().is_zero(), number < 2, "{number}: {:?}", before.elapsed());
        drop(program);
        client.ended().await;
        drop(client);
        while test.watch.now().programs.unwrap().running > 0 {
            tokio::task::yield_now().await;
        }
    }
}
