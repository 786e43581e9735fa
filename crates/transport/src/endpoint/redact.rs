//! The form of endpoints in errors and logs: secrets are omitted and long arguments shortened.
//!
//! Programs take secrets in more ways than this module can know. Therefore, all text that looks like a
//! secret is omitted, and the rest is kept short.

use std::ffi::OsString;

/// The maximum number of characters printed of an argument, and of the program.
const MAX_ARGUMENT: usize = 40;
const MAX_PROGRAM: usize = 200;

/// The maximum number of arguments printed.
const MAX_ARGUMENTS: usize = 8;

/// The replacement for omitted text.
const LEFT_OUT: &str = "…";

/// Parts of option and variable names whose values are secrets.
const SECRET_NAMES: [&str; 13] = [
    "token",
    "secret",
    "pass",
    "pwd",
    "key",
    "credential",
    "auth",
    "header",
    "basic",
    "bearer",
    "cookie",
    "jwt",
    "signature",
];

/// One-letter options whose value may be secret: a password, a user with a password, or a prompt.
const SECRET_OPTIONS: [&str; 4] = ["-u", "-p", "-P", "-w"];

/// Prefixes of well-known tokens.
const TOKENS: [&str; 9] =
    ["sk-", "pk-", "ghp_", "gho_", "github_pat_", "glpat-", "xox", "AKIA", "eyJ"];

/// The minimum length of a word that may be an unknown kind of token.
const MIN_TOKEN: usize = 16;

/// Redacts a command line.
pub(super) fn argv(argv: &[OsString]) -> Vec<OsString> {
    let mut shown = Vec::new();
    let mut is_secret = false;
    for (at, word) in argv.iter().enumerate().take(MAX_ARGUMENTS + 1) {
        let word = word.to_string_lossy();
        shown.push(match at {
            0 => cut(&word, MAX_PROGRAM),
            _ if is_secret => LEFT_OUT.to_owned(),
            _ => argument(&word),
        });
        is_secret = at > 0 && announces_secret(&word);
    }
    if argv.len() > MAX_ARGUMENTS + 1 {
        shown.push(LEFT_OUT.to_owned());
    }
    shown.into_iter().map(OsString::from).collect()
}

