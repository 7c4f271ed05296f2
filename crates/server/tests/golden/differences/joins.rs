//! Connecting, joining, tokens.

use super::Instead::{Header, Says};
use super::{Difference, deliberate};

/// The design's last point of "Better on purpose".
const SENTENCE: &str = "Errors are sentences and not dumps of internal terms.";

pub(super) const JOINS: &[Difference] = &[
    deliberate(
        &["connect-plain-good-key"],
        "A refusal names the type of its text.",
        &[Header(13, "content-type", "text/plain; charset=utf-8")],
    ),
    deliberate(
        &["join-lenient-broadcast-string"],
        SENTENCE,
        &[Says(
            "no function clause matching in Access.get/3",
            "`config.broadcast` must be an object",
        )],
    ),
    deliberate(
        &["join-broken-config-string", "join-broken-config-number"],
        SENTENCE,
        &[Says(
            "no function clause matching in Access.get/3",
            "`config` must be an object",
        )],
    ),
    deliberate(
        &["join-broken-config-list"],
        SENTENCE,
        &[Says(
            r#"the Access module supports only keyword lists (with atom keys), got: \"broadcast\"\n\nIf you want to search lists of tuples, use List.keyfind/3"#,
            "`config` must be an object",
        )],
    ),
    deliberate(
        &["join-broken-payload-list"],
        SENTENCE,
        &[Says(
            "expected params to be a :map, got: `[1]`",
            "the payload of phx_join must be an object",
        )],
    ),
    deliberate(
        &["join-broken-payload-null"],
        SENTENCE,
        &[Says(
            "expected params to be a :map, got: `nil`",
            "the payload of phx_join must be an object",
        )],
    ),
    deliberate(
        &["kind0-push"],
        SENTENCE,
        &[Says(
            r#"expected params to be a :map, got: `{:binary, \"{\\\"config\\\":{}}\"}`"#,
            "the join's payload is not JSON",
        )],
    ),
    deliberate(
        &["join-token-claims-array"],
        SENTENCE,
        &[Says(
            r#"the Access module supports only keyword lists (with atom keys), got: \"sub\"\n\nIf you want to search lists of tuples, use List.keyfind/3"#,
            "the claims of the token are not a JSON object",
        )],
    ),
    deliberate(
        &["join-token-claims-notjson", "join-token-header-notjson"],
        SENTENCE,
        &[Says(
            "Erlang error: {:invalid_byte, 111}",
            "the header or the claims of the token are not JSON",
        )],
    ),
    deliberate(
        &["token-exp-string"],
        SENTENCE,
        &[Says(
            r#"[message: 1795238374, claim: \"exp\", claim_val: \"1797830335\"]"#,
            "The claim `exp` of the token is not valid: it must be a number",
        )],
    ),
    deliberate(
        &["token-iat-string"],
        SENTENCE,
        &[Says(
            r#"[message: \"Invalid token\", claim: \"iat\", claim_val: \"x\"]"#,
            "The claim `iat` of the token is not valid: it must be a number",
        )],
    ),
];
