//! Traces: spans of requests, joins, questions about rows and the way of changes, sent to a collector by OTLP over HTTP.
//!
//! On where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set, and by the other variables that OpenTelemetry
//! defines: service name, sampler, headers, batches. Where it is not set nothing here runs: no layer, no thread, no
//! connection. Spans are `tracing`'s, so that log lines have their fields too.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Tracer, TracerProvider};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// What a collector may answer; it has nothing to say that we need.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

static SENDING: OnceLock<Sending> = OnceLock::new();

struct Sending {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Seconds since the Unix epoch of the last change whose way was told.
    last_change_s: AtomicU64,
}

/// Why there are no traces though they were asked for.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// No certificates to trust, for a collector behind TLS.
    #[error("the system's certificates cannot be read: {0}; install ca-certificates")]
    Certificates(#[from] std::io::Error),
    /// A variable of OpenTelemetry means nothing.
    #[error("traces cannot be sent: {0}; check OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_* variables")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The layer that sends spans; none where nobody asked for it. To be called in a runtime, once.
///
/// # Errors
/// It was asked for and cannot be had.
pub(crate) fn layer<S>() -> Result<Option<impl Layer<S>>, TracesError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    if !is_wanted(|name| std::env::var(name).ok()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Courier::new()?)
        .with_protocol(Protocol::HttpBinary)
        .build()?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("walcast");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("walcast");
    let sending = SENDING.get_or_init(|| Sending {
        provider,
        tracer,
        last_change_s: AtomicU64::new(0),
    });
    Ok(Some(
        tracing_opentelemetry::layer().with_tracer(sending.tracer.clone()),
    ))
}

fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let endpoints = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    !is_disabled
        && endpoints
            .iter()
            .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

/// Makes a span part of the trace that a request came with (W3C `traceparent`).
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    struct Headers<'a>(&'a HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }
        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(axum::http::HeaderName::as_str).collect()
        }
    }
    if SENDING.get().is_some() && headers.contains_key("traceparent") {
        let context = TraceContextPropagator::new().extract(&Headers(headers));
        // A span that is not sent has no place in a trace.
        let _ = span.set_parent(context);
    }
}

/// Tells the way of a change, from its commit until it was written to a client; of one a second at most.
pub(crate) fn change_delivered(committed: SystemTime, written: SystemTime) {
    let Some(sending) = SENDING.get() else { return };
    let now_s = written
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    if sending.last_change_s.swap(now_s, Ordering::Relaxed) == now_s {
        return;
    }
    let builder = SpanBuilder::from_name("change")
        .with_kind(SpanKind::Producer)
        .with_start_time(committed);
    sending
        .tracer
        .build(builder)
        .end_with_timestamp(written.max(committed));
}

/// Sends what is left. Blocks for seconds where the collector is away.
pub fn finish() {
    if let Some(sending) = SENDING.get()
        && let Err(error) = sending.provider.shutdown()
    {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// Brings spans to the collector. The exporter has a thread of its own, and what has to do with connections is the
/// runtime's.
#[derive(Debug, Clone)]
struct Courier {
    runtime: Handle,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Courier {
    fn new() -> Result<Self, TracesError> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            runtime: Handle::current(),
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }
}

#[async_trait::async_trait]
impl HttpClient for Courier {
    async fn send_bytes(
        &self,
        request: axum::http::Request<Bytes>,
    ) -> Result<axum::http::Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let response = client.request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
            Ok::<_, HttpError>(axum::http::Response::from_parts(parts, body.to_bytes()))
        });
        sent.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_sent_where_an_endpoint_is_named_and_they_are_not_disabled() {
        type Case = (&'static [(&'static str, &'static str)], bool);
        let cases: [Case; 5] = [
            (&[], false),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")], true),
            (
                &[(
                    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                    "http://collector:4318/v1/traces",
                )],
                true,
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
                    ("OTEL_SDK_DISABLED", "TRUE"),
                ],
                false,
            ),
        ];
        for (variables, wanted) in cases {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(is_wanted(variable), wanted, "{variables:?}");
        }
    }
}
