//! The rules of a dialect for sharing one program between several clients, expressed as data.

/// The answer to whether several clients can use one program at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// Several clients cannot use one program. The text is the reason.
    Impossible(&'static str),
    /// Several clients can use one program, under these rules.
    Possible(&'static SharingRules),
}

/// The handling of messages between a program and the clients that share it, besides replacing ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharingRules {
    /// Requests of the program that every client answers with an empty object.
    pub answered: &'static [&'static str],
    /// Requests of the program, and the capability that a client must have declared in its handshake to
    /// receive them.
    pub needs: &'static [(&'static str, &'static str)],
    /// The notification about a [thing](super::Handshake::things), which is sent to the clients that
    /// have opened the thing. The path of the thing's name is the same in all these messages.
    pub updated: Option<&'static str>,
    /// A level that each client sets for itself, but that the program has only once.
    pub level: Option<&'static LevelRules>,
    /// Requests that stay open, and whose notifications are tagged with the request's id.
    pub listening: Option<&'static ListenRules>,
}

/// A level below which a program sends no notifications, such as the level of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelRules {
    /// The request that sets it.
    pub request: &'static str,
    /// The notification that has a level.
    pub notification: &'static str,
    /// The member of both that holds the level.
    pub member: &'static str,
    /// The levels, the most verbose first.
    pub levels: &'static [&'static str],
    /// The index of the level that applies to clients that have set none, once another client has set
    /// one.
    pub default: usize,
}

/// Requests that stay open, and whose notifications are tagged with the request's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenRules {
    /// The request.
    pub request: &'static str,
    /// The path of the tag in the parameters of notifications and in the result.
    pub tag: &'static [&'static str],
}

impl SharingRules {
    /// The rules of JSON-RPC without a handshake, which concern only ids.
    pub(super) const PLAIN: Self =
        Self { answered: &[], needs: &[], updated: None, level: None, listening: None };

    /// The rules of the Model Context Protocol, 2024-11-05 to 2026-07-28.
    pub(super) const MCP: Self = Self {
        answered: &["ping"],
        needs: &[
            ("sampling/createMessage", "sampling"),
            ("elicitation/create", "elicitation"),
            ("roots/list", "roots"),
        ],
        updated: Some("notifications/resources/updated"),
        level: Some(&LevelRules {
            request: "logging/setLevel",
            notification: "notifications/message",
            member: "level",
            levels: &[
                "debug",
                "info",
                "notice",
                "warning",
                "error",
                "critical",
                "alert",
                "emergency",
            ],
            default: 1,
        }),
        listening: Some(&ListenRules {
            request: "subscriptions/listen",
            tag: &["_meta", "io.modelcontextprotocol/subscriptionId"],
        }),
    };
}
