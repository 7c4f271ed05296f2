//! The extensions of a tenant as somebody wants them, judged (`database.md 8.2`).

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cipher::Cipher;
use crate::database::DEFAULT_PUBLICATION;
use crate::draft::has_nul;
use crate::invalid::{BLANK, INVALID, Invalid, TAKEN};
use crate::tenant::{POSTGRES_CDC, POSTGRES_CDC_ALIAS};

/// What must be said, all of it as strings, in the order in which the reference complains; and whether it is encrypted.
const REQUIRED: [(&str, bool); 6] = [
    ("db_password", true),
    ("db_user", true),
    ("db_name", true),
    ("db_port", true),
    ("db_host", true),
    ("region", false),
];

/// A setting of today, and what it was called when the reference began to store it.
const POOL_ALIAS: (&str, &str) = ("postgres_changes_pool", "subcriber_pool_size");

/// More extensions than there are types would be one too many already.
const MAX_EXTENSIONS: usize = 16;

/// An extension to be written. It has no `Debug`, as it is about a password.
#[derive(Serialize)]
pub(crate) struct ExtensionDraft {
    #[serde(rename = "type")]
    kind: &'static str,
    settings: Map<String, Value>,
}

/// The extensions that are wanted; none if nothing is said of them.
pub(crate) fn judge_extensions(
    wanted: &Map<String, Value>,
    cipher: &Cipher,
    invalid: &mut Invalid,
) -> Option<Vec<ExtensionDraft>> {
    let wanted = match wanted.get("extensions")? {
        Value::Null => return None,
        Value::Array(wanted) if wanted.len() <= MAX_EXTENSIONS => wanted,
        _ => {
            invalid.add("extensions", INVALID);
            return Some(Vec::new());
        }
    };
    if wanted.is_empty() {
        invalid.add("extensions", BLANK);
    }
    let mut drafts: Vec<ExtensionDraft> = Vec::new();
    let mut of_each = Vec::new();
    for extension in wanted {
        let judged = judge(extension, cipher).and_then(|draft| {
            match drafts.iter().any(|earlier| earlier.kind == draft.kind) {
                true => Err(Invalid::field("type", TAKEN)),
                false => Ok(draft),
            }
        });
        of_each.push(match judged {
            Ok(draft) => {
                drafts.push(draft);
                Invalid::default()
            }
            Err(invalid) => invalid,
        });
    }
    invalid.add_extensions(of_each);
    Some(drafts)
}

fn judge(wanted: &Value, cipher: &Cipher) -> Result<ExtensionDraft, Invalid> {
    let mut invalid = Invalid::default();
    match wanted.get("type").and_then(Value::as_str) {
        Some(POSTGRES_CDC | POSTGRES_CDC_ALIAS) => {}
        Some(kind) if !kind.trim().is_empty() => invalid.add("type", INVALID),
        _ => invalid.add("type", BLANK),
    }
    let settings = match wanted.get("settings") {
        None | Some(Value::Null) => {
            invalid.add("settings", BLANK);
            Map::new()
        }
        Some(Value::Object(settings)) if !settings.values().any(has_nul) => settings.clone(),
        Some(_) => {
            invalid.add("settings", INVALID);
            Map::new()
        }
    };
    if !invalid.is_empty() {
        return Err(invalid);
    }
    let settings = judge_settings(settings, cipher, &mut invalid);
    if invalid.is_empty() {
        Ok(ExtensionDraft {
            kind: POSTGRES_CDC,
            settings,
        })
    } else {
        Err(invalid)
    }
}

fn judge_settings(
    mut settings: Map<String, Value>,
    cipher: &Cipher,
    invalid: &mut Invalid,
) -> Map<String, Value> {
    for (name, is_sealed) in REQUIRED {
        match judge_setting(name, settings.get(name)) {
            Ok(text) if is_sealed => match cipher.seal(text) {
                Ok(sealed) => drop(settings.insert(name.to_owned(), sealed.as_stored().into())),
                Err(error) => invalid.add("settings", format!("{name} cannot be encrypted: {error}")),
            },
            Ok(_) => {}
            Err(error) => invalid.add("settings", format!("{name} {error}")),
        }
    }
    let (today, stored) = POOL_ALIAS;
    if let Some(size) = settings.remove(today) {
        settings.entry(stored).or_insert(size);
    }
    let defaults = [
        ("poll_interval_ms", json!(100)),
        ("poll_max_changes", json!(100)),
        ("poll_max_record_bytes", json!(1_048_576)),
        ("publication", json!(DEFAULT_PUBLICATION)),
        ("slot_name", json!("supabase_realtime_replication_slot")),
    ];
    for (name, value) in defaults {
        settings.entry(name).or_insert(value);
    }
    settings
}

fn judge_setting<'s>(name: &str, setting: Option<&'s Value>) -> Result<&'s str, &'static str> {
    let text = match setting {
        None | Some(Value::Null) => return Err(BLANK),
        Some(Value::String(text)) => text.as_str(),
        Some(_) => return Err(INVALID),
    };
    match name {
        "db_password" | "region" => Ok(text),
        _ if text.trim().is_empty() => Err(BLANK),
        "db_port" if !text.trim().parse::<u16>().is_ok_and(|port| port > 0) => Err(INVALID),
        _ => Ok(text),
    }
}
