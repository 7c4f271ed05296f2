//! What somebody may do with a private channel: asked of the token or the policies as for the channel itself.

use axum::http::HeaderMap;
use serde_json::{Value, json};
use walcast_messages::RightsError;

use super::refusal::Refusal;
use crate::explain::who::Who;
use crate::policy_headers::policy_headers;
use crate::private::{asked, read_rights, write_rights};
use crate::tenant::Tenant;

/// `visible` is whether the channel can be joined, `rights` what can be done there.
pub(super) async fn explain(tenant: &Tenant, who: &Who, topic: &str) -> Result<Value, Refusal> {
    let claims = &who.claims;
    // The headers of whoever asks are not those of the channel.
    let headers = policy_headers(&HeaderMap::new(), |_| false);
    let asked = asked(topic, claims, &headers);
    let read = read_rights(tenant, claims, &asked, true).await;
    let write = write_rights(tenant, claims, &asked).await;
    for error in [read.as_ref().err(), write.as_ref().err()].into_iter().flatten() {
        if matches!(error, RightsError::Unavailable(_)) {
            return Err(Refusal::NotPrepared);
        }
    }
    let may = |right: Option<bool>| match right {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    };
    let (hears, sees) = match &read {
        Ok(rights) => (rights.broadcast, rights.presence),
        Err(_) => (None, None),
    };
    let (sends, tracks) = match &write {
        Ok(rights) => (Some(rights.broadcast), Some(rights.presence)),
        Err(_) => (None, None),
    };
    let is_joined = read.as_ref().is_ok_and(|rights| rights.any());
    let failure = [read.err(), write.err()].into_iter().flatten().next();
    let detail = failure.map_or_else(
        || {
            format!(
                "broadcasts: read {}, write {}; presence: read {}, write {}",
                may(hears),
                may(sends),
                may(sees),
                may(tracks)
            )
        },
        |error| error.to_string(),
    );
    let token = match &who.refused {
        Some((reason, remedy)) => {
            json!({"check": "token", "passed": false, "detail": reason, "remedy": remedy})
        }
        None => json!({"check": "token", "passed": true, "detail": "the claims are valid", "remedy": null}),
    };
    let remedy = (!is_joined).then_some(
        "create policies on realtime.messages: for select to hear, for insert to send, with realtime.topic() in their conditions",
    );
    let claimed: Value = serde_json::from_str(&claims.json).unwrap_or_default();
    Ok(json!({
        "visible": is_joined && who.refused.is_none(),
        "identity": {"role": claims.role.as_deref().unwrap_or_default(), "sub": claimed["sub"].as_str()},
        "checks": [
            token,
            {"check": "policies", "passed": is_joined, "detail": detail, "remedy": remedy},
        ],
        "policies": [],
        "rights": {
            "broadcast": {"read": hears, "write": sends},
            "presence": {"read": sees, "write": tracks},
        },
    }))
}
