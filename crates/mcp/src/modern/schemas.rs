//! The arguments of tools that are repeated in headers, according to the program's list of tools.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tieline_proto::jsonrpc::{elements, locate, member, members};

use super::head::{PARAM, Repeated};
use super::json::{is_object, string};
use super::request::{ModernRequest, doubled, mismatch};
use crate::Refusal;

/// The maximum number of tools with such arguments that are remembered.
const MAX_TOOLS: usize = 1024;
/// The maximum number of such arguments of one tool.
const MAX_ARGUMENTS: usize = 32;
/// The maximum depth of such an argument in the arguments.
const MAX_DEPTH: usize = 8;
/// The maximum number of nested schemas of a tool that wait to be read.
const MAX_OPEN: usize = 256;
/// The maximum length of the name of a tool, an argument or a header.
const MAX_NAME: usize = 256;

/// The arguments of tools that clients repeat in headers. Clones share their content, so that all
/// programs of a server use the same.
#[derive(Clone, Debug, Default)]
pub struct ToolHeaders(Arc<Mutex<HashMap<String, Vec<Repetition>>>>);

/// A tool whose annotations are invalid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidTool {
    /// The tool's position in the list.
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) problem: String,
}

/// An argument that is repeated in a header.
#[derive(Debug, PartialEq, Eq)]
struct Repetition {
    /// The name of the header, in lower case.
    header: String,
    path: Vec<String>,
}

impl ToolHeaders {
    /// Stores the arguments from the result of `tools/list`. The first page replaces all earlier ones. Returns the
    /// tools that clients must not use, because their annotations are invalid.
    pub(crate) fn learn(&self, result: &[u8], is_first_page: bool) -> Vec<InvalidTool> {
        let mut known = self.known();
        if is_first_page {
            known.clear();
        }
        let tools = member(result, "tools").map(Bytes::copy_from_slice);
        let mut invalid = Vec::new();
        for (at, tool) in
            tools.as_ref().and_then(elements).unwrap_or_default().into_iter().enumerate()
        {
            let name = member(&tool, "name").and_then(string);
            let name = name.filter(|name| name.len() <= MAX_NAME);
            let (Some(name), Some(schema)) = (name, member(&tool, "inputSchema")) else { continue };
            known.remove(&*name);
            let (repetitions, problem) = repetitions(schema);
            if let Some(problem) = problem {
                invalid.push(InvalidTool { at, name: name.clone().into_owned(), problem });
            }
            if !repetitions.is_empty() && known.len() < MAX_TOOLS {
                known.insert(name.into_owned(), repetitions);
            }
        }
        invalid
    }

