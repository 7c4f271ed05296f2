//! Who sends an HTTP request: the same tokens as on a socket, from the headers of `protocol.md 5.6`.

use axum::http::{HeaderMap, header};

use crate::token::{Claims, TokenError, Verifier};

/// Why a request is refused. The client is told 401 and no more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizeError {
    /// Neither header.
    #[error("no token: send `Authorization: Bearer <jwt>`, or the header `apikey`")]
    Missing,
    /// `Authorization` is not a scheme, one space and a value.
    #[error("the header `Authorization` is not a scheme and one value: send `Authorization: Bearer <jwt>`")]
    Header,
    /// The token is not valid.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Token(#[from] TokenError),
}

impl AuthorizeError {
    /// The code under which the refusal is logged (`protocol.md 12`).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAPIKey",
            Self::Header => "MalformedJWT",
            Self::Token(error) => error.code(),
        }
    }
}

/// Verifies the token of a request: `Authorization: Bearer`, else `apikey`.
///
/// # Errors
/// No token, or one that is not valid. Whatever the cause, the answer is a 401.
pub fn authorize(verifier: &Verifier, headers: &HeaderMap) -> Result<Claims, AuthorizeError> {
    Ok(verifier.verify(request_token(headers)?)?)
}

/// The token of a request, not looked at yet.
///
/// # Errors
/// No token, or a header that holds none.
pub(crate) fn request_token(headers: &HeaderMap) -> Result<&str, AuthorizeError> {
    let value = |name| headers.get(name).map(|value| value.to_str());
    match value(header::AUTHORIZATION.as_str()) {
        None | Some(Ok("")) => {}
        Some(authorization) => {
            let authorization = authorization.map_err(|_| AuthorizeError::Header)?;
            let (scheme, token) = authorization.split_once(' ').ok_or(AuthorizeError::Header)?;
            if token.is_empty() || token.contains(' ') {
                return Err(AuthorizeError::Header);
            }
            if scheme.eq_ignore_ascii_case("bearer") {
                return Ok(token);
            }
        }
    }
    match value("apikey") {
        Some(Ok(token)) => Ok(token),
        Some(Err(_)) => Err(AuthorizeError::Token(TokenError::Malformed)),
        None => Err(AuthorizeError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    /// Section 5.6 of `protocol.md`, header by header.
    #[test]
    fn the_token_is_a_bearers_or_the_apikey() {
        type Headers<'a> = &'a [(&'a str, &'a [u8])];
        let cases: [(Headers<'_>, Result<&str, AuthorizeError>); 16] = [
            (&[], Err(AuthorizeError::Missing)),
            (&[("authorization", b"Bearer a.b.c")], Ok("a.b.c")),
            (&[("authorization", b"bearer a.b.c")], Ok("a.b.c")),
            (&[("authorization", b"BEARER a.b.c")], Ok("a.b.c")),
            (&[("apikey", b"a.b.c")], Ok("a.b.c")),
            (&[("authorization", b"Bearer t"), ("apikey", b"k")], Ok("t")),
            (&[("authorization", b"Basic t"), ("apikey", b"k")], Ok("k")),
            (&[("authorization", b""), ("apikey", b"k")], Ok("k")),
            (&[("authorization", b"Basic t")], Err(AuthorizeError::Missing)),
            (&[("authorization", b"")], Err(AuthorizeError::Missing)),
            (&[("x-api-key", b"k")], Err(AuthorizeError::Missing)),
            (
                &[("authorization", b"Bearer"), ("apikey", b"k")],
                Err(AuthorizeError::Header),
            ),
            (&[("authorization", b"Bearer  t")], Err(AuthorizeError::Header)),
            (&[("authorization", b"Bearer t x")], Err(AuthorizeError::Header)),
            (&[("authorization", b"Bearer \xff")], Err(AuthorizeError::Header)),
            (
                &[("apikey", b"\xff")],
                Err(AuthorizeError::Token(TokenError::Malformed)),
            ),
        ];
        for (given, expected) in cases {
            let headers: HeaderMap = given
                .iter()
                .map(|(name, value)| {
                    let name: HeaderName = name.parse().unwrap();
                    (name, HeaderValue::from_bytes(value).unwrap())
                })
                .collect();
            assert_eq!(request_token(&headers), expected, "{given:?}");
        }
    }

    #[test]
    fn a_refusal_never_repeats_the_token() {
        let verifier = Verifier::new(
            crate::token::Keys::of_secrets(["s"]),
            crate::token::ClaimRules::default(),
        );
        let mut headers = HeaderMap::new();
        headers.insert("apikey", HeaderValue::from_static("sb_secret_hunter2"));
        let error = authorize(&verifier, &headers).unwrap_err();
        assert_eq!(error.code(), "MalformedJWT");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
