//! Determines the era of a POST, and checks requests of the modern era.

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    DoubledMember, INVALID_PARAMS, METHOD_NOT_FOUND, Message, Request, locate,
};

use super::capabilities::{Capabilities, Level};
use super::head::{ModernHead, Repeated};
use super::json::{is_object, object, quoted, string};
use super::{HEADER_MISMATCH, MODERN_VERSION, UNSUPPORTED_VERSION, meta};
use crate::{Posted, Refusal};

/// A POST of either era.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Era {
    /// A POST that belongs to a session of the versions up to 2025-11-25, or begins one.
    Legacy(Posted),
    /// A request of version 2026-07-28.
    Modern(ModernRequest),
    /// A notification of version 2026-07-28, which defines none for HTTP.
    Notification,
}

/// A valid request of version 2026-07-28.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModernRequest {
    request: Request,
    pub(super) method: String,
    head: ModernHead,
    pub(super) can: Capabilities,
    pub(super) level: Option<Level>,
}

impl Era {
    /// Determines the era of a POST. It is the modern one if the body names a protocol version in
    /// `_meta`, or if the header names the modern version. A request of the modern era is also checked.
    ///
    /// # Errors
    /// The request belongs to the modern era and is not valid: 400, or 404 for a method that does not exist in it.
    pub fn of(head: ModernHead, posted: Posted) -> Result<Self, Refusal> {
        let is_announced = head.version == Repeated::Is(MODERN_VERSION.into());
        let (id, params) = match &posted.messages[..] {
            [Message::Request(request)] if !posted.is_batch => {
                (Some(request.id()), request.params())
            }
            [Message::Notification(notification)] if !posted.is_batch => {
                (None, notification.params())
            }
            _ if is_announced => {
                let text = "a POST of protocol version 2026-07-28 must have one request";
                return Err(Refusal::invalid(text));
            }
            _ => return Ok(Self::Legacy(posted)),
        };
        let params = params.unwrap_or_default();
        let claim = locate(params, &["_meta", meta::PROTOCOL_VERSION]);
        if claim == Ok(None) && !is_announced {
            return Ok(Self::Legacy(posted));
        }
        let checked = check_version(&head, claim);
        let checked = checked.map_err(|refusal| match id {
            Some(id) => refusal.answering(id),
            None => refusal,
        });
        match posted.messages.into_iter().next() {
            Some(Message::Request(request)) => {
                checked?;
                let read = ModernRequest::read(&request, head);
                read.map(Self::Modern).map_err(|refusal| refusal.answering(request.id()))
            }
            _ => checked.map(|()| Self::Notification),
        }
    }
}

fn check_version(
    head: &ModernHead,
    claim: Result<Option<&[u8]>, DoubledMember>,
) -> Result<(), Refusal> {
    let claim = claim.map_err(doubled)?;
    let Some(claim) = claim else {
        return Err(invalid_params(format!("params._meta has no {:?}", meta::PROTOCOL_VERSION)));
    };
    let Some(claim) = string(claim) else {
        return Err(invalid_params(format!("{:?} must be a string", meta::PROTOCOL_VERSION)));
    };
    match &head.version {
        Repeated::Is(version) if *version == claim => {}
        header => {
            return Err(mismatch("MCP-Protocol-Version", header, "the version in params._meta"));
        }
    }
    if claim != MODERN_VERSION {
        let supported = format!("[{}]", quoted(MODERN_VERSION));
        let requested = quoted(&claim);
        let data =
            object([("supported", supported.as_bytes()), ("requested", requested.as_bytes())]);
        let text =
            "this protocol version is not supported; supported without a session: 2026-07-28";
        let refusal = Refusal { code: UNSUPPORTED_VERSION, ..Refusal::new(400, text) };
        return Err(Refusal { data: Some(data.into()), ..refusal });
    }
    Ok(())
}

impl ModernRequest {
    fn read(request: &Request, head: ModernHead) -> Result<Self, Refusal> {
        let params = request.params().unwrap_or_default();
        let in_meta = |name| locate(params, &["_meta", name]).map_err(doubled);
        let capabilities = in_meta(meta::CLIENT_CAPABILITIES)?.filter(|it| is_object(it));
        let Some(capabilities) = capabilities else {
            let name = meta::CLIENT_CAPABILITIES;
            return Err(invalid_params(format!("params._meta must have an object {name:?}")));
        };
        let can = Capabilities::of(capabilities).map_err(doubled)?;
        in_meta("progressToken")?;
        let level = in_meta(meta::LOG_LEVEL)?.map(|level| {
            let unknown = || invalid_params(format!("{:?} is not a level", meta::LOG_LEVEL));
            Level::of(level).ok_or_else(unknown)
        });
        let level = level.transpose()?;
        let method = request.method().into_owned();
        if head.method.decoded().as_deref() != Some(&*method) {
            return Err(mismatch("Mcp-Method", &head.method, "the method"));
        }
        if let Some(member) = named_by(&method) {
            let name = locate(params, &[member]).map_err(doubled)?;
            let name = name
                .and_then(string)
                .ok_or_else(|| invalid_params(format!("params.{member} must be a string")))?;
            if head.name.decoded() != Some(name) {
                return Err(mismatch("Mcp-Name", &head.name, &format!("params.{member}")));
            }
        }
        if REMOVED.contains(&&*method) {
            return Err(unknown_method(&method));
        }
        Ok(Self { request: request.clone(), method, head, can, level })
    }

