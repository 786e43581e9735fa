//! How several clients can share one program, as data of a dialect.

/// Whether several clients can use one program at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// They cannot, for this reason: a sentence about the program.
    Impossible(&'static str),
    /// They can, under these rules.
    Possible(&'static SharingRules),
}

/// What has to be done with the messages of clients that share a program, besides replacing ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharingRules {
    /// Requests of the program that every client answers with an empty object.
    pub answered: &'static [&'static str],
    /// Requests of the program, and the capability that a client must have declared in its handshake to
    /// receive them.
    pub needs: &'static [(&'static str, &'static str)],
    /// The notification about a [thing](super::Handshake::things), for the clients that have opened it. The
    /// path of the thing's name is the same in all its messages.
    pub updated: Option<&'static str>,
    /// A level that the program has once, and each client for itself.
    pub level: Option<&'static LevelRules>,
    /// Requests that stay open and whose notifications are tagged with their id.
    pub listening: Option<&'static ListenRules>,
}

/// A level below which a program sends nothing, such as the level of log messages.
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
    /// The index of the level of clients that have set none, once another client has set one.
    pub default: usize,
}

/// Requests that stay open and whose notifications are tagged with their id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenRules {
    /// The request.
    pub request: &'static str,
    /// The path of the tag in the parameters of notifications and in the result.
    pub tag: &'static [&'static str],
}

impl SharingRules {
    /// JSON-RPC without a handshake: nothing is known besides ids.
    pub(super) const PLAIN: Self =
        Self { answered: &[], needs: &[], updated: None, level: None, listening: None };

    /// The Model Context Protocol, 2024-11-05 to 2026-07-28.
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
