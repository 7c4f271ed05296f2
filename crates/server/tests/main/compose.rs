//! `docker-compose.yml` and `Dockerfile` say what the binary understands.

use std::collections::BTreeMap;

use clap::CommandFactory;
use serde::Deserialize;
use serde_json::json;
use walcast::config::Config;
use walcast::environment;
use walcast::options::{Cli, Options};

const COMPOSE: &str = include_str!("../../../../docker-compose.yml");
const OVERRIDE: &str = include_str!("../../../../docker/supabase/docker-compose.walcast.yml");
const SWITCHING: &str = include_str!("../../../../docs/supabase.md");
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
        assert_known(name);
    }
}

/// That a variable is a setting, or ignored with a reason.
fn assert_known(variable: &str) {
    let command = Cli::command();
    let is_setting = command
        .get_arguments()
        .any(|argument| argument.get_env().is_some_and(|env| env == variable));
    assert!(
        is_setting || environment::reason(variable).is_some(),
        "{variable} is neither a setting nor in the list of ignored names"
    );
}

#[test]
fn supabase_s_stack_changes_in_nothing_but_the_image() {
    let file: serde_json::Value = serde_yaml_ng::from_str(OVERRIDE).unwrap();
    let image = &file["services"]["realtime"]["image"];
    assert_eq!(file, json!({"services": {"realtime": {"image": image}}}));
    assert_eq!(
        filled(&serde_yaml_ng::Value::from(image.as_str().unwrap())),
        "walcast"
    );
    assert!(
        include_str!("../../../../Makefile").contains("docker build --tag walcast ."),
        "the image is called as it is built"
    );
}

#[test]
fn supabase_s_health_check_finds_what_it_calls() {
    // `CMD-SHELL` is run by the image's /bin/sh, and the check asks port 4000 with curl.
    assert!(DOCKERFILE.contains("FROM debian:bookworm-slim"));
    assert!(DOCKERFILE.contains("ca-certificates curl"));
    assert!(DOCKERFILE.contains("EXPOSE 4000"));
}

#[test]
fn what_is_said_of_supabase_s_environment_is_said_of_all_of_it() {
    for (variable, _) in crate::supabase::ENVIRONMENT {
        assert_known(variable);
        assert!(
            SWITCHING.contains(&format!("`{variable}`")),
            "{variable} is not in docs/supabase.md"
        );
    }
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
