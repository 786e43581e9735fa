//! The requests that a client accepts from programs, and the levels of log messages.

use tieline_proto::jsonrpc::{DoubledMember, locate};

use super::json::{is_object, string};

/// The kinds of requests that a client has declared to accept from programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    forms: bool,
    urls: bool,
    sampling: bool,
    sampling_tools: bool,
    roots: bool,
}

impl Capabilities {
    /// Reads the object `clientCapabilities`.
    pub(super) fn of(declared: &[u8]) -> Result<Self, DoubledMember> {
        let has = |path: &[&str]| Ok(locate(declared, path)?.is_some_and(is_object));
        let elicitation = has(&["elicitation"])?;
        let (form, url) = (has(&["elicitation", "form"])?, has(&["elicitation", "url"])?);
        Ok(Self {
            // Without a mode, the client accepts forms.
            forms: elicitation && (form || !url),
            urls: url,
            sampling: has(&["sampling"])?,
            sampling_tools: has(&["sampling", "tools"])?,
            roots: has(&["roots"])?,
        })
    }

    /// Returns whether a program may send any request to this client.
    pub(super) fn any(self) -> bool {
        self != Self::default()
    }

    /// Returns whether a program may send this request to the client.
    pub(super) fn allow(self, method: &str, params: &[u8]) -> bool {
        let has = |name| matches!(locate(params, &[name]), Ok(Some(_)));
        match method {
            "elicitation/create" => match locate(params, &["mode"]) {
                Ok(None) => self.forms,
                Ok(Some(mode)) => match string(mode).as_deref() {
                    Some("form") => self.forms,
                    Some("url") => self.urls,
                    _ => false,
                },
                Err(DoubledMember) => false,
            },
            "sampling/createMessage" => {
                self.sampling && (self.sampling_tools || !(has("tools") || has("toolChoice")))
            }
            "roots/list" => self.roots,
            _ => false,
        }
    }
}

/// The levels of log messages, from the most to the least verbose.
const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The level of a log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level(usize);

impl Level {
    /// Parses a level in a JSON string.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        let name = string(value)?;
        LEVELS.iter().position(|it| *it == name).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        LEVELS.get(self.0).copied().unwrap_or("info")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_requests_are_allowed() {
        const FORM: (&str, &str) = ("elicitation/create", r#"{"message":"?"}"#);
        const URL: (&str, &str) = ("elicitation/create", r#"{"mode":"url"}"#);
        const OTHER: (&str, &str) = ("elicitation/create", r#"{"mode":"other"}"#);
        const SAMPLE: (&str, &str) = ("sampling/createMessage", "{}");
        const TOOLS: (&str, &str) = ("sampling/createMessage", r#"{"tools":[]}"#);
        const ROOTS: (&str, &str) = ("roots/list", "{}");
        const UNKNOWN: (&str, &str) = ("other", "{}");
        let all = [FORM, URL, OTHER, SAMPLE, TOOLS, ROOTS, UNKNOWN];
        for (declared, allowed) in [
            ("{}", &[][..]),
            (r#"{"elicitation":{}}"#, &[FORM]),
            (r#"{"elicitation":{"form":{}}}"#, &[FORM]),
            (r#"{"elicitation":{"url":{}}}"#, &[URL]),
            (r#"{"elicitation":{"url":{},"form":{}}}"#, &[FORM, URL]),
            (r#"{"elicitation":true,"sampling":null}"#, &[]),
            (r#"{"sampling":{}}"#, &[SAMPLE]),
            (r#"{"sampling":{"tools":{}},"roots":{"listChanged":true}}"#, &[SAMPLE, TOOLS, ROOTS]),
        ] {
            let can = Capabilities::of(declared.as_bytes()).unwrap();
            assert_eq!(can.any(), !allowed.is_empty(), "{declared}");
            for asked in all {
                let is_allowed = can.allow(asked.0, asked.1.as_bytes());
                assert_eq!(is_allowed, allowed.contains(&asked), "{declared} {asked:?}");
            }
        }
        assert!(Capabilities::of(br#"{"roots":{},"roots":{}}"#).is_err());
    }

    #[test]
    fn levels_are_ordered() {
        assert!(Level::of(b"\"debug\"") < Level::of(b"\"error\""));
        assert_eq!(Level::of(b"\"loud\""), None);
        assert_eq!(Level::of(b"\"error\"").unwrap().name(), "error");
    }
}
