//! `docker-compose.yml` and `Dockerfile` say what the binary understands.

use serde::Deserialize;
use std::collections::BTreeMap;
use walcast::config::Config;
use walcast::environment::IGNORED;
use walcast::options::Options;

const COMPOSE: &str = include_str!("../../../../docker-compose.yml");
const DOCKERFILE: &str = include_str!("../../../../Dockerfile");

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    environment: BTreeMap<String, serde_yaml_ng::Value>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    healthcheck: Option<Healthcheck>,
    #[serde(default)]
    ports: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    condition: String,
}

#[derive(Deserialize)]
struct Healthcheck {
    test: Vec<String>,
}

fn compose() -> Compose {
    serde_yaml_ng::from_str(COMPOSE).unwrap()
}

/// `${NAME:-default}` as compose fills it in when nothing is set.
fn filled(value: &serde_yaml_ng::Value) -> String {
    let text = match value {
        serde_yaml_ng::Value::String(text) => text.clone(),
        serde_yaml_ng::Value::Number(number) => number.to_string(),
        other => panic!("an environment value is text or a number: {other:?}"),
    };
    match text.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')) {
        Some(inner) => inner
            .split_once(":-")
            .map_or("", |(_, default)| default)
            .to_owned(),
        None => text,
    }
}

#[test]
fn the_compose_environment_configures_the_server() {
    let compose = compose();
    let variables: Vec<(String, String)> = compose.services["walcast"]
        .environment
        .iter()
        .map(|(name, value)| (name.clone(), filled(value)))
        .collect();
    let options = Options::from_environment(
        variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
    .unwrap();
    let config = Config::from_options(&options).unwrap();
    assert_eq!(config.listen.port, 4000);
    let database = walcast_replication::Config::from_url(config.tenant.database.url.expose()).unwrap();
    assert_eq!(database.endpoint.to_string(), "db:5432");
    assert_eq!(
        (database.user.as_str(), database.database.as_str()),
        ("supabase_admin", "postgres")
    );
}

#[test]
fn every_name_of_the_compose_environment_is_known() {
    for name in compose().services["walcast"].environment.keys() {
        let is_ignored = IGNORED.iter().any(|ignored| ignored.name == name);
        // A setting changes what comes out, or is refused when it is nonsense.
        let nonsense = Options::from_environment([
            ("API_JWT_SECRET", "secret"),
            (name.as_str(), "no such value: \u{1}"),
        ]);
        let plain = Options::from_environment([("API_JWT_SECRET", "secret")]).unwrap();
        let is_setting = nonsense
            .is_ok_and(|options| format!("{:?}", values(&options)) != format!("{:?}", values(&plain)));
        assert!(
            is_ignored || is_setting,
            "{name} is neither a setting nor in the list of ignored names"
        );
    }
}

/// The settings a compose file may set, as text.
fn values(options: &Options) -> Vec<Option<String>> {
    vec![
        options.port.clone(),
        options.nodes.redis_url.clone(),
        options.database_url.clone(),
        options.db_host.clone(),
        options.db_port.clone(),
        options.db_user.clone(),
        options.db_password.clone(),
        options.db_name.clone(),
        options.db_ssl.clone(),
        options.api_jwt_secret.clone(),
        options.metrics_jwt_secret.clone(),
        options.tenant_name.clone(),
    ]
}

#[test]
fn every_service_is_watched_and_the_server_waits_for_the_others() {
    let compose = compose();
    for (name, service) in &compose.services {
        assert!(
            service
                .healthcheck
                .as_ref()
                .is_some_and(|check| check.test.len() > 1),
            "{name} has no health check"
        );
        // Default passwords must not be reachable from elsewhere.
        for port in &service.ports {
            assert!(
                port.starts_with("127.0.0.1:") || port.starts_with("${LISTEN_ADDRESS:-127.0.0.1}:"),
                "{name}: {port}"
            );
        }
    }
    for other in ["db", "redis"] {
        assert_eq!(
            compose.services["walcast"].depends_on[other].condition,
            "service_healthy"
        );
    }
    assert!(
        compose.services["db"]
            .command
            .iter()
            .any(|argument| argument == "wal_level=logical")
    );
}

#[test]
fn the_image_runs_as_an_ordinary_user() {
    let user = DOCKERFILE
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("USER "))
        .unwrap();
    assert!(user.parse::<u32>().unwrap() > 0);
}
