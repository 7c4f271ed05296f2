//! The serializer a socket speaks (`protocol.md 1.3`).

use thiserror::Error;

/// A serializer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// `vsn=1.0.*`: JSON objects.
    V1,
    /// `vsn=2.0.*`: JSON arrays, and binary user broadcasts.
    V2,
}

/// The `vsn` is no version, or not one we speak.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("vsn {0:?} is not supported: use 1.0.0 or 2.0.0")]
pub struct UnsupportedVersion(String);

impl Version {
    /// What a socket without `vsn` speaks.
    pub const DEFAULT: Self = Self::V1;

    /// Reads `vsn`: a full `x.y.z` semantic version that is `1.0.*` or `2.0.*`.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse(vsn: &str) -> Result<Self, UnsupportedVersion> {
        let unsupported = || UnsupportedVersion(vsn.chars().take(32).collect());
        let core = vsn
            .split_once('+')
            .map_or(vsn, |(core, build)| if build.is_empty() { vsn } else { core });
        // A pre-release comes before its version, so `2.0.0-rc.1` is not a `2.0.*`.
        let numbers: Vec<&str> = core.split('.').collect();
        let is_number = |text: &&str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_digit())
                && (text.len() == 1 || !text.starts_with('0'))
        };
        match numbers.as_slice() {
            [major, "0", patch] if is_number(patch) => match *major {
                "1" => Ok(Self::V1),
                "2" => Ok(Self::V2),
                _ => Err(unsupported()),
            },
            _ => Err(unsupported()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_versions_1_0_and_2_0_are_spoken_and_nothing_else() {
        for (vsn, version) in [
            ("1.0.0", Version::V1),
            ("1.0.7", Version::V1),
            ("2.0.0", Version::V2),
            ("2.0.12", Version::V2),
            ("2.0.0+build", Version::V2),
        ] {
            assert_eq!(Version::parse(vsn), Ok(version), "{vsn}");
        }
        for vsn in [
            "",
            "2",
            "2.0",
            "3.0.0",
            "1.1.0",
            "2.0.0-rc.1",
            "2.0.x",
            "2.0.01",
            "02.0.0",
            " 2.0.0",
            "2.0.0.0",
            "2.0.0+",
            "2.0.-1",
        ] {
            assert!(Version::parse(vsn).is_err(), "{vsn}");
        }
    }
}
