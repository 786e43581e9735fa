//! Why an operation on the bus failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::{ByteSize, Count};

use crate::subject::SubjectError;

/// The error of an operation on a [`Bus`](crate::Bus).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The rights of this client do not include the operation.
    Denied {
        /// The operation.
        operation: Operation,
        /// The subject or pattern.
        subject: Arc<str>,
    },
    /// The name of a group is not a single token.
    Group(SubjectError),
    /// The message exceeds the limit. Nothing was published.
    TooLarge {
        /// The size of its payload and headers.
        bytes: usize,
        /// The limit.
        limit: ByteSize,
    },
    /// The queue that was requested for a subscription is longer than allowed.
    QueueTooLong {
        /// The limit in messages.
        messages: usize,
        /// The limit in bytes.
        bytes: ByteSize,
    },
    /// There are too many subscriptions.
    TooManySubscriptions {
        /// The limit.
        limit: usize,
        /// Whether it is the limit of this client, and not that of the bus.
        of_client: bool,
    },
    /// Too many requests wait for an answer.
    TooManyRequests {
        /// The limit.
        limit: usize,
    },
    /// No subscription matches the subject of the request. Nothing was published.
    NoResponders {
        /// The subject.
        subject: Arc<str>,
    },
    /// No answer was published in time. A responder may have the request; it gets a cancellation.
    Timeout {
        /// The subject.
        subject: Arc<str>,
        /// How long the request waited.
        after: Duration,
    },
    /// The request was cancelled. A responder may have the request; it gets a cancellation.
    Cancelled {
        /// The subject.
        subject: Arc<str>,
    },
    /// The subscriptions that had the request have ended, or have dropped it, without an answer.
    ResponderLost {
        /// The subject.
        subject: Arc<str>,
        /// Whether a responder had taken the request, so that its effects are unknown. Otherwise the
        /// request can be repeated safely.
        taken: bool,
    },
    /// The bus was closed.
    Closed,
    /// The connection to the broker has ended.
    Disconnected {
        /// Why.
        reason: Arc<str>,
    },
    /// The broker has reported an error that this version does not know.
    Other {
        /// Its text.
        text: Arc<str>,
    },
}

/// An operation that needs a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Publishing a message or request.
    Publish,
    /// Subscribing.
    Subscribe,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { operation: Operation::Publish, subject } => write!(
                f,
                "permission denied: cannot publish to {subject}. Allow the subject in the rights of \
                 this client"
            ),
            Self::Denied { operation: Operation::Subscribe, subject } => write!(
                f,
                "permission denied: cannot subscribe to {subject}. Allow a pattern that covers it in \
                 the rights of this client"
            ),
            Self::Group(error) => write!(f, "invalid name of a group: {error}"),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "the message has {bytes} bytes, and the limit is {limit}. Send a smaller message, or \
                 raise the broker's limit"
            ),
            Self::QueueTooLong { messages, bytes } => {
                write!(f, "a queue may have at most {messages} messages and {bytes}")
            }
            Self::TooManySubscriptions { limit, of_client } => {
                let owner = if *of_client { "this client" } else { "the bus" };
                write!(
                    f,
                    "{owner} has its maximum of {}. Use a wildcard for several subjects, or raise the \
                     limit",
                    Count(*limit as u64, "subscription")
                )
            }
            Self::TooManyRequests { limit } => write!(
                f,
                "{} wait for an answer, which is the limit. Wait until some are answered",
                Count(*limit as u64, "request")
            ),
            Self::NoResponders { subject } => {
                write!(f, "no subscriber responds to {subject}. Start one, or check the subject")
            }
            Self::Timeout { subject, after } => {
                write!(f, "no answer to the request to {subject} within {after:?}")
            }
            Self::Cancelled { subject } => write!(f, "the request to {subject} was cancelled"),
            Self::ResponderLost { subject, taken: true } => write!(
                f,
                "the responder to {subject} is gone; it may have processed the request. Repeat the \
                 request only if it is safe to process twice"
            ),
            Self::ResponderLost { subject, taken: false } => write!(
                f,
                "the responder to {subject} is gone, and had not taken the request. Repeat the request"
            ),
            Self::Closed => f.write_str("the bus is closed"),
            Self::Disconnected { reason } => {
                write!(f, "the connection to the broker has ended: {reason}")
            }
            Self::Other { text } => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
