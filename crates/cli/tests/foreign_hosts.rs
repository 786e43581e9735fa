//! Tests of the routes that start programs, with forms of the headers Host and Origin. Browsers set both truthfully,
//! so these headers keep out pages of other sites.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::children_of;
use support::mcp::{ACCEPT, bearer};
use support::site::{Site, status_of};

/// A program that answers `initialize`, as MCP and ACP programs do.
const PROGRAM: &str = r#"
    while read -r line; do
        echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}'
    done"#;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;

/// The headers Host and Origin, of which an empty one is absent, and the status of the response. `@` is the server's
/// authority and `PORT` its port.
const FORMS: [(&str, &str, &str); 42] = [
    ("@", "", "200"),
    ("localhost:PORT", "", "200"),
    ("LOCALHOST:PORT", "", "200"),
    ("[::1]:PORT", "", "200"),
    ("allowed.example", "", "200"),
    ("allowed.example:PORT", "", "200"),
    ("allowed.example:1", "", "200"),
    ("Allowed.Example", "", "200"),
    ("@", "http://@", "200"),
    ("localhost:PORT", "http://localhost:PORT", "200"),
    ("@", "https://page.example", "200"),
    ("allowed.example", "https://page.example", "200"),
    ("", "", "400"),
    ("@ @", "", "400"),
    ("a b", "", "400"),
    ("127.0.0.1:PORT/mcp", "", "400"),
    ("127.0.0.1:99999", "", "400"),
    ("127.0.0.1:", "", "400"),
    ("127.0.0.1", "", "403"),
    ("127.0.0.1:1", "", "403"),
    ("127.0.0.2:PORT", "", "403"),
    ("0.0.0.0:PORT", "", "403"),
    ("2130706433:PORT", "", "403"),
    ("localhost", "", "403"),
    ("localhost.:PORT", "", "403"),
    ("localhost.evil.example:PORT", "", "403"),
    ("evil.example", "", "403"),
    ("evil.example:PORT", "", "403"),
    ("sub.allowed.example", "", "403"),
    ("allowed.example.evil.example", "", "403"),
    ("@", "null", "403"),
    ("@", "http://evil.example", "403"),
    ("@", "http://evil.example:PORT", "403"),
    ("@", "https://@", "403"),
    ("@", "http://127.0.0.1", "403"),
    ("@", "http://127.0.0.1:1", "403"),
    ("@", "http://localhost:PORT", "403"),
    ("@", "http://page.example", "403"),
    ("@", "https://page.example:1", "403"),
    ("@", "https://page.example.evil.example", "403"),
    ("@", "file://", "403"),
    ("evil.example", "http://evil.example", "403"),
];

#[test]
fn forms_of_host_and_origin_are_admitted_or_start_nothing() {
    let allowed = ["--allow-host", "allowed.example", "--allow-origin", "https://page.example"];
    let site = Site::start(&[&allowed[..], &["--", "sh", "-c", PROGRAM]].concat());
    let port = site.authority().rsplit(':').next().unwrap();
    let mut programs = 0;
    for path in ["/mcp", "/acp"] {
        for (host, origin, status) in FORMS {
            let header = |name, value: &str| match value {
                "" => String::new(),
                value => format!("{name}: {}\r\n", value.replace("PORT", port)),
            };
            let (host, origin, bearer) = (header("Host", host), header("Origin", origin), bearer());
            let request = format!(
                "POST {path} HTTP/1.1\r\n{host}{origin}{bearer}{ACCEPT}Content-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{INITIALIZE}",
                INITIALIZE.len()
            );
            let answer = site.ask(&request);
            assert_eq!(status_of(&answer), status, "{request}\n{answer}");
            programs += usize::from(status == "200");
            assert_eq!(children_of(site.program.pid()).len(), programs, "{request}");
        }
    }
    site.stop();
}
