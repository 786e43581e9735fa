//! The encoding of a program's arguments and environment for the system, as a command line and an
//! environment block.
//!
//! The rules are those of Rust's standard library. The library itself is not used, because it has no
//! stable way to set a new process's job and inherited handles.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::path::Path;

use crate::windows::names;

const QUOTE: u16 = b'"' as u16;
const BACKSLASH: u16 = b'\\' as u16;
const SPACE: u16 = b' ' as u16;

/// Encodes text as UTF-16 with a terminating zero.
pub(super) fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}

/// Returns the command line of a program, in the form that `CommandLineToArgvW` splits.
pub(super) fn of_program(program: &Path, args: &[OsString]) -> Vec<u16> {
    let mut line = quoted(program);
    for arg in args {
        line.push(SPACE);
        let is_plain =
            !arg.is_empty() && !arg.as_encoded_bytes().iter().any(|it| matches!(it, b' ' | b'\t'));
        append(&mut line, arg, !is_plain, |line, backslashes, unit| {
            if unit == QUOTE {
                // 2n + 1 backslashes before a quote mean n backslashes and the quote.
                line.extend(std::iter::repeat_n(BACKSLASH, backslashes + 1));
            }
        });
    }
    line.push(0);
    line
}

/// Returns the command line of `cmd.exe` that runs a batch file with these arguments.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for text that `cmd.exe` would misread even if it is
/// quoted.
pub(super) fn of_batch_file(file: &Path, args: &[OsString]) -> io::Result<Vec<u16>> {
    let has =
        |text: &OsStr, bytes: &[u8]| text.as_encoded_bytes().iter().any(|it| bytes.contains(it));
    if has(file.as_os_str(), b"\"") || args.iter().any(|arg| has(arg, b"\r\n")) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Command extensions are needed for the replacement of `%` below. `cmd.exe` removes the quote after
    // `/c` together with the last one.
    let mut line: Vec<u16> = "cmd.exe /e:ON /v:OFF /d /c \"".encode_utf16().collect();
    // A file name can also contain a `%`.
    append(&mut line, file.as_os_str(), true, escape_for_a_shell);
    for arg in args {
        line.push(SPACE);
        append(&mut line, arg, !is_plain_for_a_shell(arg), escape_for_a_shell);
    }
    line.extend([QUOTE, 0]);
    Ok(line)
}

/// Quotes a path, which contains no quotes.
fn quoted(path: &Path) -> Vec<u16> {
    [QUOTE].into_iter().chain(path.as_os_str().encode_wide()).chain([QUOTE]).collect()
}

/// Returns true if an argument needs no quotes. An argument that ends with a backslash needs them: it
/// would escape the quote in a batch file's `"%~1"`.
fn is_plain_for_a_shell(arg: &OsStr) -> bool {
    let is_plain = |it: char| match it.is_ascii() {
        true => it.is_ascii_alphanumeric() || r"#$*+-./:?@\_".contains(it),
        false => !it.is_control(),
    };
    !arg.is_empty()
        && arg.as_encoded_bytes().last() != Some(&b'\\')
        && arg.to_string_lossy().chars().all(is_plain)
}

/// Writes the characters that `cmd.exe` needs before a code unit that follows `backslashes` backslashes.
fn escape_for_a_shell(line: &mut Vec<u16>, backslashes: usize, unit: u16) {
    if unit == QUOTE {
        line.extend(std::iter::repeat_n(BACKSLASH, backslashes));
        line.push(QUOTE);
    } else if unit == u16::from(b'%') {
        // This is an empty substring of a variable that always exists. It prevents the following text
        // from being read as a variable name.
        line.extend("%%cd:~,".encode_utf16());
    }
}

