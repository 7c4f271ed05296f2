//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A log sequence number: bytes since the beginning of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Text that is no log sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a log sequence number is written as two hexadecimal numbers, like 16/B374D848")]
pub struct LsnError;

/// As Postgres prints it: `16/B374D848`.
impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        let number = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| LsnError);
        Ok(Self(u64::from(number(high)?) << 32 | u64::from(number(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_print_and_read_as_in_postgres() {
        for (lsn, text) in [
            (Lsn(0), "0/0"),
            (Lsn(0x16_B374_D848), "16/B374D848"),
            (Lsn(u64::MAX), "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(lsn.to_string(), text);
            assert_eq!(text.parse(), Ok(lsn));
        }
        for text in ["", "16", "16/", "/", "G/0", "1/100000000"] {
            assert_eq!(text.parse::<Lsn>(), Err(LsnError), "{text}");
        }
    }
}