    /// Returns the names and values of the headers for a call of a tool.
    pub(crate) fn repeated(&self, tool: &str, params: &[u8]) -> Vec<(String, String)> {
        let known = self.known();
        let repetitions = known.get(tool).into_iter().flatten();
        let header = |Repetition { header, path }: &Repetition| {
            let whole: Vec<&str> =
                std::iter::once("arguments").chain(path.iter().map(String::as_str)).collect();
            let value = locate(params, &whole).ok().flatten()?;
            let text = string(value).unwrap_or_else(|| String::from_utf8_lossy(value));
            (value != b"null").then(|| (header.clone(), text.into_owned()))
        };
        repetitions.filter_map(header).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Vec<Repetition>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the headers of a call, if the tool is known.
    pub(super) fn check(&self, request: &ModernRequest) -> Result<(), Refusal> {
        let known = self.known();
        if known.is_empty() || request.method() != "tools/call" {
            return Ok(());
        }
        let name = member(request.params(), "name").and_then(string);
        let repetitions = name.and_then(|name| known.get(&*name));
        for Repetition { header, path } in repetitions.into_iter().flatten() {
            let whole: Vec<&str> =
                std::iter::once("arguments").chain(path.iter().map(String::as_str)).collect();
            // A program may read another one of two members with the same name.
            let value = locate(request.params(), &whole).map_err(doubled)?;
            let Some(value) = value.filter(|value| *value != b"null") else { continue };
            let found = request.head().param(header);
            if !found.decoded().is_some_and(|text| is_same(value, &text)) {
                let problem = match found {
                    // The base64 is invalid.
                    Repeated::Is(_) if found.decoded().is_none() => &Repeated::Malformed,
                    found => found,
                };
                return Err(mismatch(header, problem, &format!("params.{}", whole.join("."))));
            }
        }
        Ok(())
    }
}

/// Returns whether a header's text repeats this JSON value.
fn is_same(value: &[u8], text: &str) -> bool {
    if let Some(string) = string(value) {
        return string == text;
    }
    let raw = std::str::from_utf8(value).unwrap_or_default();
    raw == text || matches!((decimal(raw), decimal(text)), (Some(one), Some(other)) if one == other)
}

/// Parses a decimal number exactly, for a comparison: whether it is negative, its digits without zeros at the
/// ends, and the power of ten of the last digit. A `f64` would make large numbers equal that are not.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let dropped = digits.len() - significant.len();
    let power =
        i64::from(exponent) + i64::try_from(dropped).ok()? - i64::try_from(fraction.len()).ok()?;
    match significant.trim_start_matches('0') {
        "" => Some((false, String::new(), 0)),
        digits => Some((is_negative, digits.to_owned(), power)),
    }
}

/// Finds the annotated properties that are reached only through `properties`. Others are not enforced. Also returns the
/// problem of an invalid annotation.
fn repetitions(schema: &[u8]) -> (Vec<Repetition>, Option<String>) {
    let mut problem = None;
    let mut found: Vec<Repetition> = Vec::new();
    let mut open: Vec<(Vec<String>, &[u8])> = vec![(Vec::new(), schema)];
    while let Some((path, schema)) = open.pop() {
        let properties = member(schema, "properties").and_then(members).unwrap_or_default();
        for (name, property) in properties {
            if name.len() > MAX_NAME || !is_object(property) {
                continue;
            }
            let mut path = path.clone();
            path.push(name.into_owned());
            let raw = member(property, "x-mcp-header");
            let annotation = raw.and_then(string);
            let kind = member(property, "type").and_then(string);
            // Servers accept numbers, too, which clients may not repeat.
            let is_valid = annotation.as_deref().is_some_and(is_token)
                && matches!(kind.as_deref(), Some("string" | "integer" | "boolean"));
            if raw.is_some() && !is_valid {
                let path = path.join(".");
                problem = Some(format!("the x-mcp-header of its argument {path:?} is not valid"));
            }
            match (annotation, kind.as_deref()) {
                (Some(suffix), Some("string" | "integer" | "number" | "boolean"))
                    if is_token(&suffix) && found.len() < MAX_ARGUMENTS =>
                {
                    let header = format!("{PARAM}{}", suffix.to_ascii_lowercase());
                    found.push(Repetition { header, path });
                }
                _ if path.len() < MAX_DEPTH
                    && open.len() < MAX_OPEN
                    && member(property, "properties").is_some() =>
                {
                    open.push((path, property));
                }
                _ => {}
            }
        }
    }
    let is_unique = |at: usize, header: &str| !found.iter().take(at).any(|it| it.header == header);
    let all_unique = found.iter().enumerate().all(|(at, it)| is_unique(at, &it.header));
    if !all_unique {
        let problem = "two of its arguments have the same x-mcp-header".to_owned();
        return (Vec::new(), Some(problem));
    }
    (found, problem)
}