/// Appends an argument. Before each code unit except backslashes, `escape` is called with the number of
/// backslashes before it.
fn append(
    line: &mut Vec<u16>,
    arg: &OsStr,
    in_quotes: bool,
    escape: impl Fn(&mut Vec<u16>, usize, u16),
) {
    if in_quotes {
        line.push(QUOTE);
    }
    let mut backslashes = 0;
    for unit in arg.encode_wide() {
        if unit == BACKSLASH {
            backslashes += 1;
        } else {
            escape(line, backslashes, unit);
            backslashes = 0;
        }
        line.push(unit);
    }
    if in_quotes {
        // The backslashes are doubled so that they do not escape the quote.
        line.extend(std::iter::repeat_n(BACKSLASH, backslashes));
        line.push(QUOTE);
    }
}

/// Encodes `NAME=VALUE` pairs, each with a terminating zero, sorted by name, and a final zero.
pub(super) fn environment(mut variables: Vec<(OsString, OsString)>) -> Vec<u16> {
    variables.sort_by(|(one, _), (other, _)| names::compare(one, other));
    let mut block = Vec::new();
    for (name, value) in variables {
        block.extend(name.encode_wide().chain([u16::from(b'=')]).chain(value.encode_wide()));
        block.push(0);
    }
    if block.is_empty() {
        block.push(0);
    }
    block.push(0);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &[u16]) -> String {
        let (zero, line) = line.split_last().unwrap();
        assert_eq!(*zero, 0);
        String::from_utf16(line).unwrap()
    }

    fn os(args: &[&str]) -> Vec<OsString> {
        args.iter().map(OsString::from).collect()
    }

    #[test]
    fn arguments_are_quoted_for_programs() {
        for (args, expected) in [
            (&["plain", "a b", ""][..], r#"plain "a b" """#),
            (&["tab\there", r"C:\a\", r"C:\a b\"], "\"tab\there\" C:\\a\\ \"C:\\a b\\\\\""),
            (&[r#"say "hi""#, r#"\""#, r#"a\\"b"#], r#""say \"hi\"" \\\" a\\\\\"b"#),
            (&["%PATH%", "a&b", "two\nlines"], "%PATH% a&b two\nlines"),
        ] {
            let line = of_program(Path::new(r"C:\x y\agent.exe"), &os(args));
            assert_eq!(text(&line), format!(r#""C:\x y\agent.exe" {expected}"#));
        }
    }

    #[test]
    fn arguments_are_quoted_for_batch_files() {
        for (args, expected) in [
            (&["plain", "a b", ""][..], r#"plain "a b" """#),
            (&["c&echo&d", "a^b", "é"], r#""c&echo&d" "a^b" é"#),
            (&["%PATH%"], r#""%%cd:~,%PATH%%cd:~,%""#),
            (&[r#"say "hi""#, r"C:\a\", r#"\""#], r#""say ""hi""" "C:\a\\" "\\""""#),
        ] {
            let line = of_batch_file(Path::new(r"C:\x y\npx.cmd"), &os(args)).unwrap();
            let begin = r#"cmd.exe /e:ON /v:OFF /d /c ""C:\x y\npx.cmd" "#;
            assert_eq!(text(&line), format!("{begin}{expected}\""));
        }
        let line = of_batch_file(Path::new(r"C:\%PATH%\a.cmd"), &[]).unwrap();
        let expected = r#"cmd.exe /e:ON /v:OFF /d /c ""C:\%%cd:~,%PATH%%cd:~,%\a.cmd"""#;
        assert_eq!(text(&line), expected, "variables in the file name are not expanded");
        for (file, arg) in [("a.cmd", "two\nlines"), ("a.cmd", "a\r"), ("a\".cmd", "a")] {
            let refused = of_batch_file(Path::new(file), &os(&[arg])).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{file} {arg:?}");
        }
    }

    #[test]
    fn environment_is_sorted_by_name() {
        let block = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            String::from_utf16(&environment(variables.collect())).unwrap()
        };
        assert_eq!(block(&[]), "\0\0");
        assert_eq!(block(&[("b", "2"), ("C", ""), ("A", "x=y")]), "A=x=y\0b=2\0C=\0\0");
    }
}
