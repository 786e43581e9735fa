//! What a server has sent, for people.

use std::fmt::Write as _;

use serde_json::Value;

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

/// Returns a member of an object, or null.
pub(super) fn at<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

/// Returns the first of these members that is a text.
fn text<'a>(object: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| at(object, name).as_str()).filter(|text| !text.is_empty())
}

/// Writes a name, and the description below it.
fn head(object: &Value, name: &str) -> String {
    let mut out = format!("{}\n", text(object, &[name]).unwrap_or("(without a name)"));
    for line in text(object, &["description", "title"]).unwrap_or_default().lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

/// Writes an argument: its name, type, whether it is required, and its description.
fn argument(out: &mut String, name: &str, of: &Value, is_required: bool) {
    let kind = at(of, "type").as_str().map(|kind| format!(": {kind}")).unwrap_or_default();
    let required = if is_required { " (required)" } else { "" };
    let description = text(of, &["description", "title"]).unwrap_or_default();
    let description = description.lines().next().unwrap_or_default();
    let dash = if description.is_empty() { "" } else { " - " };
    let _ = writeln!(out, "    {name}{kind}{required}{dash}{description}");
}

pub(super) fn tool(json: &[u8]) -> String {
    let tool = value(json);
    let mut out = head(&tool, "name");
    let schema = at(&tool, "inputSchema");
    let required = at(schema, "required").as_array().cloned().unwrap_or_default();
    for (name, of) in at(schema, "properties").as_object().into_iter().flatten() {
        argument(&mut out, name, of, required.iter().any(|it| it == name.as_str()));
    }
    out
}

pub(super) fn resource(json: &[u8]) -> String {
    let resource = value(json);
    let name = if at(&resource, "uri").is_string() { "uri" } else { "uriTemplate" };
    let mut out = format!("{}\n", text(&resource, &[name]).unwrap_or("(without a URI)"));
    let title = text(&resource, &["title", "name"]).unwrap_or_default();
    let kind = text(&resource, &["mimeType"]).map(|kind| format!(" ({kind})")).unwrap_or_default();
    let _ = writeln!(out, "  {title}{kind}");
    for line in text(&resource, &["description"]).unwrap_or_default().lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

pub(super) fn prompt(json: &[u8]) -> String {
    let prompt = value(json);
    let mut out = head(&prompt, "name");
    for of in at(&prompt, "arguments").as_array().into_iter().flatten() {
        let name = text(of, &["name"]).unwrap_or_default();
        argument(&mut out, name, of, at(of, "required") == true);
    }
    out
}

/// Returns the content of the result of a tool.
pub(super) fn content(json: &[u8]) -> String {
    let result = value(json);
    let parts = at(&result, "content").as_array().map(Vec::as_slice).unwrap_or_default();
    if parts.is_empty() && !at(&result, "structuredContent").is_null() {
        return format!("{:#}\n", at(&result, "structuredContent"));
    }
    parts.iter().map(part).collect()
}

/// Returns the contents of a resource.
pub(super) fn contents(json: &[u8]) -> String {
    let result = value(json);
    at(&result, "contents").as_array().into_iter().flatten().map(of_resource).collect()
}

/// Returns the messages of a prompt.
pub(super) fn messages(json: &[u8]) -> String {
    let result = value(json);
    let messages = at(&result, "messages").as_array().into_iter().flatten();
    let message = |it: &Value| {
        format!("{}: {}", text(it, &["role"]).unwrap_or("unknown"), part(at(it, "content")))
    };
    messages.map(message).collect()
}

/// Returns a part of a result.
fn part(part: &Value) -> String {
    match at(part, "type").as_str() {
        Some("text") => ended(at(part, "text").as_str().unwrap_or_default()),
        Some("resource") => of_resource(at(part, "resource")),
        Some("resource_link") => ended(at(part, "uri").as_str().unwrap_or_default()),
        Some(kind @ ("image" | "audio")) => binary(kind, part, "data"),
        _ => format!("{part}\n"),
    }
}

fn of_resource(resource: &Value) -> String {
    match at(resource, "text").as_str() {
        Some(text) => ended(text),
        None => binary("resource", resource, "blob"),
    }
}

fn binary(what: &str, of: &Value, member: &str) -> String {
    let length = at(of, member).as_str().unwrap_or_default().len();
    let kind = text(of, &["mimeType"]).unwrap_or("unknown type");
    format!("[{what}, {kind}, {length} characters of base64; --json prints them]\n")
}

/// Returns a text with a newline at its end.
fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_show_names_descriptions_and_arguments() {
        for (shown, expected) in [
            (
                tool(br#"{"name":"t","description":"One.\nTwo.","inputSchema":{"properties":{"a":{"type":"string","description":"An a.\nMore."},"b":{}},"required":["a"]}}"#),
                "t\n  One.\n  Two.\n    a: string (required) - An a.\n    b\n",
            ),
            (tool(br#"{"inputSchema":7}"#), "(without a name)\n"),
            (
                resource(br#"{"uri":"a:b","name":"n","title":"N","mimeType":"text/plain"}"#),
                "a:b\n  N (text/plain)\n",
            ),
            (resource(br#"{"uriTemplate":"a:{b}","name":"n"}"#), "a:{b}\n  n\n"),
            (
                prompt(br#"{"name":"p","arguments":[{"name":"x","required":true},{"name":"y"}]}"#),
                "p\n    x (required)\n    y\n",
            ),
        ] {
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn results_show_their_texts_and_say_what_else_there_is() {
        for (shown, expected) in [
            (
                content(
                    br#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b\n"}]}"#,
                ),
                "a\nb\n",
            ),
            (content(br#"{"content":[],"structuredContent":{"a":1}}"#), "{\n  \"a\": 1\n}\n"),
            (
                content(br#"{"content":[{"type":"image","mimeType":"image/png","data":"AAAA"}]}"#),
                "[image, image/png, 4 characters of base64; --json prints them]\n",
            ),
            (content(br#"{"content":[{"type":"resource","resource":{"text":"r"}}]}"#), "r\n"),
            (content(br#"{"content":[{"type":"resource_link","uri":"a:b"}]}"#), "a:b\n"),
            (content(br#"{"content":[{"type":"new"}]}"#), "{\"type\":\"new\"}\n"),
            (content(b"7"), ""),
            (
                contents(br#"{"contents":[{"text":"x"},{"blob":"AA"}]}"#),
                "x\n[resource, unknown type, 2 characters of base64; --json prints them]\n",
            ),
            (
                messages(
                    br#"{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}]}"#,
                ),
                "user: hi\n",
            ),
        ] {
            assert_eq!(shown, expected);
        }
    }
}