    /// Returns the id as the client wrote it.
    pub fn id(&self) -> &[u8] {
        self.request.id()
    }

    /// Returns the name of the method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the state from the result `input_required` that this request continues, if there is one.
    pub fn state(&self) -> Option<String> {
        let state = locate(self.params(), &["requestState"]).ok().flatten()?;
        string(state).map(|state| state.into_owned())
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    pub(super) fn params(&self) -> &[u8] {
        self.request.params().unwrap_or_default()
    }

    pub(super) fn head(&self) -> &ModernHead {
        &self.head
    }

    /// Returns whether the result of the request may be `input_required`.
    pub(super) fn may_need_input(&self) -> bool {
        matches!(&*self.method, "tools/call" | "prompts/get" | "resources/read")
    }

    /// Returns the method and the arguments, which identify the request when it is repeated with input.
    pub(super) fn subject(&self) -> Vec<u8> {
        let part = |name| locate(self.params(), &[name]).ok().flatten().unwrap_or_default();
        [self.method.as_bytes(), part("name"), part("uri"), part("arguments")].join(&b'\n')
    }

    /// Returns the length of the request in bytes.
    pub(super) fn length(&self) -> usize {
        self.request.message().len()
    }
}

/// Returns the parameter that the header `Mcp-Name` repeats.
pub(crate) fn named_by(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// The methods of earlier versions that do not exist any more.
const REMOVED: [&str; 7] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/list",
    "tasks/result",
];

pub(super) fn unknown_method(method: &str) -> Refusal {
    let text = format!("the method {method:?} does not exist in protocol version 2026-07-28");
    Refusal { code: METHOD_NOT_FOUND, ..Refusal::new(404, text) }
}

pub(super) fn doubled(_: DoubledMember) -> Refusal {
    invalid_params("a member of the parameters appears twice".into())
}

pub(super) fn invalid_params(text: String) -> Refusal {
    Refusal { code: INVALID_PARAMS, ..Refusal::new(400, text) }
}

pub(super) fn mismatch(header: &str, found: &Repeated, body: &str) -> Refusal {
    let problem = match found {
        Repeated::Missing => "is missing",
        Repeated::Malformed => "was sent twice, or is not printable ASCII",
        Repeated::Is(_) => "differs",
    };
    let text = format!("the header {header} must repeat {body}: it {problem}");
    Refusal { code: HEADER_MISMATCH, ..Refusal::new(400, text) }
}

/// Returns a message on one line, as stdio requires.
pub(super) fn on_one_line(message: Bytes) -> Bytes {
    use tieline_proto::json::{Limits, to_one_line};
    match message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        false => message,
        true => to_one_line(&message, Limits::default()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use tieline_proto::json::Limits;

    use super::*;
    use crate::modern::head::{METHOD, NAME};
    use crate::{LAST_EVENT_ID, PROTOCOL_VERSION};

    const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

    fn era(headers: &[(&str, &str)], body: &str) -> Result<Era, Refusal> {
        let head = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let posted = Posted::read(Bytes::copy_from_slice(body.as_bytes()), Limits::default());
        Era::of(ModernHead::of(head), posted.unwrap())
    }

    fn body(method: &str, meta: &str, more: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":"i","method":"{method}","params":{{"_meta":{{{meta}}}{more}}}}}"#
        )
    }

    const VERSION: (&str, &str) = (PROTOCOL_VERSION, "2026-07-28");

    #[test]
    fn era_follows_from_body_and_header() {
        let claim = body("m", META, "");
        let old_claim = body("m", r#""io.modelcontextprotocol/protocolVersion":"2025-11-25""#, "");
        let doubled = body("m", &format!("{META},{META}"), "");
        let plain = r#"{"jsonrpc":"2.0","id":"i","method":"m"}"#;
        let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let notification = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
        let batch = format!("[{claim}]");
        let told = format!(r#"{{"jsonrpc":"2.0","method":"n","params":{{"_meta":{{{META}}}}}}}"#);
        let method = (METHOD, "m");
        for (headers, body, expected) in [
            (&[VERSION, method][..], &*claim, Ok("modern")),
            (&[VERSION, (METHOD, " m ")], &claim, Ok("modern")),
            (&[VERSION, (METHOD, "=?base64?bQ==?=")], &claim, Ok("modern")),
            (&[VERSION], &told, Ok("notification")),
            (&[], plain, Ok("legacy")),
            (&[(PROTOCOL_VERSION, "2025-11-25")], plain, Ok("legacy")),
            (&[(PROTOCOL_VERSION, "2099-01-01")], plain, Ok("legacy")),
            (&[], response, Ok("legacy")),
            (&[], notification, Ok("legacy")),
            (&[], &batch, Ok("legacy")),
            (&[(LAST_EVENT_ID, "1")], plain, Ok("legacy")),
            (&[VERSION], plain, Err((400, -32602))),
            (&[VERSION], notification, Err((400, -32602))),
            (&[VERSION], response, Err((400, -32600))),
            (&[VERSION], &batch, Err((400, -32600))),
            (&[VERSION], &doubled, Err((400, -32602))),
            (&[], &doubled, Err((400, -32602))),
            (&[], &claim, Err((400, -32020))),
            (&[VERSION, VERSION], &claim, Err((400, -32020))),
            (&[(PROTOCOL_VERSION, "2025-11-25")], &claim, Err((400, -32020))),
            (&[VERSION], &old_claim, Err((400, -32020))),
            (&[(PROTOCOL_VERSION, "2025-11-25")], &old_claim, Err((400, -32022))),
            (&[VERSION], &claim, Err((400, -32020))),
            (&[VERSION, (METHOD, "M")], &claim, Err((400, -32020))),
            (&[VERSION, method, method], &claim, Err((400, -32020))),
        ] {
            let found = era(headers, body);
            let found = found.as_ref().map(|era| match era {
                Era::Legacy(_) => "legacy",
                Era::Modern(_) => "modern",
                Era::Notification => "notification",
            });
            let found = found.map_err(|refusal| (refusal.status, refusal.code));
            assert_eq!(found, expected, "{headers:?} {body}");
        }
    }

    #[test]
    fn request_is_checked_before_it_reaches_the_program() {
        const VERSION_ONLY: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
        const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
        let with = |more: &str| format!("{VERSION_ONLY},{more}");
        let level = |level: &str| format!(r#"{META},"io.modelcontextprotocol/logLevel":{level}"#);
        for (method, meta, more, name, expected) in [
            ("tools/call", META, r#","name":"t""#, Some("t"), None),
            ("tools/call", META, r#","name":"\u00e9""#, Some("=?base64?w6k=?="), None),
            ("resources/read", META, r#","uri":"u:x""#, Some("u:x"), None),
            ("tasks/get", META, r#","taskId":"1""#, Some("1"), None),
            ("tools/list", META, "", Some("ignored"), None),
            ("tools/list", &level(r#""info""#), "", None, None),
            ("tools/call", META, r#","name":"t""#, Some("T"), Some((400, -32020))),
            ("tools/call", META, r#","name":"t""#, None, Some((400, -32020))),
            ("tools/call", META, r#","name":1"#, Some("1"), Some((400, -32602))),
            ("tools/call", META, "", Some("t"), Some((400, -32602))),
            ("tools/call", META, r#","name":"t","name":"t""#, Some("t"), Some((400, -32602))),
            ("prompts/get", META, r#","name":"é""#, Some("=?base64?w6k?="), Some((400, -32020))),
            ("tools/list", VERSION_ONLY, "", None, Some((400, -32602))),
            (
                "tools/list",
                &with(&format!(r#""{CAPABILITIES}":true"#)),
                "",
                None,
                Some((400, -32602)),
            ),
            ("tools/list", &level("1"), "", None, Some((400, -32602))),
            ("tools/list", &level(r#""loud""#), "", None, Some((400, -32602))),
            (
                "tools/list",
                &format!(r#"{META},"progressToken":1,"progressToken":2"#),
                "",
                None,
                Some((400, -32602)),
            ),
            ("initialize", META, "", None, Some((404, -32601))),
            ("ping", META, "", None, Some((404, -32601))),
            ("logging/setLevel", META, "", None, Some((404, -32601))),
            ("resources/subscribe", META, r#","uri":"u""#, None, Some((404, -32601))),
            ("resources/unsubscribe", META, r#","uri":"u""#, None, Some((404, -32601))),
            ("tasks/list", META, "", None, Some((404, -32601))),
            ("tasks/result", META, "", None, Some((404, -32601))),
        ] {
            let mut headers = vec![VERSION, (METHOD, method)];
            headers.extend(name.map(|name| (NAME, name)));
            let read = era(&headers, &body(method, meta, more));
            let refused = read.as_ref().err().map(|refusal| (refusal.status, refusal.code));
            assert_eq!(refused, expected, "{method} {meta} {more} {name:?}");
            if let Err(refusal) = read {
                assert_eq!(refusal.id.as_deref(), Some(&br#""i""#[..]));
                assert!(refusal.body().starts_with(br#"{"jsonrpc":"2.0","id":"i","error":{"#));
            }
        }
    }

    #[test]
    fn unsupported_version_names_the_supported_one() {
        let meta = META.replace("2026-07-28", "v\\\"9");
        let refusal = era(&[(PROTOCOL_VERSION, "v\"9")], &body("m", &meta, "")).unwrap_err();
        let data = r#"{"supported":["2026-07-28"],"requested":"v\"9"}"#;
        assert_eq!(refusal.data.as_deref(), Some(data.as_bytes()));
    }
}
