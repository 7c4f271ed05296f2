//! What kind of body a request says it has, which decides whether it is read (`protocol.md 5.6`, `5.7`).

use axum::http::{HeaderMap, header};

/// The kind of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// No `content-type`.
    Absent,
    /// `application/json`.
    Json,
    /// `application/…+json`: must be JSON, though only the batch can make something of it.
    JsonSuffix,
    /// `application/octet-stream`.
    Bytes,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/…`, with its boundary.
    Multipart(String),
    /// Anything else, and what is no media type.
    Other,
}

impl MediaType {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Self::Absent;
        };
        let value = value.to_str().unwrap_or_default();
        let mut parts = value.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        match name.split_once('/') {
            Some(("application", "json")) => Self::Json,
            Some(("application", "octet-stream")) => Self::Bytes,
            Some(("application", "x-www-form-urlencoded")) => Self::Form,
            Some(("application", kind)) if kind.ends_with("+json") => Self::JsonSuffix,
            Some(("multipart", _)) => {
                let boundary = parts.find_map(|part| {
                    let (name, value) = part.split_once('=')?;
                    name.eq_ignore_ascii_case("boundary").then_some(value)
                });
                Self::Multipart(boundary.unwrap_or_default().trim_matches('"').to_owned())
            }
            _ => Self::Other,
        }
    }
}

/// Whether a body is multipart at all: its last line says so. Nothing here looks at the parts.
pub(super) fn is_multipart(body: &[u8], boundary: &str) -> bool {
    let end = format!("--{boundary}--");
    let body = body.trim_ascii_end();
    !boundary.is_empty() && body.ends_with(end.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_content_type_is_known_in_any_case_and_with_parameters() {
        for (value, expected) in [
            ("application/json", MediaType::Json),
            ("Application/JSON; charset=utf-8", MediaType::Json),
            ("application/vnd.api+json", MediaType::JsonSuffix),
            ("application/octet-stream", MediaType::Bytes),
            ("application/x-www-form-urlencoded", MediaType::Form),
            (
                "multipart/form-data; boundary=x",
                MediaType::Multipart("x".to_owned()),
            ),
            (
                "multipart/form-data; a=b; Boundary=\"x y\"",
                MediaType::Multipart("x y".to_owned()),
            ),
            ("multipart/form-data", MediaType::Multipart(String::new())),
            ("text/plain", MediaType::Other),
            ("text/json", MediaType::Other),
            ("nonsense", MediaType::Other),
            ("", MediaType::Other),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(MediaType::of(&headers), expected, "{value:?}");
        }
        assert_eq!(MediaType::of(&HeaderMap::new()), MediaType::Absent);
    }

    #[test]
    fn a_multipart_body_ends_with_its_boundary() {
        assert!(is_multipart(b"--x\r\n\r\na\r\n--x--\r\n", "x"));
        assert!(!is_multipart(b"x=1", "x"));
        assert!(!is_multipart(b"----", ""));
    }
}