/// Redacts the part of a URL after the scheme's colon.
pub(super) fn url(rest: &str) -> String {
    let (front, query) = rest.find(['?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let mut shown = match front.strip_prefix("//") {
        Some(front) => {
            let (user, place) = front.rsplit_once('@').unwrap_or(("", front));
            let (host, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
            let user = if user.is_empty() { String::new() } else { format!("{LEFT_OUT}@") };
            format!("//{user}{host}{}", segments(path))
        }
        None => front.to_owned(),
    };
    for piece in query.split_inclusive(['?', '&', '#']) {
        let bare = piece.trim_end_matches(['?', '&', '#']);
        shown.push_str(&pair(bare));
        shown.push_str(piece.get(bare.len()..).unwrap_or_default());
    }
    shown
}

/// Redacts path segments, because a segment alone can grant access.
fn segments(path: &str) -> String {
    let segments = path.split('/').map(|it| if looks_secret(it) { LEFT_OUT } else { it });
    segments.collect::<Vec<_>>().join("/")
}

/// Redacts text that a user typed, such as an endpoint, for use in an error.
pub fn redact(text: &str) -> String {
    let words: Vec<OsString> =
        std::iter::once("").chain(text.split_whitespace()).map(OsString::from).collect();
    let shown: Vec<String> =
        argv(&words).iter().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    shown.join(" ")
}

fn argument(argument: &str) -> String {
    // The argument may be a header, a script, or any other text. The words after a secret may belong to
    // it.
    let mut shown: Vec<String> = Vec::new();
    let mut is_secret = false;
    for word in argument.split_whitespace() {
        let word_shown = if is_secret { LEFT_OUT.to_owned() } else { pair_or_word(word) };
        let is_left_out = word_shown.contains(LEFT_OUT);
        shown.push(word_shown);
        if is_left_out {
            break;
        }
        is_secret = announces_secret(word);
    }
    cut(&shown.join(" "), MAX_ARGUMENT)
}

/// Redacts a word, which may be a URL, a pair such as `name=value` or `name:value`, or other text.
fn pair_or_word(word: &str) -> String {
    if is_json(word) {
        return LEFT_OUT.to_owned();
    }
    if let Some(option) = option_with_secret(word) {
        return format!("{option}{LEFT_OUT}");
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let (front, scheme) = scheme.rsplit_once('=').unwrap_or(("", scheme));
        let front = if front.is_empty() { String::new() } else { format!("{front}=") };
        return match is_secret_name(&front) {
            true => format!("{front}{LEFT_OUT}"),
            false => format!("{front}{scheme}:{}", url(&format!("//{rest}"))),
        };
    }
    let mut shown = String::new();
    for piece in word.split_inclusive(['?', '&', '#', ';', ',']) {
        let bare = piece.trim_end_matches(['?', '&', '#', ';', ',']);
        let printed = pair(bare);
        let is_left_out = printed.contains(LEFT_OUT);
        shown.push_str(&printed);
        if is_left_out {
            // A secret may contain any of these characters.
            break;
        }
        shown.push_str(piece.get(bare.len()..).unwrap_or_default());
    }
    shown
}

fn pair(piece: &str) -> String {
    for sign in ['=', ':'] {
        let Some((name, value)) = piece.split_once(sign) else { continue };
        if !value.is_empty() && (is_secret_name(name) || looks_secret(value)) {
            return format!("{name}{sign}{LEFT_OUT}");
        }
    }
    if looks_secret(piece) { LEFT_OUT.to_owned() } else { piece.to_owned() }
}

/// Returns true if the next word is a secret: `--api-key`, `Authorization:`, `Bearer`.
fn announces_secret(word: &str) -> bool {
    let is_name = word.starts_with('-') && !word.contains('=') || word.ends_with(':');
    let is_bare = ["bearer", "basic"].iter().any(|it| word.eq_ignore_ascii_case(it));
    (is_name && is_secret_name(word)) || is_bare || SECRET_OPTIONS.contains(&word)
}

/// Returns the one-letter option to which a secret is attached: `-p` in `-pSECRET`.
///
/// A secret can have any form, so a port (`-p80`) or a long option with a single dash (`-print`) is also
/// shown as `-p…`.
fn option_with_secret(word: &str) -> Option<&'static str> {
    SECRET_OPTIONS.into_iter().find(|option| word.len() > option.len() && word.starts_with(option))
}

/// Returns true if the name of an option, variable or header suggests that its value is a secret.
pub fn is_secret_name(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| plain.contains(part))
}

/// Returns true for JSON, which can contain any data, and for text that looks like a token, with a known
/// prefix or a long mix of letters and digits.
fn looks_secret(value: &str) -> bool {
    let is_known = TOKENS.iter().any(|token| value.starts_with(token));
    let is_random = value.len() >= MIN_TOKEN
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+=".contains(&byte))
        && value.bytes().any(|byte| byte.is_ascii_digit())
        && value.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_json(value) || is_known || is_random
}

fn is_json(value: &str) -> bool {
    value.starts_with(['{', '['])
}

fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}{LEFT_OUT}", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Endpoint;
    use proptest::prelude::*;

    #[test]
    fn secrets_in_a_command_line_are_omitted() {
        for (args, expected) in [
            (&["--verbose", "server.py", "stdio"][..], "exec:x --verbose server.py stdio"),
            (&["-y", "@scope/server-everything"], "exec:x -y @scope/server-everything"),
            (&["--token=abc", "y"], "exec:x --token=… y"),
            (&["-pabc", "-uroot:abc", "db"], "exec:x -p… -u… db"),
            (&["-c", "mysql -psecret db"], r#"exec:["x","-c","mysql -p…"]"#),
            (&["-p", "abc", "-pass", "abc"], "exec:x -p … -p… …"),
            (&["--api-key", "abc", "y"], "exec:x --api-key … y"),
            (&["API_KEY=abc", "x=1"], "exec:x API_KEY=… x=1"),
            (&["-e", "GITHUB_TOKEN=abc"], "exec:x -e GITHUB_TOKEN=…"),
            (&["-u", "me:abc"], "exec:x -u …"),
            (&["-p", "say it"], "exec:x -p …"),
            (&["-H", "Authorization: Bearer abc"], r#"exec:["x","-H","Authorization: …"]"#),
            (&["-H", "X-Api-Key:abc"], "exec:x -H X-Api-Key:…"),
            (&["--header", "X-Me: abc", "y"], "exec:x --header … y"),
            (&["-c", "export TOKEN=abc; y"], r#"exec:["x","-c","export TOKEN=…"]"#),
            (&["--password=a,b;c&d", "x=y,z"], "exec:x --password=… x=y,z"),
            (&["--password=a b c"], "exec:x --password=…"),
            (&["--settings={\"a\": 1, \"b\": 2}"], "exec:x --settings=…"),
            (&["-p", "--token", "abc"], "exec:x -p … …"),
            (&["--mcp-config={\"a\":1}"], "exec:x --mcp-config=…"),
            (&["{\"apiKey\":\"abc\"}"], "exec:x …"),
            (&["sk-abc", "ghp_abc", "eyJhbc.d.e"], "exec:x … … …"),
            (&["0123456789abcdef0123"], "exec:x …"),
            (&["--session=0123456789abcdef0123"], "exec:x --session=…"),
            (&["https://me:abc@host/p?x=y"], "exec:x https://…@host/p?x=y"),
            (
                &["--url=wss://host?access_token=abc&x=y"],
                "exec:x --url=wss://host?access_token=…&x=y",
            ),
            (&["--auth-url=https://host/abc"], "exec:x --auth-url=…"),
        ] {
            assert_eq!(Endpoint::exec("x", args).to_string(), expected);
        }
    }

    #[test]
    fn long_command_lines_are_shortened() {
        let long = "long ".repeat(1000);
        let shown = Endpoint::exec("x", [long.as_str()]).to_string();
        assert_eq!(shown.chars().filter(|c| *c == 'g').count(), 8, "{shown}");
        let many = ["a"; 20];
        assert_eq!(Endpoint::exec("x", many).to_string(), "exec:x a a a a a a a a …");
        let program = "x".repeat(1000);
        assert_eq!(Endpoint::exec(&program, many).to_string().matches('x').count(), 201);
    }

    #[test]
    fn secrets_in_a_url_are_omitted() {
        for (text, expected) in [
            ("ws://host:80/x?y=z", "ws://host:80/x?y=z"),
            ("ws://agent-server-prod-01/ws", "ws://agent-server-prod-01/ws"),
            ("http-unix:/tmp/x0123456789ghijkl/a", "http-unix:/tmp/x0123456789ghijkl/a"),
            ("ws://me:abc@host/x", "ws://…@host/x"),
            ("ws://abc@host", "ws://…@host"),
            ("ws://me:abc/def@host/x", "ws://…@host/x"),
            ("https://host/hooks/T0123456789ABCDEF/x#token=abc", "https://host/hooks/…/x#token=…"),
            ("wss://host/x?token=abc&y=z#sig", "wss://host/x?token=…&y=z#sig"),
            ("http-unix:/run/a:/x?key=abc", "http-unix:/run/a:/x?key=…"),
            ("resume+ws://host?s=0123456789abcdef", "resume+ws://host?s=…"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), expected);
            assert_eq!(endpoint.exact().to_string(), text);
            let debug = format!("{endpoint:?} {:?}", endpoint.address());
            assert!(!debug.contains("abc"), "{debug}");
        }
        assert_eq!(redact("my-agent --token=abc def"), "my-agent --token=… def");
        assert_eq!(redact("unix:/a?token=abc"), "unix:/a?token=…");
    }

    proptest! {
        /// The surrounding words are arbitrary.
        #[test]
        fn value_of_a_secret_option_is_never_printed(
            before in prop::collection::vec("[a-z -]{0,60}", 0..12),
            name in "--[a-z-]{0,8}(token|api-key|password)[a-z-]{0,8}",
            joined: bool,
        ) {
            let secret = "QQQZZZ";
            let mut args = before;
            match joined {
                true => args.push(format!("{name}={secret}")),
                false => args.extend([name, secret.to_owned()]),
            }
            let endpoint = Endpoint::exec("x", &args);
            let shown = format!("{endpoint} {endpoint:?} {:?}", endpoint.address());
            prop_assert!(!shown.contains(secret), "{}", shown);
            prop_assert!(shown.chars().count() < 3000);
        }
    }
}
