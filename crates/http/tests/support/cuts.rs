//! Tests a session over more than a thousand connections, each of which is cut in the middle of a
//! message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tieline_http::{ServerConfig, ServerCounts};
use tieline_link::{LineOptions, Recovery, SessionOptions, Sessions};
use tieline_proto::BackoffConfig;
use tieline_transport::{Acceptor, Channel, DynAcceptor, Endpoint, Options, SenderExt};

use tokio::sync::watch;

use super::events::{Numbers, shears};
use super::{config, message, registry, serve};

const CONNECTIONS: u64 = 1_000;
/// The number of messages that the server sends for each one that it receives.
const DOWN_FOR_UP: u64 = 8;
/// The number of messages by which the server may exceed this ratio.
const AHEAD: u64 = 64;

/// Sends numbered messages in both directions until [`CONNECTIONS`] connections were made, and asserts
/// that each message arrives once and in order. `url` returns the URL for a port, and `made` returns the
/// number of relevant connections from the server's counters.
pub async fn a_thousand(url: impl Fn(u16) -> String, made: impl Fn(&ServerCounts) -> u64) {
    let seed = 0x5eed_0002;
    let hosts = vec!["127.0.0.1".into()];
    let served = serve(ServerConfig { hosts, ..config() }).await;
    let cuts = Arc::new(AtomicU64::new(0));
    let (counted, mut numbers) = (cuts.clone(), Numbers(seed));
    let port = shears(served.port, move || match counted.fetch_add(1, Relaxed) {
        // The first connection is cut during the handshake; the next ones are open long enough to start
        // a session.
        0 => Some(50),
        1..=3 => Some(1_500),
        _ => Some(300 + numbers.below(4_000) as usize),
    })
    .await;
    let first =
        BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
    let options =
        SessionOptions { recovery: Some(Recovery::Reconnect(first)), ..SessionOptions::default() };
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let mut sessions = Sessions::new(acceptor, options, LineOptions::default());
    let url: Endpoint = url(port).parse().unwrap();
    let connector =
        tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
    let (client, server) = tokio::join!(connector.connect(), Acceptor::accept(&mut sessions));
    let (mut client, mut from_server) = client.unwrap().split();
    let (mut server, mut from_client) = server.unwrap().split();
    let enough = || made(&served.web.counts()) > CONNECTIONS;
    let (heard, mut hearing) = watch::channel(0_u64);
    let up = async {
        for number in 0_u64.. {
            if enough() {
                client.send("last").await.unwrap();
                return number;
            }
            client.send(format!("up {number}")).await.unwrap();
        }
        0
    };
    let down = async {
        for number in 0_u64.. {
            if enough() {
                server.send("last").await.unwrap();
                return number;
            }
            // Every connection starts with a replay of unacknowledged messages. If the server never
            // paused, the replay alone would be longer than a connection, and the client could send
            // nothing.
            hearing
                .wait_for(|up| number <= (up * DOWN_FOR_UP).saturating_add(AHEAD))
                .await
                .unwrap();
            server.send(format!("down {number}")).await.unwrap();
        }
        0
    };
    let at_server = async {
        for number in 0_u64.. {
            let came = message(&mut from_client).await;
            if came == "last" {
                heard.send_replace(u64::MAX / DOWN_FOR_UP);
                return number;
            }
            assert_eq!(came, format!("up {number}"), "seed {seed}");
            heard.send_replace(number);
        }
        0
    };
    let at_client = async {
        for number in 0_u64.. {
            let came = message(&mut from_server).await;
            if came == "last" {
                return number;
            }
            assert_eq!(came, format!("down {number}"), "seed {seed}");
        }
        0
    };
    let (up, down, at_server, at_client) = tokio::join!(up, down, at_server, at_client);
    println!("{up} up, {down} down, {:?}", served.web.counts());
    assert_eq!((up, down), (at_server, at_client), "seed {seed}");
}