/// Returns whether the text can be part of the name of a header (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(properties: &str) -> Vec<(String, String)> {
        let schema = format!(r#"{{"type":"object","properties":{properties}}}"#);
        let found = repetitions(schema.as_bytes()).0;
        found.into_iter().map(|it| (it.header, it.path.join("."))).collect()
    }

    #[test]
    fn only_valid_annotations_are_enforced() {
        let one = |header: &str, path: &str| vec![(header.to_owned(), path.to_owned())];
        for (properties, expected) in [
            (r#"{"a":{"type":"string","x-mcp-header":"Re-gion"}}"#, one("mcp-param-re-gion", "a")),
            (r#"{"a":{"type":"integer","x-mcp-header":"n"}}"#, one("mcp-param-n", "a")),
            (
                r#"{"a":{"type":"object","properties":{"b":{"type":"boolean","x-mcp-header":"B"}}}}"#,
                one("mcp-param-b", "a.b"),
            ),
            (r#"{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}"#, vec![]),
            (r#"{"a":{"anyOf":[{"type":"string","x-mcp-header":"A"}]}}"#, vec![]),
            (r#"{"a":{"type":"object","x-mcp-header":"A"}}"#, vec![]),
            (r#"{"a":{"type":"string","x-mcp-header":"not a token"}}"#, vec![]),
            (r#"{"a":{"type":"string","x-mcp-header":""}}"#, vec![]),
            (r#"{"a":{"type":"string","x-mcp-header":1}}"#, vec![]),
            (
                r#"{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}"#,
                vec![],
            ),
            (r#"{"a":true}"#, vec![]),
            ("[]", vec![]),
        ] {
            assert_eq!(found(properties), expected, "{properties}");
        }
        // Deep schemas end.
        let deep = r#"{"a":{"type":"object","properties":"#.repeat(20) + "{}" + &"}}".repeat(20);
        assert_eq!(found(&deep), vec![]);
    }

    #[test]
    fn clients_are_told_which_annotations_are_invalid() {
        for (property, is_valid) in [
            (r#"{"type":"string","x-mcp-header":"A"}"#, true),
            (r#"{"type":"integer","x-mcp-header":"A"}"#, true),
            (r#"{"type":"boolean","x-mcp-header":"A"}"#, true),
            (r#"{"type":"number"}"#, true),
            (r#"{"type":"number","x-mcp-header":"A"}"#, false),
            (r#"{"type":"null","x-mcp-header":"A"}"#, false),
            (r#"{"type":"object","properties":{},"x-mcp-header":"A"}"#, false),
            (r#"{"type":"string","x-mcp-header":""}"#, false),
            (r#"{"type":"string","x-mcp-header":"a b"}"#, false),
            (r#"{"type":"string","x-mcp-header":"a:b"}"#, false),
            (r#"{"type":"string","x-mcp-header":7}"#, false),
            (r#"{"type":"object","properties":{"x":{"type":"array","x-mcp-header":"A"}}}"#, false),
        ] {
            let schema = format!(r#"{{"properties":{{"a":{property}}}}}"#);
            assert_eq!(repetitions(schema.as_bytes()).1.is_none(), is_valid, "{property}");
        }
        let twice = r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#;
        assert!(repetitions(twice.as_bytes()).1.is_some());
    }

    #[test]
    fn numbers_are_compared_by_value_and_text_exactly() {
        for (value, text, is_equal) in [
            ("42", "42", true),
            ("42", "42.0", true),
            ("4.2e1", "42", true),
            ("42", "43", false),
            ("42", "x", false),
            ("42", "", false),
            ("-0.50", "-5e-1", true),
            ("-1", "1", false),
            ("0", "-0.0e9", true),
            ("9007199254740993", "9007199254740992", false),
            ("9007199254740993", "9007199254740993.0", true),
            ("1e400", "1e999", false),
            ("1e99999999999999999999", "1", false),
            ("100", "1e2", true),
            ("1", "1.", true),
            ("1", "-", false),
            ("1", "inf", false),
            ("true", "true", true),
            ("true", "True", false),
            (r#""42""#, "42", true),
            (r#""42""#, "42.0", false),
            (r#""\u00e9""#, "é", true),
        ] {
            assert_eq!(is_same(value.as_bytes(), text), is_equal, "{value} {text}");
        }
    }
}
