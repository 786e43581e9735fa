//! Wall-clock times that can be printed.

use std::time::{Duration, SystemTime};

/// The last second of the year 9999, counted from 1970.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Returns the nearest time between 1970 and the year 9999, which RFC 3339 can express. A clock may be set to
/// any time.
pub fn printable(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + since.min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_out_of_range_are_clamped() {
        let day = Duration::from_secs(86_400);
        for (time, text) in [
            (SystemTime::UNIX_EPOCH - day, "1970-01-01T00:00:00Z"),
            (SystemTime::UNIX_EPOCH + day, "1970-01-02T00:00:00Z"),
            (SystemTime::UNIX_EPOCH + LAST + day, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(humantime::format_rfc3339(printable(time)).to_string(), text);
        }
    }
}
