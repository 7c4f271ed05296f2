//! What a presence carries.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use walcast_protocol::quoted;

/// Tells one meta from every other, on all nodes: `phx_ref`. New with every change (`protocol.md 6.2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaRef(pub(crate) [u8; 12]);

impl MetaRef {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    pub(crate) fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

/// What one channel tracks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) reference: MetaRef,
    /// The meta that members saw before, if this one is an update of it.
    pub(crate) previous: Option<MetaRef>,
    /// The members of the tracked object: its JSON text without the braces.
    pub(crate) fields: Box<str>,
}

/// What is kept beside the text, roughly.
const OVERHEAD_BYTES: usize = 128;

impl Meta {
    pub(crate) fn new(previous: Option<MetaRef>, fields: &str) -> Self {
        Self {
            reference: MetaRef::random(),
            previous,
            fields: fields.into(),
        }
    }

    /// What it weighs in its topic's limit.
    pub(crate) fn bytes(&self) -> usize {
        self.fields.len() + OVERHEAD_BYTES
    }

    /// Appends the JSON object that clients get.
    pub(crate) fn render(&self, out: &mut String) {
        out.push_str(r#"{"phx_ref":""#);
        out.push_str(&self.reference.text());
        if let Some(previous) = self.previous {
            out.push_str(r#"","phx_ref_prev":""#);
            out.push_str(&previous.text());
        }
        out.push('"');
        if !self.fields.is_empty() {
            out.push(',');
            out.push_str(&self.fields);
        }
        out.push('}');
    }
}

/// Appends `{"key":{"metas":[…]},…}`; metas of one key must be next to each other.
pub(crate) fn render_keys<'m>(metas: impl Iterator<Item = (&'m str, &'m Meta)>, out: &mut String) {
    out.push('{');
    let mut open: Option<&str> = None;
    for (key, meta) in metas {
        match open {
            Some(current) if current == key => out.push(','),
            other => {
                if other.is_some() {
                    out.push_str("]},");
                }
                out.push_str(&quoted(key));
                out.push_str(r#":{"metas":["#);
                open = Some(key);
            }
        }
        meta.render(out);
    }
    if open.is_some() {
        out.push_str("]}");
    }
    out.push('}');
}
