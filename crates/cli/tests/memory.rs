//! Tests of `tieline serve --max-memory`, which limits the memory that all clients use together.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use support::site::{Site, TOKEN};
use support::{Program, children_of, until};

const MIB: u64 = 1 << 20;

fn metric(site: &Site, name: &str) -> u64 {
    let metrics = site.get("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"));
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Opens an event stream that sends nothing.
fn event_source(site: &Site) -> TcpStream {
    let mut stream = TcpStream::connect(site.authority()).unwrap();
    let head = format!(
        "GET /sse HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n\r\n",
        site.authority()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

/// Each program writes 16 MiB, and a session may keep up to 8 MiB of them. The clients read nothing.
#[test]
fn queues_of_sixty_event_sources_share_one_memory_limit() {
    const CLIENTS: usize = 60;
    let script = "i=0; line=$(head -c 65535 /dev/zero | tr '\\0' x); \
                  while [ $i -lt 256 ]; do echo \"$line\"; i=$((i+1)); done; cat";
    let site = Site::start(&["--max-memory", "32MiB", "--", "sh", "-c", script]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| event_source(&site)).collect();
    // The queue of each session grows until it is full or the session is ended.
    until("sessions are ended", || {
        let held = metric(&site, "tieline_memory_bytes");
        assert!(held <= 40 * MIB, "{held}");
        metric(&site, "tieline_memory_refused_total") >= 20
    });
    let held = metric(&site, "tieline_memory_bytes");
    assert!((8 * MIB..=40 * MIB).contains(&held), "{held}");
    let status = Program::run(&mut support::tieline(["status"]), "");
    assert!(status.stdout.contains("memory"), "{status:?}");
    drop(clients);
    let said = site.stop();
    assert!(said.contains("out of memory: the line needed"), "{said}");
    assert!(said.contains("no processes left"), "{said}");
}

/// The programs do not read, and each client posts as much as it can.
#[test]
fn posts_to_programs_that_do_not_read_share_the_memory_limit() {
    let site = Site::start(&["--max-memory", "8MiB", "--", "sleep", "1000"]);
    let body = "x".repeat(2 << 20);
    let mut posting = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = event_source(&site);
        // This reads the rest of the head, and the event with the URL for posting.
        let mut text = String::new();
        while !text.contains("/sse?") && !text.contains("sse?session=") || !text.ends_with("\n\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0].into());
        }
        let target = text.split("sse?").nth(1).unwrap().lines().next().unwrap().to_owned();
        streams.push(stream);
        let authority = site.authority().to_owned();
        let body = body.clone();
        posting.push(std::thread::spawn(move || {
            for number in 1..=4 {
                let mut post = TcpStream::connect(&authority).unwrap();
                let head = format!(
                    "POST /sse?{target} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {TOKEN}\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = post.write_all(head.as_bytes()).and_then(|()| post.write_all(body.as_bytes()));
                let mut answer = String::new();
                let _ = post.read_to_string(&mut answer);
                if !answer.contains(" 202 ") {
                    return Some((number, answer));
                }
            }
            None
        }));
    }
    until("some are refused", || {
        let held = metric(&site, "tieline_memory_bytes");
        assert!(held <= 10 * MIB, "{held}");
        metric(&site, "tieline_memory_refused_total") > 0
    });
    assert!(!children_of(site.program.pid()).is_empty(), "all programs have ended");
    drop(streams);
    let said = site.stop();
    assert!(said.contains("no processes left"), "{said}");
    posting.into_iter().for_each(|it| drop(it.join().unwrap()));
}
