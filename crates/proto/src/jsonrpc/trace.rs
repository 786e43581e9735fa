//! The trace context of a call (W3C Trace Context, `traceparent`).

use std::fmt;
use std::str::FromStr;

/// The value of a `traceparent`: the trace to which a call belongs, and the span that made the call.
///
/// Its text form is `00-TRACE-PARENT-FLAGS`, in lower-case hexadecimal. The known fields of later versions are
/// parsed, as W3C Trace Context, section 3.2.4, requires, and printed as version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

impl TraceParent {
    /// Creates a trace context from a trace id, the id of the calling span, and flags. Bit 0 of the flags
    /// means "sampled". Returns `None` if one of the ids is 0, which is invalid.
    pub fn new(trace: u128, parent: u64, flags: u8) -> Option<Self> {
        (trace != 0 && parent != 0).then_some(Self { trace, parent, flags })
    }

    /// Returns the trace id.
    pub fn trace(&self) -> u128 {
        self.trace
    }

    /// Returns the id of the span that made the call.
    pub fn parent(&self) -> u64 {
        self.parent
    }

    /// Returns whether the caller may have recorded the trace (the "sampled" flag).
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, parent, flags } = self;
        write!(f, "00-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let mut fields = text.splitn(5, '-');
        let mut field = |digits| fields.next().and_then(|field| hex(field, digits));
        let (version, trace) = (field(2), field(32));
        let (parent, flags) = (field(16), field(2));
        match (version, trace, parent, flags, fields.next()) {
            (Some(0xff), ..) | (Some(0), .., Some(_)) => Err(NoTraceParent),
            (Some(version), Some(trace), Some(parent), Some(flags), _) => {
                // In later versions, only the first flag is known to keep its meaning.
                let known = if version == 0 { 0xff } else { 1 };
                let (parent, flags) = (parent as u64, flags as u8 & known);
                Self::new(trace, parent, flags).ok_or(NoTraceParent)
            }
            _ => Err(NoTraceParent),
        }
    }
}

/// Parses exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex && text.len() == digits).then(|| u128::from_str_radix(text, 16).ok())?
}

/// The error for text that is not a valid [`TraceParent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTraceParent;

impl fmt::Display for NoTraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not of the form 00-TRACE-PARENT-FLAGS, with 32, 16 and 2 lower-case hexadecimal digits")
    }
}

impl std::error::Error for NoTraceParent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_text_is_parsed_and_printed_and_other_text_is_refused() {
        const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceParent = VALID.parse().unwrap();
        assert_eq!(trace.to_string(), VALID);
        assert_eq!(trace.trace(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((trace.parent(), trace.is_sampled()), (0x00f0_67aa_0ba9_02b7, true));
        let later = VALID.replacen("00", "cc", 1) + "-what-comes-then";
        assert_eq!(later.parse(), Ok(trace));
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b70-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1é",
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(NoTraceParent), "{wrong}");
        }
    }
}
