//! What a client may publish and subscribe to.

use std::sync::Arc;

use crate::error::{Error, Operation};
use crate::subject::{Pattern, Subject};

/// The rights of a client. Without rules it may do nothing.
///
/// Every client may make requests to subjects that it may publish to, and answer the requests that it
/// receives; this needs no right to inboxes. No client can subscribe to inboxes. The subjects that begin
/// with `tl` are allowed only by patterns that begin with `tl`, because wildcards do not match them.
///
/// ```
/// use tieline_bus::Rights;
///
/// let rights = Rights::none().allow_publish("jobs.>".parse()?).allow_subscribe("events.*".parse()?);
/// assert!(rights.may_publish(&"jobs.build".parse()?));
/// assert!(!rights.may_subscribe(&"events.>".parse()?));
/// assert!(!Rights::user().may_subscribe(&"tl.>".parse()?));
/// # Ok::<(), tieline_bus::SubjectError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Rights {
    publish: Vec<Pattern>,
    subscribe: Vec<Pattern>,
    is_all: bool,
}

impl Rights {
    /// Returns the rights of a client that may do nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns the rights for processes of the user that runs the broker: everything except the subjects
    /// that begin with `tl`, and inboxes.
    pub fn user() -> Self {
        match Pattern::new(">") {
            Ok(all) => Self::none().allow_publish(all.clone()).allow_subscribe(all),
            Err(_) => Self::none(),
        }
    }

    /// Returns the rights of the process that runs the broker: everything except inboxes.
    pub fn all() -> Self {
        Self { is_all: true, ..Self::default() }
    }

    /// Adds the right to publish to the subjects that this pattern matches.
    pub fn allow_publish(mut self, pattern: Pattern) -> Self {
        self.publish.push(pattern);
        self
    }

    /// Adds the right to subscribe to this pattern, and to every pattern that it covers.
    pub fn allow_subscribe(mut self, pattern: Pattern) -> Self {
        self.subscribe.push(pattern);
        self
    }

    /// Returns whether these rights include publishing to the subject.
    pub fn may_publish(&self, subject: &Subject) -> bool {
        subject.inbox_of().is_none()
            && (self.is_all || self.publish.iter().any(|it| it.matches(subject)))
    }

    /// Returns whether these rights include subscribing to the pattern.
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        !pattern.is_of_inboxes()
            && (self.is_all || self.subscribe.iter().any(|it| it.covers(pattern)))
    }

    pub(crate) fn check_publish(&self, subject: &Subject) -> Result<(), Error> {
        let denied = || denied(Operation::Publish, subject.as_str());
        if self.may_publish(subject) { Ok(()) } else { Err(denied()) }
    }

    pub(crate) fn check_subscribe(&self, pattern: &Pattern) -> Result<(), Error> {
        let denied = || denied(Operation::Subscribe, pattern.as_str());
        if self.may_subscribe(pattern) { Ok(()) } else { Err(denied()) }
    }
}

pub(crate) fn denied(operation: Operation, subject: &str) -> Error {
    Error::Denied { operation, subject: Arc::from(subject) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_limited_to_their_rules() {
        let some = Rights::none()
            .allow_publish("a.>".parse().unwrap())
            .allow_subscribe("b.*".parse().unwrap());
        for (rights, subject, expected) in [
            (&Rights::none(), "a", false),
            (&Rights::user(), "a.b", true),
            (&Rights::user(), "tl.svc.a.open", false),
            (&Rights::user(), "_INBOX.1", false),
            (&Rights::all(), "tl.svc.a.open", true),
            (&Rights::all(), "_INBOX.1", false),
            (&some, "a.b.c", true),
            (&some, "b.c", false),
        ] {
            assert_eq!(rights.may_publish(&subject.parse().unwrap()), expected, "{subject}");
        }
        for (rights, pattern, expected) in [
            (&Rights::none(), "a", false),
            (&Rights::user(), ">", true),
            (&Rights::user(), "tl.>", false),
            (&Rights::user(), "_INBOX.>", false),
            (&Rights::all(), "tl.>", true),
            (&Rights::all(), "_INBOX.>", false),
            (&some, "b.*", true),
            (&some, "b.>", false),
            (&some, ">", false),
        ] {
            assert_eq!(rights.may_subscribe(&pattern.parse().unwrap()), expected, "{pattern}");
        }
    }
}
