//! Sizes in bytes in a readable form: `16MiB`, `200kB`, `512`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// Parses a whole number with an optional unit, in upper or lower case: `B`, `KiB`/`K`, `MiB`/`M`,
/// `GiB`/`G` (powers of 1024) and `kB`, `MB`, `GB` (powers of 1000). `Display` uses the largest binary
/// unit that divides the size, so that parsing the text returns the same size.
///
/// ```
/// use tieline_proto::ByteSize;
///
/// let size: ByteSize = "16MiB".parse()?;
/// assert_eq!(size.bytes(), 16 * 1024 * 1024);
/// assert_eq!(size.to_string(), "16MiB");
/// # Ok::<(), tieline_proto::ByteSizeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(usize);

impl ByteSize {
    /// Creates a size of `n` bytes.
    pub const fn new(n: usize) -> Self {
        Self(n)
    }

    /// Creates a size of `n` × 1,024 bytes, at most `usize::MAX`.
    pub const fn kib(n: usize) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// Creates a size of `n` × 1,048,576 bytes, at most `usize::MAX`.
    pub const fn mib(n: usize) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

const BINARY_UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in BINARY_UNITS {
            if self.0 >= size && self.0 % size == 0 {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(ByteSizeError),
        };
        let number: usize = number.parse().map_err(|_| ByteSizeError)?;
        number.checked_mul(factor).map(Self).ok_or(ByteSizeError)
    }
}

/// The error for text that is not a valid [`ByteSize`], or whose size does not fit into `usize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSizeError;

impl fmt::Display for ByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a size in bytes; write a whole number with an optional unit, like 512, 64KiB or 16MiB")
    }
}

impl std::error::Error for ByteSizeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_parse_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1b", 1),
            ("4K", 4096),
            ("4kib", 4096),
            ("4kB", 4000),
            (" 16 MiB ", 16 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
    }

    #[test]
    fn invalid_text_and_overflow_are_errors() {
        for text in
            ["", "MiB", "-1", "1.5MiB", "12XB", "99999999999999999999", "18446744073709551615GiB"]
        {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn displayed_size_parses_back(bytes: usize) {
            let size = ByteSize::new(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
