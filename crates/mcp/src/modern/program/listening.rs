//! Implements `subscriptions/listen` for programs of earlier versions, by sending their notifications to
//! the calls that listen.

use std::collections::HashMap;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Dialect, Notification, elements, locate, member, members, write_notification, write_result,
};

use super::{Call, ModernProgram};
use crate::modern::json::{object, quoted, string};
use crate::modern::meta;

/// The maximum number of resources that one request listens to.
const MAX_RESOURCES: usize = 256;
/// The maximum length of the URI of such a resource.
const MAX_URI: usize = 4096;

/// The notifications that a request listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listening {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
}

/// The notifications that a program of an earlier version sends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announces {
    tools: bool,
    prompts: bool,
    resources: bool,
    updates: bool,
}

/// The resources that the program was asked to watch, with the number of requests that listen to each.
pub(super) type Watched = HashMap<String, usize>;

impl Announces {
    /// Reads the notifications from the capabilities of a server.
    pub(super) fn of(capabilities: &[u8]) -> Self {
        let has = |path: &[&str]| locate(capabilities, path) == Ok(Some(b"true"));
        Self {
            tools: has(&["tools", "listChanged"]),
            prompts: has(&["prompts", "listChanged"]),
            resources: has(&["resources", "listChanged"]),
            updates: has(&["resources", "subscribe"]),
        }
    }
}

impl Listening {
    /// Reads the filter in the parameters of a request. Notifications that the program does not send are
    /// left out.
    fn of(params: &[u8], announces: Announces) -> Self {
        let filter = member(params, "notifications").unwrap_or_default();
        let wants = |name| locate(filter, &[name]) == Ok(Some(b"true"));
        let uris = locate(filter, &["resourceSubscriptions"]).ok().flatten();
        let uris = uris.map(Bytes::copy_from_slice).filter(|_| announces.updates);
        let uris = uris.as_ref().and_then(elements).unwrap_or_default();
        let mut uris: Vec<_> = uris
            .iter()
            .filter_map(|uri| Some(string(uri)?.into_owned()))
            .filter(|uri| uri.len() <= MAX_URI)
            .take(MAX_RESOURCES)
            .collect();
        uris.sort_unstable();
        uris.dedup();
        Self {
            tools: announces.tools && wants("toolsListChanged"),
            prompts: announces.prompts && wants("promptsListChanged"),
            resources: announces.resources && wants("resourcesListChanged"),
            uris,
        }
    }

    /// Returns the bytes that it holds, including the program's list of watched resources.
    pub(super) fn held(&self) -> usize {
        self.uris.iter().map(|uri| 2 * (uri.len() + size_of::<String>())).sum()
    }

    fn granted(&self) -> Vec<u8> {
        let uris: Vec<_> = self.uris.iter().map(|uri| quoted(uri)).collect();
        let uris = format!("[{}]", uris.join(","));
        let granted = [
            ("toolsListChanged", self.tools, "true"),
            ("promptsListChanged", self.prompts, "true"),
            ("resourcesListChanged", self.resources, "true"),
            ("resourceSubscriptions", !self.uris.is_empty(), &uris),
        ];
        object(granted.iter().filter(|it| it.1).map(|it| (it.0, it.2.as_bytes())))
    }

    fn wants(&self, method: &str, params: &[u8]) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            "notifications/resources/updated" => {
                let uri = member(params, "uri").and_then(string);
                uri.is_some_and(|uri| self.uris.iter().any(|it| *it == uri))
            }
            _ => false,
        }
    }
}

impl ModernProgram {
    /// Starts listening for a call.
    pub(super) fn listen(&mut self, number: u64, params: &[u8]) {
        let listening = Listening::of(params, self.legacy.announces);
        let Some(call) = self.calls.get(&number) else { return };
        let tag = object([(meta::SUBSCRIPTION, call.id())]);
        let acknowledged =
            object([("_meta", &tag[..]), ("notifications", &listening.granted()[..])]);
        self.update(number, |call| call.listen(listening.clone()));
        for uri in listening.uris {
            let count = self.legacy.watched.entry(uri.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.watch("resources/subscribe", &uri);
            }
        }
        let method = "notifications/subscriptions/acknowledged";
        self.push(number, write_notification(&Dialect::MCP, method, Some(&acknowledged)).into());
    }

