//! What a terminal may be given: nothing in it makes the terminal do something.

/// Without control characters.
#[cfg(any(unix, test))]
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !is_command(*c)).collect()
}

/// With control characters written out as JSON has them: JSON stays what it was.
pub(crate) fn spelled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_command(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        let text = "a\u{1b}]0;title\u{7}\tb\r\n\u{9b}1mé\u{7f}";
        assert_eq!(harmless(text), "a]0;title\tb\n1mé");
        assert_eq!(spelled(text), "a\\u001b]0;title\\u0007\tb\\u000d\n\\u009b1mé\\u007f");
        let json = "{\"a\":\"\u{9b}\u{7f}é\"}";
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&spelled(json)), value(json));
    }
}
