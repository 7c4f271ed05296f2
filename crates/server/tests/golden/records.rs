//! A server with records of tenants: that of self-hosting, and the recorded second one with a database of its own.

use std::net::SocketAddr;

use walcast::migrate::migrate_at;
use walcast_testkit::{Database, Postgres};

use crate::http;
use crate::scene::Walcast;
use crate::stand_ins::StandIns;
use crate::transcript::{Case, Event, Request};

/// The cases that speak to the API of tenants beyond setting the limits of one.
const CASES: [&str; 8] = [
    "http-tenants-auth",
    "http-tenants-bad",
    "http-tenants-create",
    "limits-create",
    "limits-private-only",
    "limits-reload-shutdown",
    "limits-suspend",
    "limits-zz-database-down",
];

/// The request by which the second tenant was made when it was recorded.
const SECOND: (&str, &str) = ("PUT", "/api/tenants/g2-limits");
const SECOND_DATABASE: [(&str, &str); 2] = [("db_port", "5499"), ("db_name", "g2_limits")];

/// Whether a case is about records of tenants.
pub(crate) fn are_needed(case: &str) -> bool {
    CASES.contains(&case)
}

/// A server with its records, and the database of the second tenant.
pub(crate) struct Records {
    pub(crate) server: Walcast,
    second: Database,
    /// Of the server; dropped after it.
    _control: Database,
}

impl Records {
    /// As before the case was recorded.
    pub(crate) async fn set(case: &Case, stand_ins: &StandIns) -> Self {
        let postgres = Postgres::shared().await;
        let (control, second) = (postgres.database().await, postgres.database().await);
        Box::pin(migrate_at(&second.url())).await.unwrap();
        let settings = [
            ("WALCAST_TENANTS", "database"),
            ("DB_ENC_KEY", "supabaserealtime"),
            ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
            ("SEED_SELF_HOST", "true"),
            ("TENANT_MAX_CONCURRENT_USERS", "1000000"),
            ("TENANT_MAX_EVENTS_PER_SECOND", "10000000"),
            ("TENANT_MAX_JOINS_PER_SECOND", "1000000"),
        ];
        let settings = settings.map(|(name, value)| (name, value.to_owned()));
        let server = Walcast::start(&control, &settings).await;
        let records = Self {
            server,
            second,
            _control: control,
        };
        control_is_ready(records.server.address).await;
        if case.name.starts_with("limits-") && case.name != "limits-create" {
            records.make_second(stand_ins).await;
        }
        records
    }

    /// Puts the port and the name of our database into what the case says of its.
    pub(crate) fn fit(&self, case: &Case) -> Case {
        let mut fitted = case.clone();
        for step in &mut fitted.steps {
            if let Event::Http(request) = &mut step.event {
                self.fit_request(request);
            }
        }
        fitted
    }

    fn fit_request(&self, request: &mut Request) {
        let url = url::Url::parse(&self.second.url()).unwrap();
        let ours = [url.port().unwrap().to_string(), self.second.name().to_owned()];
        let mut body = String::from_utf8_lossy(&request.body).into_owned();
        for ((name, theirs), ours) in SECOND_DATABASE.into_iter().zip(ours) {
            body = body.replace(
                &format!("\"{name}\":\"{theirs}\""),
                &format!("\"{name}\":\"{ours}\""),
            );
        }
        request.body = body.into_bytes();
    }

    async fn make_second(&self, stand_ins: &StandIns) {
        let recorded = Case::read("limits-create", stand_ins);
        let made = recorded.steps.into_iter().find_map(|step| match step.event {
            Event::Http(request) if (&*request.method, &*request.target) == SECOND => Some(request),
            _ => None,
        });
        let mut request = made.unwrap();
        self.fit_request(&mut request);
        let answer = http::exchange(self.server.address, &request).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
    }
}

async fn control_is_ready(server: SocketAddr) {
    let request = Request {
        method: "GET".to_owned(),
        target: "/readyz".to_owned(),
        headers: vec![("host".to_owned(), "localhost".to_owned())],
        body: Vec::new(),
    };
    let is_ready = || async { (http::exchange(server, &request).await.status == 200).then_some(()) };
    walcast_testkit::until("tenants can be found", is_ready).await;
}