    fn watch(&mut self, method: &str, uri: &str) {
        let params = object([("uri", quoted(uri).as_bytes())]);
        self.send_request(method, &params);
    }

    /// Ends the listening of a call, and stops watching the resources that no other call listens to.
    /// Returns false if the call did not listen, or if the program itself serves it.
    pub(super) fn stop_listening(&mut self, number: u64) -> bool {
        let Some(Some(listening)) = self.update(number, Call::take_listening) else { return false };
        for uri in listening.uris {
            let Some(count) = self.legacy.watched.get_mut(&uri) else { continue };
            *count -= 1;
            if *count == 0 {
                self.legacy.watched.remove(&uri);
                self.watch("resources/unsubscribe", &uri);
            }
        }
        true
    }

    /// Sends a notification from a program of an earlier version to the calls that listen to it.
    pub(super) fn announce(&mut self, notification: &Notification) {
        let (method, params) = (notification.method(), notification.params().unwrap_or(b"{}"));
        let wants = |call: &Call| call.listening().is_some_and(|it| it.wants(&method, params));
        let listeners: Vec<_> =
            self.calls.iter().filter(|(_, call)| wants(call)).map(|(number, _)| *number).collect();
        for number in listeners {
            let Some(call) = self.calls.get(&number) else { continue };
            let tagged = tagged(params, call.id());
            self.push(number, write_notification(&Dialect::MCP, &method, Some(&tagged)).into());
        }
    }

    /// Ends a call that listens with a result. Returns false if the call does not listen.
    pub(super) fn end_listening(&mut self, number: u64) -> bool {
        let Some(call) = self.calls.get(&number) else { return false };
        if call.method != "subscriptions/listen" {
            return false;
        }
        let id = call.id();
        let tag = object([(meta::SUBSCRIPTION, id)]);
        let result = object([("resultType", &b"\"complete\""[..]), ("_meta", &tag)]);
        let message = write_result(&Dialect::MCP, id, &result);
        self.respond(number, 200, message.into());
        true
    }
}

/// Adds the tag of the call that listens to the parameters of a notification.
fn tagged(params: &[u8], id: &[u8]) -> Vec<u8> {
    let params = members(params).unwrap_or_default();
    let in_meta = params.iter().find(|(name, _)| name == "_meta");
    let in_meta = in_meta.and_then(|(_, value)| members(value)).unwrap_or_default();
    let in_meta = in_meta.iter().filter(|(name, _)| name != meta::SUBSCRIPTION);
    let in_meta = in_meta.map(|(name, value)| (&**name, *value));
    let in_meta = object([(meta::SUBSCRIPTION, id)].into_iter().chain(in_meta));
    let others = params.iter().filter(|(name, _)| name != "_meta");
    let others = others.map(|(name, value)| (&**name, *value));
    object([("_meta", &in_meta[..])].into_iter().chain(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_notification_keeps_the_parameters_and_the_metadata_of_the_program() {
        let tag = meta::SUBSCRIPTION;
        for (params, expected) in [
            ("{}".to_owned(), format!(r#"{{"_meta":{{"{tag}":7}}}}"#)),
            (r#"{"uri":"u"}"#.to_owned(), format!(r#"{{"_meta":{{"{tag}":7}},"uri":"u"}}"#)),
            (
                format!(r#"{{"_meta":{{"{tag}":1,"x":[2]}},"uri":"u"}}"#),
                format!(r#"{{"_meta":{{"{tag}":7,"x":[2]}},"uri":"u"}}"#),
            ),
            (r#"{"_meta":3}"#.to_owned(), format!(r#"{{"_meta":{{"{tag}":7}}}}"#)),
        ] {
            assert_eq!(tagged(params.as_bytes(), b"7"), expected.as_bytes(), "{params}");
        }
    }
}
