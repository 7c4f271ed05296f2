//! Who may use Redis, and which Redis will do.

use crate::fleet::{ask, ear, join, soon};
use crate::{Case, cases};
use rcgen::{CertificateParams, Issuer, KeyPair};
use redis::Value;
use walcast_cluster::{Cluster, Config, ConnectError, PublishError, RedisConfig, Vitality};
use walcast_testkit::Redis;

pub(crate) fn all() -> Vec<Case<()>> {
    cases![
        a_password_and_a_user_are_given,
        a_socket_will_do,
        a_wrong_login_is_refused_with_the_reason,
        what_cannot_be_reached_or_used_is_refused_with_a_remedy,
        who_waits_for_redis_is_refused_only_what_waiting_does_not_cure,
        databases_and_prefixes_keep_nodes_apart,
        tls_is_spoken_and_the_certificate_checked,
    ]
}

fn config(url: &str) -> RedisConfig {
    RedisConfig::from_url(url).unwrap()
}

async fn refusal(redis: RedisConfig) -> ConnectError {
    let config = Config {
        redis: Some(redis),
        vitality: Vitality::default(),
    };
    soon("a refusal", Cluster::join(&config)).await.unwrap_err()
}

/// Whether what one node publishes is heard by another.
async fn is_heard(from: &RedisConfig, by: &RedisConfig) {
    let (from, by) = (join(from).await, join(by).await);
    let (listener, mut heard) = ear();
    let subscription = by.bus().subscribe("room", listener);
    soon("a subscription", subscription.ready()).await;
    from.bus().publish("room", b"hello").unwrap();
    assert_eq!(heard.next().await.2, b"hello");
}

async fn a_password_and_a_user_are_given((): ()) {
    let redis = Redis::start(&[("requirepass", "p@ss/word")]).await;
    let port = redis.port();
    let with_password = config(&format!("redis://:p%40ss%2Fword@127.0.0.1:{port}"));
    is_heard(&with_password, &with_password).await;
    let redis = Redis::start(&[]).await;
    let _: Value = ask(
        &redis,
        &[
            "ACL",
            "SETUSER",
            "walcast",
            "on",
            ">secret",
            // Before version 7 every new user has all.
            "resetchannels",
            "~walcast:*",
            "&walcast:*",
            "+@all",
        ],
    )
    .await;
    let as_user = config(&format!("redis://walcast:secret@127.0.0.1:{}/3", redis.port()));
    is_heard(&as_user, &as_user).await;
}

async fn a_socket_will_do((): ()) {
    let redis = Redis::start(&[]).await;
    let over_socket = config(&format!("unix://{}", redis.socket().display()));
    is_heard(&over_socket, &config(&redis.url())).await;
}

async fn a_wrong_login_is_refused_with_the_reason((): ()) {
    let redis = Redis::start(&[("requirepass", "right")]).await;
    for login in ["", ":wrong@", "nobody:right@"] {
        let url = format!("redis://{login}127.0.0.1:{}", redis.port());
        let error = refusal(config(&url)).await;
        assert!(matches!(error, ConnectError::Login { .. }), "{login}: {error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
}

async fn what_cannot_be_reached_or_used_is_refused_with_a_remedy((): ()) {
    let redis = Redis::start(&[]).await;
    let mut wants_cluster = config(&redis.url());
    wants_cluster.is_cluster = true;
    let error = refusal(wants_cluster).await;
    assert!(error.to_string().contains("unset REDIS_CLUSTER"), "{error}");
    redis.hang();
    let error = refusal(config(&redis.url())).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    redis.resume();
    redis.stop();
    let error = refusal(config(&redis.url())).await;
    assert!(error.to_string().contains("check REDIS_URL"), "{error}");
    let member = Redis::start(&[("cluster-enabled", "yes")]).await;
    let error = refusal(config(&member.url())).await;
    assert!(error.to_string().contains("set REDIS_CLUSTER=true"), "{error}");
}

async fn who_waits_for_redis_is_refused_only_what_waiting_does_not_cure((): ()) {
    let redis = Redis::start(&[]).await;
    let given = |redis: RedisConfig| Config {
        redis: Some(redis),
        vitality: Vitality::default(),
    };
    let mut wants_cluster = config(&redis.url());
    wants_cluster.is_cluster = true;
    let refused = soon(
        "a refusal",
        Cluster::join_when_there(&given(wants_cluster.clone())),
    )
    .await;
    assert!(matches!(refused, Err(ConnectError::IsNoCluster { .. })));
    redis.stop();
    let waiting = given(config(&redis.url()));
    let early = soon("a node without Redis", Cluster::join_when_there(&waiting))
        .await
        .unwrap();
    let unfit = soon(
        "a node without Redis",
        Cluster::join_when_there(&given(wants_cluster)),
    )
    .await
    .unwrap();
    assert!(!early.bus().is_connected());
    assert_eq!(early.bus().publish("room", b"x"), Err(PublishError::Lost));
    let (listener, mut heard) = ear();
    let subscription = early.bus().subscribe("room", listener);
    redis.restart().await;
    soon("a subscription", subscription.ready()).await;
    let neighbour = join(&config(&redis.url())).await;
    neighbour.bus().publish("room", b"at last").unwrap();
    assert_eq!(heard.next().await.2, b"at last");
    assert!(!unfit.bus().is_connected());
}

async fn databases_and_prefixes_keep_nodes_apart((): ()) {
    let redis = Redis::start(&[]).await;
    let here = config(&redis.url());
    let other_database = config(&format!("{}/1", redis.url()));
    let mut other_prefix = here.clone();
    other_prefix.prefix = "staging:".to_owned();
    let listening = join(&here).await;
    let (listener, mut heard) = ear();
    let subscription = listening.bus().subscribe("room", listener);
    soon("a subscription", subscription.ready()).await;
    for config in [&other_database, &other_prefix] {
        join(config).await.bus().publish("room", b"elsewhere").unwrap();
    }
    let neighbour = join(&here).await;
    neighbour.bus().publish("room", b"here").unwrap();
    assert_eq!(heard.next().await.2, b"here");
    is_heard(&other_database, &other_database).await;
}

async fn tls_is_spoken_and_the_certificate_checked((): ()) {
    let folder = std::env::temp_dir().join(format!("walcast-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_file = file("ca.pem", &authority.self_signed(&authority_key).unwrap().pem());
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let redis = Redis::start(&[
        ("tls-cert-file", &file("cert.pem", &certificate.pem())),
        ("tls-key-file", &file("key.pem", &key.serialize_pem())),
        ("tls-ca-cert-file", &authority_file),
        ("tls-auth-clients", "no"),
    ])
    .await;
    let mut trusting = config(&format!("rediss://localhost:{}", redis.port()));
    let error = refusal(trusting.clone()).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    trusting.ca_file = Some(authority_file.into());
    is_heard(&trusting, &trusting).await;
    // The certificate is for another name.
    let mut elsewhere = config(&format!("rediss://127.0.0.1:{}", redis.port()));
    elsewhere.ca_file = trusting.ca_file;
    let error = refusal(elsewhere).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
