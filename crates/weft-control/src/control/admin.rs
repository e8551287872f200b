//! `/metrics`, `/live` and `/ready`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::{StatusCode, header};
use tokio::net::TcpListener;
use weft_core::{Drain, DrainPhase};
use weft_telemetry::{Registry, serve_pages};

use crate::KubeError;

/// Which parts are ready, and what the others wait for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// One part's say in the readiness of the process.
#[derive(Debug, Clone)]
pub struct PartReadiness {
    all: Readiness,
    part: &'static str,
}

impl Readiness {
    /// A part that the process is not ready without.
    pub fn part(&self, part: &'static str) -> PartReadiness {
        let readiness = PartReadiness { all: self.clone(), part };
        readiness.waiting("has not started yet");
        readiness
    }

    /// Lines about the parts that are not ready; empty if all are.
    pub fn missing(&self) -> Vec<String> {
        self.lock()
            .iter()
            .filter_map(|(part, why)| why.as_ref().map(|why| format!("{part}: {why}")))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartReadiness {
    /// The part does its work.
    pub fn ready(&self) {
        self.all.lock().insert(self.part, None);
    }

    /// The part does not do its work yet, or not any more; `why` is shown by `/ready`.
    pub fn waiting(&self, why: impl Into<String>) {
        self.all.lock().insert(self.part, Some(why.into()));
    }
}

/// What the pages are made from.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) registry: Registry,
    pub(super) readiness: Readiness,
    pub(super) drain: Drain,
}

impl Pages {
    /// Serves both listeners for as long as it is polled.
    pub(super) async fn serve(self, metrics: TcpListener, health: TcpListener) {
        let pages = Router::new().route("/metrics", get(text)).with_state(self.clone());
        let probes = Router::new().route("/live", get(live)).route("/ready", get(ready)).with_state(self);
        tokio::join!(serve_pages(metrics, pages), serve_pages(health, probes));
    }
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(pages): State<Pages>) -> Response {
    let why = if pages.drain.phase() == DrainPhase::Running {
        pages.readiness.missing().join("\n")
    } else {
        "draining".to_owned()
    };
    if why.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

async fn text(State(pages): State<Pages>) -> Response {
    let mut text = String::with_capacity(16 * 1024);
    pages.registry.encode(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Binds an address of the admin pages.
pub(super) async fn bind(
    what: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), KubeError> {
    let fail = |error: std::io::Error| KubeError::Listen { address, what, reason: error.to_string() };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}
