//! Tests of the page of `tieline serve` in a real Chromium.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rustix::process::Signal;
use serde_json::json;
use support::{Browser, CONNECTED, Prefix, WEB_TOKEN, WebSite};

#[test]
fn one_time_url_admits_one_browser_and_the_page_talks_to_the_program() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    let key_url = site.key_url();
    assert_eq!(browser.open(&key_url), 200);
    assert_eq!(browser.run("return location.href"), format!("{}/", site.url()));
    let messages = [
        "hello",
        "<img src=x onerror=alert(1)>",
        &"ü".repeat(3000),
        r#"{"a":[9007199254740993,{ },"\"[,"]}"#,
    ];
    for message in messages {
        browser.say(message);
    }
    browser.wait("document.querySelectorAll('li.in').length === 4");
    let cut = format!("{}… (3000 characters)", "ü".repeat(2000));
    let expected = [messages[0], messages[1], &cut, messages[3]];
    assert_eq!(browser.shown("out"), expected);
    assert_eq!(browser.shown("in"), expected);
    assert_eq!(browser.run("return document.querySelectorAll('#log img').length"), 0);
    // JSON can be indented, and the arrow keys recall earlier input.
    browser.run("pretty.click()");
    let indented = "{\n  \"a\": [\n    9007199254740993,\n    { },\n    \"\\\"[,\"\n  ]\n}";
    assert_eq!(browser.shown("in")[3], indented);
    let up =
        "text.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowUp', cancelable: true }));";
    let down = up.replace("Up", "Down");
    assert_eq!(browser.run(&format!("{up}{up}{up}{up}{up} return text.value")), "hello");
    assert_eq!(browser.run(&format!("{down}{down}{down} return text.value")), messages[3]);
    assert_eq!(browser.run(&format!("{down} return text.value")), "");
    // The same browser may open the URL again. Other browsers are refused, because it is already used.
    assert_eq!(browser.open(&key_url), 200);
    browser.wait(CONNECTED);
    browser.ask(json!(["stranger"]));
    assert_eq!(browser.open(&key_url), 403);
    let said = browser.run("return document.body.innerText");
    assert!(said.as_str().unwrap().contains("already used"), "{said}");
    assert_eq!(browser.open(site.url()), 401);
    let said = browser.run("return document.body.innerText");
    assert!(said.as_str().unwrap().contains("tieline serve printed"), "{said}");
    site.wait_clients(1);
    browser.stop();
    site.stop();
}

/// The form works without a script, because the page's policy forbids all scripts.
#[test]
fn the_token_can_be_entered_in_a_form_on_a_phone() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    let enter = |browser: &mut Browser, token: &str| {
        let token = json!(token);
        browser.follow(&format!("token.value = {token}; document.forms[0].requestSubmit()"));
    };
    assert_eq!(browser.open(site.url()), 401);
    enter(&mut browser, "a-token-that-is-wrong");
    let said = browser.run("return document.querySelector('[role=alert]').textContent");
    assert_eq!(said, "This is not the server's token.");
    for (scheme, paper) in [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 27)")] {
        let picture = tempfile::NamedTempFile::new().unwrap();
        browser.ask(json!(["look", 360, 640, scheme, picture.path()]));
        let is_wide = browser.run("return document.documentElement.scrollWidth > innerWidth");
        assert_eq!(is_wide, false, "wider than the screen");
        // The style is applied, so the policy allows it.
        let color = browser.run("return getComputedStyle(document.body).backgroundColor");
        assert_eq!(color, paper);
    }
    enter(&mut browser, WEB_TOKEN);
    assert_eq!(browser.run("return location.href"), format!("{}/", site.url()));
    browser.wait(CONNECTED);
    site.wait_clients(1);
    browser.stop();
    site.stop();
}

#[test]
fn the_page_says_how_its_program_failed() {
    let script = "read line; echo 'first line' >&2; echo '  last <line>' >&2; echo bye; exit 3";
    let site = WebSite::start(&[], &["sh", "-c", script]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.say("hello");
    let ended = "document.querySelector('#state.ended')";
    browser.wait(ended);
    let said = browser.run("return state.textContent");
    assert_eq!(said, "ended: the program has failed with exit status 3. Reload to start again");
    assert_eq!(browser.shown("in"), ["bye"]);
    let bad = [
        "ended: the program has failed with exit status 3",
        "the last lines that it wrote to stderr:\nfirst line\n  last <line>",
    ];
    assert_eq!(browser.shown("bad"), bad);
    // The reloaded page starts another program, and still shows how the first one failed.
    browser.reload();
    browser.wait(CONNECTED);
    assert_eq!(browser.shown("bad"), bad);
    browser.stop();
    site.stop();
}

#[test]
fn the_page_names_its_program_and_offers_an_example() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.wait(CONNECTED);
    let names = browser.run("return [document.title, document.querySelector('h1').textContent]");
    assert_eq!(names, json!(["cat", "cat"]));
    let is_hinting = "return getComputedStyle(hint).display !== 'none'";
    assert_eq!(browser.run(is_hinting), true);
    let example = browser.run("example.click(); return text.value");
    assert!(example.as_str().unwrap().starts_with("{\"jsonrpc\""), "{example}");
    browser.run("form.requestSubmit()");
    browser.wait("document.querySelectorAll('li.in').length === 1");
    assert_eq!(json!(browser.shown("in")), json!([example]));
    assert_eq!(browser.run(is_hinting), false);
    browser.stop();
    site.stop();
}

