//! Parsers of option values.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use tieline_gateway::{Overflow, UnknownOverflow};
use tieline_proto::{ByteSize, ByteSizeError, FramingKind, RestartPolicy};
use tieline_rpc::Dialect;
use tieline_transport::{Address, ChannelConfig, Endpoint};

pub(super) fn dialect(name: &str) -> Result<Dialect, String> {
    let found = Dialect::ALL.into_iter().find(|dialect| dialect.name == name);
    let names: Vec<_> = Dialect::ALL.iter().map(|dialect| dialect.name).collect();
    found.ok_or_else(|| format!("unknown dialect; use one of {}", names.join(", ")))
}

pub(super) fn restart_policy(
    name: &str,
) -> Result<RestartPolicy, tieline_proto::UnknownRestartPolicy> {
    name.parse()
}

pub(super) fn overflow(name: &str) -> Result<Overflow, UnknownOverflow> {
    name.parse()
}

pub(super) fn framing(name: &str) -> Result<FramingKind, tieline_proto::UnknownFraming> {
    name.parse()
}

/// Returns a parser that accepts only existing directories.
pub(super) fn directory() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| {
        let path = PathBuf::from(text);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(path),
            Ok(_) => Err("not a directory".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err("the directory does not exist; create it first, or pass another".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    })
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("must be between 0 and 1, for example 0.05 for 5 % of the bytes".into()),
    }
}

pub(super) fn method(name: &str) -> Result<String, String> {
    match name {
        "" => {
            Err("the name of the method is empty; write it after the endpoint, for example add"
                .into())
        }
        _ => Ok(name.to_owned()),
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a whole number above 0".into())
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("not of the form NAME=VALUE".into()),
    }
}

pub(super) fn variable_name(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains('=') {
        true => Err("not a variable name".into()),
        false => Ok(name.into()),
    }
}

pub(super) fn message_size(text: &str) -> Result<ByteSize, String> {
    let max_message = text.parse().map_err(|error: ByteSizeError| error.to_string())?;
    valid(ChannelConfig { max_message, ..ChannelConfig::default() })?;
    Ok(max_message)
}

pub(super) fn stall_timeout(text: &str) -> Result<Duration, String> {
    let stall_timeout = duration(text).map_err(|error| error.to_string())?;
    valid(ChannelConfig { stall_timeout, ..ChannelConfig::default() })?;
    Ok(stall_timeout)
}

/// Validates a configuration. The error does not contain the field's name, which differs from that of
/// the option.
fn valid(config: ChannelConfig) -> Result<(), String> {
    config.validate().map_err(|error| format!("must {}", error.must))
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn up_to_a_day(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if time <= A_DAY => Ok(time),
        Ok(_) => Err("longer than a day".into()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn probe_interval(text: &str) -> Result<Duration, String> {
    match up_to_a_day(text)? {
        time if time < Duration::from_secs(1) => Err("shorter than a second".into()),
        time => Ok(time),
    }
}

/// Returns whether listening on `endpoint` creates a Unix socket.
pub(super) fn is_unix_socket(endpoint: &Endpoint) -> bool {
    matches!(endpoint.address(), Address::Unix(_)) || endpoint.scheme() == "http-unix"
}

pub(super) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_the_first_equals_sign() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        assert_eq!(variable_name("A"), Ok("A".into()));
        assert!(variable_name("").is_err() && variable_name("A=b").is_err());
    }

    #[test]
    fn invalid_channel_limits_are_refused() {
        assert_eq!(message_size("512KiB"), Ok(ByteSize::kib(512)));
        for bad in ["0", "5GiB", "", "much"] {
            assert!(message_size(bad).is_err(), "{bad}");
        }
        assert_eq!(stall_timeout("5m"), Ok(Duration::from_secs(300)));
        for bad in ["0s", "5", "soon"] {
            assert!(stall_timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_are_pinged_at_most_once_a_second() {
        assert_eq!(probe_interval("1s"), Ok(Duration::from_secs(1)));
        for bad in ["0s", "999ms", "2days", "often"] {
            assert!(probe_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_limited_to_a_day() {
        assert_eq!(up_to_a_day("0s"), Ok(Duration::ZERO));
        assert_eq!(up_to_a_day("1day"), Ok(A_DAY));
        for bad in ["1day 1ms", "5", "-1s", "", "soon", "99999999999999999999s"] {
            assert!(up_to_a_day(bad).is_err(), "{bad}");
        }
    }
}
