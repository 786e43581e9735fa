//! The text of an `exec:` endpoint: words, or a JSON array if the text must be exact. There is no shell
//! and no escape character, so Windows paths need no escaping.

use std::ffi::OsString;
use std::fmt;

use super::invalid::invalid;
use crate::error::TransportError;

pub(super) fn write(f: &mut fmt::Formatter<'_>, argv: &[OsString]) -> fmt::Result {
    let words: Vec<_> = argv.iter().map(|arg| arg.to_string_lossy()).collect();
    let array = words.first().is_some_and(|word| word.starts_with('['));
    if !array && words.iter().all(|word| is_plain(word)) {
        return f.write_str(&words.join(" "));
    }
    let array = serde_json::to_string(&words).map_err(|_| fmt::Error)?;
    f.write_str(&array)
}

fn is_plain(word: &str) -> bool {
    let is_special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '\'' | '"');
    !word.is_empty() && !word.contains(is_special)
}

pub(super) fn parse(text: &str) -> Result<Vec<OsString>, TransportError> {
    if text.contains('\0') {
        return Err(invalid("a command line cannot contain a NUL byte".into(), ""));
    }
    let text = text.trim_start();
    let argv = if text.starts_with('[') { parse_array(text)? } else { parse_words(text)? };
    if argv.first().is_none_or(String::is_empty) {
        return Err(invalid("`exec:` needs a program".into(), "write it like exec:cat"));
    }
    if argv.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid("an argument cannot contain a NUL byte".into(), ""));
    }
    Ok(argv.into_iter().map(OsString::from).collect())
}

fn parse_array(text: &str) -> Result<Vec<String>, TransportError> {
    serde_json::from_str(text).map_err(|error| {
        invalid(format!("the text after `exec:` is not a JSON array of strings: {error}"), "")
    })
}

fn parse_words(text: &str) -> Result<Vec<String>, TransportError> {
    let mut words = Vec::new();
    // `None` between words. An empty pair of quotes is also a word.
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in text.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        let hint = "close it, or write the exact form: exec:[\"program\",\"argument\"]";
        return Err(invalid("a quote is not closed".into(), hint));
    }
    words.extend(word);
    Ok(words)
}