#[test]
fn json_on_several_lines_is_one_message_and_other_lines_are_one_each() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.say("{\n  \"a\": 9007199254740993,\n  \"b\": \"x  y\"\n}");
    browser.say("[1]\n\nplain text\n");
    browser.wait("document.querySelectorAll('li.in').length === 3");
    let expected = ["{ \"a\": 9007199254740993, \"b\": \"x  y\" }", "[1]", "plain text"];
    assert_eq!(browser.shown("in"), expected);
    assert_eq!(browser.shown("out"), expected);
    // Enter sends the text, and Shift+Enter does not. In a text of several lines, the arrow keys move
    // the cursor.
    let press = |key: &str, shift: bool| {
        let event = format!("{{ key: '{key}', shiftKey: {shift}, cancelable: true }}");
        format!("return text.dispatchEvent(new KeyboardEvent('keydown', {event}))")
    };
    browser.run("text.value = 'one\\ntwo'");
    assert_eq!(browser.run(&press("Enter", true)), true);
    assert_eq!(browser.run(&press("ArrowUp", false)), true);
    assert_eq!(browser.run("return text.value"), "one\ntwo");
    assert_eq!(browser.run(&press("Enter", false)), false);
    browser.wait("document.querySelectorAll('li.in').length === 5");
    assert_eq!(browser.shown("in")[3..], ["one", "two"]);
    browser.stop();
    site.stop();
}

#[test]
fn the_page_says_when_the_text_is_not_json_and_keeps_its_setting() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.wait(CONNECTED);
    for (typed, expected) in [
        ("", ""),
        ("{\"a\":[1]}", ""),
        ("[1]\n{\"a\":2}\n", ""),
        ("hello", "Not JSON: sent as plain text"),
        ("{\"a\":", "Not valid JSON: "),
        ("[1]\n[2", "Not valid JSON: "),
    ] {
        let typing =
            format!("text.value = {}; text.dispatchEvent(new Event('input'));", json!(typed));
        let said = browser.run(&format!("{typing} return check.textContent"));
        let said = said.as_str().unwrap();
        assert!(
            said.starts_with(expected) && said.is_empty() == expected.is_empty(),
            "{typed}: {said}"
        );
    }
    browser.run("pretty.click()");
    browser.reload();
    browser.wait(CONNECTED);
    assert_eq!(browser.run("return pretty.checked"), true);
    browser.stop();
    site.stop();
}

