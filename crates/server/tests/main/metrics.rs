//! The figures of `/metrics`: that the code, what is said of them, and what is built on them agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use walcast::figures::{FIGURES, Figure, Kind};

use crate::server::Walcast;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

fn figure(name: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.name == name)
}

/// The figure that a series belongs to: histograms have three kinds of them.
fn of_series(series: &str) -> Option<&'static Figure> {
    figure(series).or_else(|| {
        let stem = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| series.strip_suffix(suffix))?;
        figure(stem).filter(|figure| figure.kind == Kind::Histogram)
    })
}

fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// Name, kind and labels of every figure that the code counts.
fn counted() -> BTreeMap<String, (Kind, BTreeSet<String>)> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(project().join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut texts);
    }
    let mut counted = BTreeMap::new();
    for text in &texts {
        for (call, kind) in [
            ("counter!(", Kind::Counter),
            ("gauge!(", Kind::Gauge),
            ("histogram!(", Kind::Histogram),
        ] {
            for (at, _) in text.match_indices(call) {
                if text[..at].ends_with("describe_") {
                    continue;
                }
                let rest = text[at + call.len()..].trim_start();
                let Some((name, rest)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
                    continue;
                };
                // Up to the end of the statement, or of the call that uses the handle.
                let end = rest.find([';', '\n']).unwrap_or(rest.len());
                let end = rest[..end].find(").").unwrap_or(end);
                let mut parts: Vec<&str> = rest[..end].split("=>").map(str::trim_end).collect();
                // The value of the last label.
                parts.pop();
                let labels = parts
                    .into_iter()
                    .filter_map(|before| before.strip_suffix('"')?.rsplit('"').next());
                let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
                let known: &mut (Kind, BTreeSet<String>) = counted
                    .entry(name.to_owned())
                    .or_insert_with(|| (kind, BTreeSet::new()));
                assert_eq!(known.0, kind, "{name} is of two kinds");
                known.1.extend(labels);
            }
        }
    }
    // Written by themselves.
    for figure in FIGURES {
        if read("crates/server/src/process_figures.rs").contains(&format!("\"{}\"", figure.name)) {
            counted.insert(figure.name.to_owned(), (figure.kind, BTreeSet::new()));
        }
    }
    counted
}

#[test]
fn every_figure_that_is_counted_is_listed_and_every_listed_one_is_counted() {
    let listed: BTreeMap<String, (Kind, BTreeSet<String>)> = FIGURES
        .iter()
        .map(|figure| {
            let labels = figure.labels.iter().map(|label| (*label).to_owned()).collect();
            (figure.name.to_owned(), (figure.kind, labels))
        })
        .collect();
    assert_eq!(listed.len(), FIGURES.len(), "a name is listed twice");
    assert_eq!(counted(), listed);
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for figure in FIGURES {
        let name = figure.name;
        assert!(
            name.starts_with("walcast_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            figure.kind == Kind::Counter,
            "{name}: what only grows, and nothing else, ends with _total"
        );
        for unit in ["_ms", "_us", "_kb", "_mb", "_milliseconds", "_kilobytes"] {
            assert!(!name.contains(unit), "{name}: units are seconds and bytes");
        }
        assert!(figure.help.len() > 10 && !figure.help.ends_with('.'), "{name}");
    }
}

#[test]
fn the_document_has_a_row_for_each_figure() {
    let document = read("docs/metrics.md");
    let mut rows = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" |").map(str::trim).collect();
        let [name, kind, labels, unit, help, _worry] = cells[..] else {
            panic!("not six cells: {line}");
        };
        assert!(!unit.is_empty(), "{line}");
        let row = (kind.to_owned(), labels.replace('`', ""), help.to_owned());
        assert!(
            rows.insert(name.trim_matches('`').to_owned(), row).is_none(),
            "two rows: {line}"
        );
    }
    let listed: BTreeMap<_, _> = FIGURES
        .iter()
        .map(|figure| {
            let kind = format!("{:?}", figure.kind).to_lowercase();
            let row = (kind, figure.labels.join(", "), figure.help.to_owned());
            (figure.name.to_owned(), row)
        })
        .collect();
    assert_eq!(rows, listed);
}

/// The names of series in an expression.
fn series(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("walcast_") || word.starts_with("process_"))
}

/// Every value under the key `expr`, wherever it is.
fn expressions(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(expression) if name == "expr" => into.push(expression.clone()),
                    _ => expressions(field, into),
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                expressions(element, into);
            }
        }
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_ask_for_figures_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("docker/grafana/walcast.json")).unwrap();
    let alerts: Value = serde_yaml_ng::from_str(&read("docker/prometheus/alerts.yml")).unwrap();
    for (name, document, least) in [("dashboard", dashboard, 20), ("alerts", alerts, 8)] {
        let mut found = Vec::new();
        expressions(&document, &mut found);
        assert!(found.len() >= least, "{name}: {}", found.len());
        for expression in found {
            let mut asked = series(&expression).peekable();
            assert!(asked.peek().is_some(), "{name}: no figure in {expression}");
            for series in asked {
                let figure = of_series(series);
                assert!(figure.is_some(), "{name}: {series} does not exist: {expression}");
                assert!(
                    figure.is_some_and(|figure| figure.kind != Kind::Histogram || figure.name != series),
                    "{name}: {series} is a histogram, which has buckets, a sum and a count: {expression}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_shown_is_listed_with_its_kind_and_help() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket.join("realtime:", "2", json!({})).await;
    server.get("/nowhere").await;
    let body = server.get("/metrics").await.body;
    let mut shown = BTreeSet::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "HELP", name, ..] => {
                let help = figure(name).unwrap().help;
                assert_eq!(line, format!("# HELP {name} {help}"));
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(kind, format!("{:?}", figure(name).unwrap().kind).to_lowercase());
            }
            [series, value] => {
                let name = series.split('{').next().unwrap();
                let figure = of_series(name).unwrap_or_else(|| panic!("{name} is not listed"));
                value
                    .parse::<f64>()
                    .unwrap_or_else(|_| panic!("no number: {line}"));
                shown.insert(figure.name);
            }
            _ => assert!(line.contains('{'), "{line}"),
        }
    }
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "walcast_build_info",
        "walcast_join_seconds",
        "walcast_socket_queue_bytes",
        "walcast_joins_total",
    ] {
        assert!(shown.contains(name), "{name} is missing in\n{body}");
    }
    for series in [
        "walcast_readiness{state=\"starting\"} 1",
        "walcast_readiness{state=\"ready\"} 0",
        "walcast_http_requests_total{route=\"other\",status=\"404\"}",
        "walcast_http_requests_total{route=\"/socket/websocket\",status=\"101\"}",
        "walcast_http_request_seconds_bucket{route=\"other\",le=\"0.001\"}",
        "walcast_joins_total{code=\"TopicNameRequired\"}",
    ] {
        assert!(body.contains(series), "{series} is missing in\n{body}");
    }
}
