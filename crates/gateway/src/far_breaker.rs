//! The circuit breaker of a server's far sides, with the reason why the last of them failed.

use std::fmt;
use std::sync::{Arc, Mutex};

use tieline_link::{BreakerOpen, CallPermit, SharedBreaker};
use tieline_transport::{CloseReason, TransportError};

use crate::lock::lock;
use crate::unanswered::MAX_STDERR;

/// Starts no far sides for a while after several have failed. Clones refer to the same breaker.
#[derive(Clone)]
pub(crate) struct FarBreaker {
    breaker: SharedBreaker,
    last: Arc<Mutex<Option<FarFailure>>>,
}

impl FarBreaker {
    pub(crate) fn new(breaker: SharedBreaker) -> Self {
        Self { breaker, last: Arc::default() }
    }

    /// Requests permission to start a far side.
    pub(crate) fn acquire(&self) -> Result<FarPermit, KeepsFailing> {
        match self.breaker.acquire() {
            Ok(permit) => Ok(FarPermit { permit, last: Arc::clone(&self.last) }),
            Err(open) => Err(KeepsFailing { open, last: lock(&self.last).clone() }),
        }
    }
}

/// The permission to start a far side. Dropping it says nothing about whether the far side works.
#[must_use = "dropping the permit says nothing about the far side"]
pub(crate) struct FarPermit {
    permit: CallPermit,
    last: Arc<Mutex<Option<FarFailure>>>,
}

impl FarPermit {
    pub(crate) fn passed(self) {
        self.permit.passed();
    }

    pub(crate) fn failed(self, why: FarFailure) {
        // A client that is refused because of this failure gets its reason.
        *lock(&self.last) = Some(why);
        self.permit.failed();
    }
}

/// Why a far side failed.
#[derive(Clone)]
pub(crate) struct FarFailure {
    text: Arc<str>,
    /// How its process ended, as JSON.
    exit: Option<Arc<str>>,
}

impl From<&CloseReason> for FarFailure {
    fn from(reason: &CloseReason) -> Self {
        let exit = reason.child_exit().map(|exit| exit.to_json(MAX_STDERR).into());
        Self { text: reason.to_string().into(), exit }
    }
}

impl From<&TransportError> for FarFailure {
    fn from(error: &TransportError) -> Self {
        Self { text: error.to_string().into(), exit: None }
    }
}

/// The reason why no far side is started. The alternate form (`{:#}`) omits why the last one failed, which may contain
/// output of a program.
pub(crate) struct KeepsFailing {
    open: BreakerOpen,
    last: Option<FarFailure>,
}

impl KeepsFailing {
    /// Returns how the process of the last far side ended, as JSON.
    pub(crate) fn exit(&self) -> Option<String> {
        Some(self.last.as_ref()?.exit.as_deref()?.to_owned())
    }
}

impl fmt::Display for KeepsFailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.open.fmt(f)?;
        match &self.last {
            Some(last) if !f.alternate() => write!(f, ". The last failure: {}", last.text),
            _ => Ok(()),
        }
    }
}
