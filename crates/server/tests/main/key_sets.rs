//! `protocol.md 4.1` with `API_JWT_JWKS`: tokens whose key is named by `kid`, on the wire.

use serde_json::{Value, json};

use crate::server::{Walcast, anon, now_s};
use crate::signing::Pair;

fn token(pair: &Pair, algorithm: &str, kid: &str) -> String {
    pair.sign(
        &json!({"alg": algorithm, "kid": kid, "typ": "JWT"}),
        &json!({"role": "authenticated", "sub": "u1", "exp": now_s() + 60}),
    )
}

fn kid_text(kid: &str) -> String {
    format!(
        r#"Failed to generate JWT signer for key ID (kid) "{kid}", check your JWT secret or JWKS configuration"#
    )
}

#[tokio::test]
async fn a_token_of_every_algorithm_connects_joins_and_refreshes() {
    let pairs = [
        ("HS512", Pair::secret("a secret of the set")),
        ("RS256", Pair::rsa()),
        ("ES256", Pair::p256()),
        ("ES384", Pair::p384()),
        ("ES512", Pair::p521()),
        ("EdDSA", Pair::ed25519()),
    ];
    let keys: Vec<Value> = pairs
        .iter()
        .map(|(algorithm, pair)| pair.jwk(&format!("key-{algorithm}")))
        .collect();
    let set = json!({"keys": keys}).to_string();
    let server = Walcast::start(&[("API_JWT_SECRET", ""), ("API_JWT_JWKS", &set)]).await;
    for (algorithm, pair) in &pairs {
        let good = token(pair, algorithm, &format!("key-{algorithm}"));
        let mut socket = server.socket_as("2.0.0", &good).await;
        let payload = json!({"config": {}, "access_token": good});
        let (status, response) = socket.join("realtime:a", "1", payload).await;
        assert_eq!(status, "ok", "{algorithm}: {response}");
        // Every signature of ECDSA is another, so that this may be another token.
        let fresh = token(pair, algorithm, &format!("key-{algorithm}"));
        socket
            .send_json(json!(["1", "2", "realtime:a", "access_token", {"access_token": fresh}]))
            .await;
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn a_key_id_that_is_not_in_the_set_is_named_at_connect_join_and_refresh() {
    let pair = Pair::p256();
    let set = json!([pair.jwk("k1")]).to_string();
    let server = Walcast::start(&[("API_JWT_JWKS", &set)]).await;
    let unknown = token(&pair, "ES256", "k2");

    let response = server
        .get(&format!("/socket/websocket?apikey={unknown}&vsn=2.0.0"))
        .await;
    assert_eq!(
        (response.status, response.body),
        (401, json!({"error": kid_text("k2")}).to_string())
    );
    // The project's secret still signs.
    let mut socket = server.socket_as("2.0.0", &anon()).await;
    let (_, response) = socket
        .join("realtime:a", "1", json!({"config": {}, "access_token": unknown}))
        .await;
    assert_eq!(response["reason"], format!("JwtSignerError: {}", kid_text("k2")));
    socket.join_ok("realtime:a", "1").await;
    socket
        .send_json(json!(["1", "2", "realtime:a", "access_token", {"access_token": unknown}]))
        .await;
    let system = json!({"extension": "system", "status": "error", "message": kid_text("k2"), "channel": "a"});
    socket
        .expect(json!(["1", null, "realtime:a", "system", system]))
        .await;
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
}

#[tokio::test]
async fn section_3_2_an_opaque_key_as_a_channels_token_means_the_connections() {
    let pair = Pair::ed25519();
    let set = json!([pair.jwk("k1")]).to_string();
    let server = Walcast::start(&[("API_JWT_JWKS", &set)]).await;
    let mut socket = server.socket_as("2.0.0", &token(&pair, "EdDSA", "k1")).await;
    for (reference, opaque) in [("1", "sb_publishable_abc"), ("2", "sb_secret_abc")] {
        let payload = json!({"config": {}, "access_token": opaque});
        let (status, response) = socket
            .join(&format!("realtime:{opaque}"), reference, payload)
            .await;
        assert_eq!(status, "ok", "{response}");
    }
}
