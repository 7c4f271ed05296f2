use std::str::FromStr;

use super::*;

fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let secret = ("API_JWT_SECRET", "secret");
    let options =
        Options::from_environment(std::iter::once(secret).chain(variables.iter().copied())).unwrap();
    Config::from_options(&options)
}

#[test]
fn a_wrong_value_is_refused_in_one_sentence_that_names_its_variable() {
    let cases = [
        (
            "PORT",
            "abc",
            "PORT must be a whole number from 0 to 65535, but is `abc`",
        ),
        (
            "PORT",
            "70000",
            "PORT must be a whole number from 0 to 65535, but is `70000`",
        ),
        (
            "WALCAST_HOST",
            "here",
            "WALCAST_HOST must be an IPv4 or IPv6 address, but is `here`",
        ),
        (
            "DB_PORT",
            "0",
            "DB_PORT must be a whole number from 1 to 65535, but is `0`",
        ),
        (
            "DB_HOST",
            "a b",
            "DB_HOST must be a host name, an address, or a socket directory, but is `a b`",
        ),
        (
            "WALCAST_DELETE_VISIBILITY",
            "some",
            "WALCAST_DELETE_VISIBILITY must be `all` or `rls`, but is `some`",
        ),
        (
            "WALCAST_SLOT",
            "forever",
            "WALCAST_SLOT must be `temporary` or `permanent`, but is `forever`",
        ),
        (
            "WALCAST_SLOT_NAME",
            "My-Slot",
            "WALCAST_SLOT_NAME must be at most 63 lower-case letters, digits and _, but is `My-Slot`",
        ),
        (
            "WALCAST_INT8",
            "text",
            "WALCAST_INT8 must be `number` or `string`, but is `text`",
        ),
        (
            "DB_SSL",
            "maybe",
            "DB_SSL must be true, false, or one of disable, prefer, require, verify-ca, verify-full, but is `maybe`",
        ),
        (
            "DATABASE_URL",
            "mysql://u:hunter2@h/d",
            "DATABASE_URL must be a URL such as postgres://user:password@host:5432/database",
        ),
        (
            "JWT_CLAIM_VALIDATORS",
            "[1]",
            "JWT_CLAIM_VALIDATORS must be a JSON object such as {\"iss\":\"https://example.com\"}, but is `[1]`",
        ),
        (
            "API_JWT_JWKS",
            "hunter2",
            "API_JWT_JWKS must be a JSON Web Key Set, {\"keys\":[…]} or the bare array, but it is not JSON (line 1, column 1)",
        ),
        (
            "API_JWT_JWKS",
            r#"{"kty":"oct","kid":"a","k":"hunter2"}"#,
            "API_JWT_JWKS must be a JSON Web Key Set, {\"keys\":[…]} or the bare array, but it is neither an array nor an object with the array `keys`",
        ),
        (
            "WALCAST_TOKEN_GRACE_S",
            "1.5",
            "WALCAST_TOKEN_GRACE_S must be a whole number from 0 to 86400, but is `1.5`",
        ),
        (
            "WALCAST_CREATE_PUBLICATION",
            "2",
            "WALCAST_CREATE_PUBLICATION must be true or false, but is `2`",
        ),
        (
            "WALCAST_FILTER_OR",
            "yes please",
            "WALCAST_FILTER_OR must be true or false, but is `yes please`",
        ),
        (
            "WALCAST_LOG_FORMAT",
            "xml",
            "WALCAST_LOG_FORMAT must be `text` or `json`, but is `xml`",
        ),
        (
            "LOG_LEVEL",
            "=,=",
            "LOG_LEVEL must be a log level (error, warning, info, debug, trace), but is `=,=`",
        ),
        (
            "TENANT_MAX_CONCURRENT_USERS",
            "0",
            "TENANT_MAX_CONCURRENT_USERS must be a whole number from 1 to 4294967295, but is `0`",
        ),
        (
            "WALCAST_IDLE_TIMEOUT_MS",
            "-1",
            "WALCAST_IDLE_TIMEOUT_MS must be a whole number from 100 to 86400000, but is `-1`",
        ),
    ];
    for (variable, value, sentence) in cases {
        assert_eq!(config(&[(variable, value)]).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn without_any_key_nothing_is_served() {
    let config = |variables: &[(&str, &str)]| {
        let options = Options::from_environment(variables.iter().copied()).unwrap();
        Config::from_options(&options).map(|_| ())
    };
    let unusable = r#"{"keys":[{"kty":"oct","kid":"a","k":""}]}"#;
    for (variables, works) in [
        (vec![], false),
        (vec![("API_JWT_JWKS", r#"{"keys":[]}"#)], false),
        (vec![("API_JWT_JWKS", unusable)], false),
        (
            vec![("API_JWT_JWKS", r#"[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]"#)],
            true,
        ),
        (vec![("API_JWT_SECRET", ""), ("API_JWT_SECRET_NEXT", "s")], true),
        (vec![("API_JWT_SECRET", "s"), ("API_JWT_JWKS", unusable)], true),
        (vec![("API_JWT_SECRET", "s"), ("API_JWT_JWKS", "")], true),
    ] {
        let said = config(&variables).map_err(|error| error.to_string());
        match said {
            Ok(()) => assert!(works, "{variables:?}"),
            Err(error) => {
                assert!(
                    !works && error.starts_with("API_JWT_SECRET is not set"),
                    "{variables:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn both_secrets_of_a_rotation_sign_valid_tokens() {
    let config = config(&[("API_JWT_SECRET_NEXT", "next")]).unwrap();
    for (secret, valid) in [("secret", true), ("next", true), ("other", false)] {
        let token = crate::mint::mint(&crate::mint::TokenOptions {
            api_jwt_secret: Some(secret.to_owned()),
            role: "anon".to_owned(),
            sub: None,
            lifetime: 60,
            claims: None,
        });
        assert_eq!(
            config.tenant.verifier.verify(&token.unwrap()).is_ok(),
            valid,
            "{secret}"
        );
    }
}

#[test]
fn forms_and_rules_of_changes_are_the_references_unless_set() {
    let changes = |variables: &[(&str, &str)]| config(variables).unwrap().tenant.changes;
    let plain = changes(&[]);
    assert_eq!(plain.delete_visibility, DeleteVisibility::All);
    assert_eq!(plain.digits, Digits::default());
    let set = changes(&[
        ("WALCAST_DELETE_VISIBILITY", "rls"),
        ("WALCAST_INT8", " String "),
        ("WALCAST_NUMERIC", "number"),
    ]);
    assert_eq!(set.delete_visibility, DeleteVisibility::RowSecurity);
    assert_eq!((set.digits.int8, set.digits.numeric), (true, false));
}

#[test]
fn an_empty_variable_is_the_default() {
    let config = config(&[("PORT", ""), ("DB_SSL", " "), ("TENANT_MAX_CONCURRENT_USERS", "")]).unwrap();
    assert_eq!(config.listen.port, 4000);
    assert_eq!(config.tenant.limits.concurrent_users, None);
}

#[test]
fn database_settings_become_one_url() {
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[], "postgres://postgres@localhost:5432/postgres?sslmode=prefer"),
        (
            &[
                ("DB_HOST", "db"),
                ("DB_PORT", "5433"),
                ("DB_USER", "supabase_admin"),
                ("DB_PASSWORD", "p@ss/w:rd?"),
                ("DB_NAME", "my db"),
                ("DB_SSL", "true"),
            ],
            "postgres://supabase%5Fadmin:p%40ss%2Fw%3Ard%3F@db:5433/my%20db?sslmode=require",
        ),
        (
            &[("DB_HOST", "::1")],
            "postgres://postgres@[::1]:5432/postgres?sslmode=prefer",
        ),
        (
            &[("DB_HOST", "/var/run/postgresql")],
            "postgres://postgres@%2Fvar%2Frun%2Fpostgresql:5432/postgres?sslmode=prefer",
        ),
        (
            &[("DATABASE_URL", "postgres://a:b@c:1/d"), ("DB_HOST", "ignored")],
            "postgres://a:b@c:1/d",
        ),
        (
            &[("DATABASE_URL", "postgresql://a:b@c:1/d"), ("DB_SSL", "false")],
            "postgresql://a:b@c:1/d?sslmode=disable",
        ),
        (
            &[
                ("DATABASE_URL", "postgres://a:b@c:1/d?sslmode=require"),
                ("DB_SSL", "false"),
            ],
            "postgres://a:b@c:1/d?sslmode=require",
        ),
    ];
    for (variables, url) in cases {
        assert_eq!(config(variables).unwrap().tenant.database.url.expose(), url);
    }
}

#[test]
fn secrets_are_not_in_debug_output() {
    let shown = format!(
        "{:?}",
        config(&[
            ("DB_PASSWORD", "hunter2"),
            ("API_JWT_SECRET", "hunter3"),
            ("API_JWT_SECRET_NEXT", "hunter7"),
            ("API_JWT_JWKS", r#"[{"kty":"oct","kid":"a","k":"hunter78"}]"#),
            ("METRICS_JWT_SECRET", "hunter4"),
            ("METRICS_TOKEN_BLOCKLIST", "hunter5,hunter6"),
        ])
        .unwrap()
    );
    assert!(!shown.contains("hunter"), "{shown}");
}

#[test]
fn secrets_are_not_in_help_output() {
    use clap::CommandFactory;
    for argument in crate::options::Cli::command().get_arguments() {
        assert!(
            argument.get_env().is_none() || argument.is_hide_env_values_set(),
            "{} shows the value of its variable",
            argument.get_id()
        );
    }
}

#[test]
fn log_levels_of_the_reference_are_understood() {
    for (given, read) in [
        ("warning", "warn"),
        ("notice", "info"),
        ("critical", "error"),
        ("debug", "debug"),
        ("none", "off"),
    ] {
        assert_eq!(config(&[("LOG_LEVEL", given)]).unwrap().log_level, read);
    }
}

#[test]
fn the_environment_of_a_self_hosted_stack_is_accepted() {
    let stack = [
        ("PORT", "4000"),
        ("DB_HOST", "db"),
        ("DB_PORT", "5432"),
        ("DB_USER", "supabase_admin"),
        ("DB_PASSWORD", "your-super-secret-and-long-postgres-password"),
        ("DB_NAME", "postgres"),
        ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
        ("DB_ENC_KEY", "supabaserealtime"),
        (
            "API_JWT_SECRET",
            "your-super-secret-jwt-token-with-at-least-32-characters-long",
        ),
        ("API_JWT_JWKS", r#"{"keys":[]}"#),
        (
            "METRICS_JWT_SECRET",
            "your-super-secret-jwt-token-with-at-least-32-characters-long",
        ),
        (
            "SECRET_KEY_BASE",
            "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq",
        ),
        ("ERL_AFLAGS", "-proto_dist inet_tcp"),
        ("DNS_NODES", "''"),
        ("RLIMIT_NOFILE", "10000"),
        ("APP_NAME", "realtime"),
        ("SEED_SELF_HOST", "true"),
        ("RUN_JANITOR", "true"),
        ("DISABLE_HEALTHCHECK_LOGGING", "true"),
    ];
    let config = config(&stack).unwrap();
    assert!(config.tenant.database.url.expose().contains("@db:5432/postgres"));
    assert!(config.metrics_access.is_some());
    let command = <crate::options::Cli as clap::CommandFactory>::command();
    for (name, _) in stack {
        let read = command
            .get_arguments()
            .any(|argument| argument.get_env().is_some_and(|env| env == name));
        assert!(
            read || crate::environment::reason(name).is_some(),
            "{name} is neither read nor known to mean nothing here"
        );
    }
}

#[test]
fn who_names_an_authority_wants_postgres_to_prove_itself() {
    let url = |variables: &[(&str, &str)]| config(variables).unwrap().tenant.database.url.expose().to_owned();
    let authority = ("DB_SSL_CA_CERT", "/etc/ca.pem");
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("DB_SSL", "true")], "sslmode=require"),
        (&[authority], "sslmode=verify-full&sslrootcert=%2Fetc%2Fca%2Epem"),
        (
            &[("DB_SSL", "true"), authority],
            "sslmode=verify-full&sslrootcert=%2Fetc%2Fca%2Epem",
        ),
        (
            &[("DB_SSL", "verify-ca"), authority],
            "sslmode=verify-ca&sslrootcert=%2Fetc%2Fca%2Epem",
        ),
        (
            &[("DATABASE_URL", "postgres://u@h/d"), authority],
            "sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
        ),
        (
            &[
                (
                    "DATABASE_URL",
                    "postgres://u@h/d?sslmode=require&sslrootcert=mine",
                ),
                authority,
            ],
            "sslmode=require&sslrootcert=mine",
        ),
    ];
    for (variables, query) in cases {
        let url = url(variables);
        assert_eq!(url.split_once('?').unwrap().1, query, "{variables:?}");
        let replication = walcast_replication::Config::from_url(&url).unwrap();
        assert_eq!(
            replication.ssl_root_cert.is_some(),
            query.contains("sslrootcert"),
            "{variables:?}"
        );
        sqlx::postgres::PgConnectOptions::from_str(&url).unwrap();
    }
}

#[test]
fn the_slot_is_temporary_unless_it_is_asked_to_stay() {
    use walcast_replication::Slot;
    let permanent = |name: &str| Slot::Permanent {
        name: name.to_owned(),
        resumes: false,
    };
    let cases: [(&[(&str, &str)], Slot); 4] = [
        (&[], Slot::Temporary),
        (&[("WALCAST_SLOT_NAME", "other")], Slot::Temporary),
        (&[("WALCAST_SLOT", "permanent")], permanent("walcast_changes")),
        (
            &[("WALCAST_SLOT", "Permanent"), ("WALCAST_SLOT_NAME", "walcast_2")],
            permanent("walcast_2"),
        ),
    ];
    for (variables, slot) in cases {
        assert_eq!(
            config(variables).unwrap().tenant.changes.slot,
            slot,
            "{variables:?}"
        );
    }
}