#[test]
fn a_reloaded_page_resumes_its_process() {
    let site = WebSite::start(&[], &["sh", "-c", "while read x; do echo $$ $x; done"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    for round in 0..3 {
        browser.say(&format!("round {round}"));
        if round > 0 {
            // The answer arrives before or after the page is reloaded.
            browser.reload();
        }
    }
    browser.wait("document.querySelectorAll('li.in').length === 3");
    let answers = browser.shown("in");
    let pid = answers[0].split(' ').next().unwrap();
    let expected: Vec<_> = (0..3).map(|round| format!("{pid} round {round}")).collect();
    assert_eq!(answers, expected);
    assert_eq!(browser.shown("out"), ["round 0", "round 1", "round 2"]);
    site.wait_clients(1);
    // The end button ends the session and the process. The next page starts another process.
    browser.run("end.click()");
    browser.wait("document.querySelector('#state.ended')");
    site.serve.wait_nothing_left();
    browser.reload();
    browser.say("again");
    browser.wait("document.querySelectorAll('li.in').length === 4");
    assert!(!browser.shown("in")[3].starts_with(&format!("{pid} ")));
    site.wait_clients(2);
    browser.stop();
    site.stop();
}

#[test]
fn the_page_shows_the_last_thousand_lines_also_after_a_reload() {
    let program = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; cat";
    let site = WebSite::start(&[], &["sh", "-c", program]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    // The page is also reloaded while lines arrive.
    for lines in [100, 500, 1000] {
        browser.wait(&format!("document.querySelectorAll('li').length >= {lines}"));
        browser.reload();
    }
    browser.wait("document.querySelector('#log li:last-child pre')?.textContent === 'line 4999'");
    let expected: Vec<_> = (4000..5000).map(|number| format!("line {number}")).collect();
    assert_eq!(browser.shown("in"), expected);
    browser.reload();
    browser.wait(CONNECTED);
    assert_eq!(browser.shown("in"), expected);
    browser.stop();
    site.stop();
}

/// The page is reloaded while further messages arrive.
#[test]
fn a_page_reloaded_in_mid_stream_loses_and_repeats_no_line() {
    const LINES: u32 = 10_000;
    let program = format!("i=0; while [ $i -lt {LINES} ]; do echo $$ $i; i=$((i+1)); done; cat");
    let site = WebSite::start(&[], &["sh", "-c", &program]);
    let mut browser = Browser::start(&[]);
    // The test runs a script of its own instead of the usual page.
    let page = format!("{}/page.css", site.url());
    assert_eq!(browser.open(&page), 401);
    // Unlike the login page, this response has no policy that forbids requests.
    assert_eq!(browser.open(&format!("{}/health", site.url())), 200);
    browser.run(&format!("await fetch({})", json!(site.key_url())));
    assert_eq!(browser.open(&page), 200);
    let listen = r#"
        const { connect } = await import("/tieline.js");
        const line = connect("/ws", { storage: sessionStorage, key: "here" });
        const seen = sessionStorage;
        return new Promise((resolve, reject) => {
            line.onreset = line.onclose = reject;
            line.onmessage = (message) => {
                const [pid, number] = message.split(" ");
                seen.pid ??= pid;
                if (pid !== seen.pid || number !== (seen.next ?? "0")) reject(new Error(`${message} for ${seen.next}`));
                seen.next = Number(number) + 1;
                if (seen.next % 2000 === 0) resolve([number, pid]);
            };
        });
    "#;
    let mut pids = Vec::new();
    for round in 1..=LINES / 2000 {
        let came = browser.run(listen);
        assert_eq!(came[0], (round * 2000 - 1).to_string());
        pids.push(came[1].clone());
        browser.reload();
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    // Nothing else arrives before the end.
    let close = listen.replace("line.onclose = reject", "line.onclose = resolve");
    let why = browser.run(&close.replace("return new", "line.close(); return new"));
    assert_eq!(why, json!({ "why": null, "failure": null, "unknown": [], "unsent": [] }));
    assert_eq!(browser.run("return sessionStorage.next"), LINES.to_string());
    site.wait_clients(1);
    browser.stop();
    site.stop();
}

#[test]
fn a_page_of_a_restarted_server_says_what_to_do() {
    let site = WebSite::start(&[], &["cat"]);
    let mut browser = Browser::start(&[]);
    browser.open(&site.key_url());
    browser.say("hello");
    browser.wait("document.querySelector('li.in')");
    let port = site.address.port();
    site.serve.program.signal(Signal::KILL);
    browser.wait("document.title === 'cat: disconnected'");
    drop(site);
    let site = WebSite::at(port, &[], &["cat"]);
    browser.wait("state.textContent.startsWith('no longer logged in')");
    // The new URL in the same tab starts another process, and the page says so.
    assert_eq!(browser.open(&site.key_url()), 200);
    browser.say("again");
    browser.wait("document.querySelectorAll('li.in').length === 2");
    let bad = browser.shown("bad");
    assert!(bad.len() == 1 && bad[0].starts_with("the session was lost"), "{bad:?}");
    browser.stop();
    site.stop();
}

/// The page, style, script, cookie and WebSocket work behind a proxy that strips a prefix, with and
/// without a public URL. Without one, the test puts the proxy's address into the one-time URL.
#[test]
fn the_page_works_below_a_path_prefix() {
    for has_public_url in [true, false] {
        let prefix = Prefix::new("/agents/one/");
        let url = prefix.url();
        let (_, host) = url.split_once("//").unwrap();
        let host = host.split('/').next().unwrap();
        let options = match has_public_url {
            true => vec!["--public-url", &url],
            false => vec!["--allow-host", host],
        };
        let site = WebSite::start(&options, &["cat"]);
        let _nginx = prefix.pass_to(&site.address.to_string());
        let key_url = match has_public_url {
            true => site.key_url(),
            false => site.key_url().replace(&format!("{}/", site.url()), &url),
        };
        assert!(key_url.starts_with(&format!("{url}?key=")), "{key_url}");
        let mut browser = Browser::start(&[]);
        assert_eq!(browser.open(&key_url), 200);
        assert_eq!(browser.run("return location.href"), url);
        assert_eq!(browser.run("return document.styleSheets[0].href"), format!("{url}page.css"));
        assert_ne!(browser.run("return document.styleSheets[0].cssRules.length"), 0);
        browser.say("below the prefix");
        browser.wait("document.querySelectorAll('li.in').length === 1");
        browser.reload();
        browser.say("and again");
        browser.wait("document.querySelectorAll('li.in').length === 2");
        assert_eq!(browser.shown("in"), ["below the prefix", "and again"]);
        site.wait_clients(1);
        // The prefix without its slash redirects to the page.
        assert_eq!(browser.open(url.trim_end_matches('/')), 200);
        browser.wait(CONNECTED);
        assert_eq!(browser.run("return location.href"), url);
        // The cookie is valid only below the prefix.
        assert_eq!(browser.open(&url.replace("/agents/one/", "/agents/")), 404);
        browser.stop();
        site.stop();
    }
}
