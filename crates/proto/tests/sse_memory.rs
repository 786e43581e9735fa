//! The parser uses a bounded amount of memory for events that never end. This is the only test in its
//! process, so that no other code uses memory there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::disallowed_methods)]

use tieline_proto::ByteSize;
use tieline_proto::sse::{Excess, Item, Limits, Parser};

/// The length of each stream, which is parsed in pieces of 64 KiB.
const LENGTH: usize = 4 << 20;
/// The limit on the growth of memory. It is well below the length of a stream, and above the amount that
/// the parser may keep: data, a name and two ids, each of them twice while its buffer grows.
const MAX_KIB: u64 = 2 << 10;

/// Returns the peak resident memory of this process in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn endless_fields_use_bounded_memory() {
    let limits = Limits { max_data: ByteSize::kib(256), max_fields: 100_000 };
    let too_much = Item::Lost(Excess::Data(limits.max_data));
    let piece = |line: &[u8]| line.iter().copied().cycle().take(64 << 10).collect::<Vec<_>>();
    let before = peak_kib();
    for (begin, repeated, expected) in [
        (&b"data: "[..], &b"x"[..], vec![too_much.clone()]),
        (b"", b"data: 0123456789abcdef\n", vec![too_much]),
        (b"", b"data\n", vec![Item::Lost(Excess::Fields(100_000))]),
        (b"event: ", b"x", vec![Item::Lost(Excess::Name)]),
        (b"id: ", b"x", vec![Item::Lost(Excess::Name)]),
        (b"retry: ", b"9", vec![]),
        (b": ", b"x", vec![]),
        (b"unknown", b"x", vec![]),
        (b"unknown: ", b"x", vec![]),
        (b"", b":\n", vec![]),
        (b"", b"\r\n", vec![]),
        (b"", b"id: 0123456789abcdef\n\n", vec![]),
    ] {
        let mut parser = Parser::new(limits);
        let mut items = Vec::new();
        items.extend(std::iter::from_fn({
            let mut begin = begin;
            let parser = &mut parser;
            move || parser.parse(&mut begin)
        }));
        let piece = piece(repeated);
        for _ in 0..LENGTH / piece.len() {
            let mut piece = &piece[..];
            items.extend(std::iter::from_fn(|| parser.parse(&mut piece)));
        }
        assert_eq!(items, expected, "{} {}", begin.escape_ascii(), repeated.escape_ascii());
        let grown = peak_kib() - before;
        assert!(grown < MAX_KIB, "{grown} KiB: {}", repeated.escape_ascii());
    }
}
