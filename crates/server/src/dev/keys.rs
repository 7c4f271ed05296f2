//! The secrets of a data folder: made at the first start, the same ever after.

use super::DevError;
use crate::mint::{TokenOptions, mint};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A lifetime nobody trying things out will see the end of.
const LIFETIME_S: i64 = 10 * 365 * 24 * 3_600;
const FILE: &str = "keys.json";

#[derive(Serialize, Deserialize)]
pub(super) struct Keys {
    pub(super) jwt_secret: String,
    pub(super) postgres_password: String,
}

impl Keys {
    /// The keys in `folder`, new ones if there are none.
    pub(super) fn load(folder: &Path) -> Result<Self, DevError> {
        let path = folder.join(FILE);
        let unusable = |error| DevError::Folder {
            folder: folder.to_owned(),
            error,
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => return serde_json::from_str(&text).map_err(|error| unusable(error.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(error)),
        }
        let keys = Self {
            jwt_secret: random(),
            postgres_password: random(),
        };
        let text = serde_json::to_string(&keys).map_err(|error| unusable(error.into()))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(unusable)?;
        Ok(keys)
    }

    /// A key for a role, and for a user if given.
    pub(super) fn key(&self, role: &str, user: Option<&str>) -> Result<String, DevError> {
        Ok(mint(&TokenOptions {
            api_jwt_secret: Some(self.jwt_secret.clone()),
            role: role.to_owned(),
            sub: user.map(str::to_owned),
            lifetime: LIFETIME_S,
            claims: None,
        })?)
    }
}

/// A random secret of 40 letters and digits.
fn random() -> String {
    (0..5).map(|_| format!("{:08x}", rand::random::<u32>())).collect()
}
