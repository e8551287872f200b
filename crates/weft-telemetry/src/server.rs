//! The spans of services that the process itself offers: the CA, the injector.
//!
//! A call there is rare beside a request through a proxy, and no worker owns it. So the tracer is shared under a lock
//! that is held for the reading of headers; what else a call pays without a span is nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::header::{HOST, USER_AGENT};
use http::uri::Authority;
use http::{HeaderValue, Request, Uri};
use tokio::time::Instant;

use crate::span::{Grpc, SpanKind, SpanRecord, SpanSink, unix_nanos};
use crate::trace::{Sampler, Tracer};

/// What a caller says of itself is kept this far: who floods a service must not fill the queue with text.
const LONGEST_TEXT: usize = 256;

/// Makes a server span for each call that is sampled. Clones are the same; the default makes none.
#[derive(Clone, Debug, Default)]
pub struct ServerSpans(Option<Arc<Making>>);

#[derive(Debug)]
struct Making {
    sink: SpanSink,
    tracer: Mutex<Tracer>,
}

/// The span of one call. It goes to the exporter when it is dropped, with what is known by then.
#[derive(Debug)]
pub struct ServerSpan {
    making: Arc<Making>,
    began: Instant,
    /// Taken when it is handed over.
    record: Option<SpanRecord>,
}

impl ServerSpans {
    /// Spans into `sink`, of calls whose caller wants them and of those of the others that `sampler` chooses.
    pub fn new(sink: SpanSink, sampler: Arc<Sampler>) -> Self {
        Self(Some(Arc::new(Making { sink, tracer: Mutex::new(Tracer::new(sampler)) })))
    }

    /// The span of a call over TLS that begins now, where there is to be one.
    pub fn begin<B>(&self, request: &Request<B>, peer: SocketAddr) -> Option<Box<ServerSpan>> {
        let making = self.0.as_ref()?;
        let trace = making.tracer.lock().unwrap_or_else(PoisonError::into_inner).begin(request.headers());
        if !trace.records() {
            return None;
        }
        let asked = asked_for(request.uri(), request.headers().get(HOST), 443);
        let (server_address, server_port) = asked.filter(|(host, _)| host.len() <= LONGEST_TEXT).unzip();
        let start = unix_nanos(SystemTime::now());
        let record = SpanRecord {
            context: trace.context,
            parent: trace.parent,
            parent_is_remote: true,
            kind: SpanKind::Server,
            start_unix_nanos: start,
            end_unix_nanos: start,
            method: request.method().clone(),
            route: None,
            path: cut(request.uri().path()),
            scheme: "https",
            server_address,
            server_port,
            network_peer: Some(peer),
            version: request.version(),
            status: None,
            user_agent: request
                .headers()
                .get(USER_AGENT)
                .map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()))),
            grpc: None,
            error: None,
            source_identity: None,
            destination_identity: None,
            retries: 0,
            request_bytes: None,
            response_bytes: None,
        };
        Some(Box::new(ServerSpan { making: Arc::clone(making), began: Instant::now(), record: Some(record) }))
    }
}

impl ServerSpan {
    fn set(&mut self, change: impl FnOnce(&mut SpanRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// The call is one of this route, which is in the span's name.
    pub fn route(&mut self, route: &str) {
        self.set(|record| record.route = Some(route.into()));
    }

    /// The call is one of gRPC, which has this status so far.
    pub fn grpc(&mut self, status: Option<u8>) {
        self.set(|record| record.grpc = Some(Grpc { status }));
    }

    /// The HTTP status of the answer.
    pub fn answered(&mut self, status: u16) {
        self.set(|record| record.status = Some(status));
    }

    /// Who called, as far as that was proven.
    pub fn caller(&mut self, identity: &str) {
        self.set(|record| record.source_identity = Some(identity.into()));
    }

    /// The octets of both bodies.
    pub fn bodies(&mut self, request: Option<u64>, response: Option<u64>) {
        self.set(|record| (record.request_bytes, record.response_bytes) = (request, response));
    }
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        record.end_unix_nanos = record.start_unix_nanos.saturating_add(took);
        self.making.sink.submit(record);
    }
}

fn cut(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(LONGEST_TEXT)).unwrap_or_default().into()
}

/// Host and port that a request asks for, by its target or else its `host`; `port` is the scheme's own.
pub fn asked_for(uri: &Uri, host: Option<&HeaderValue>, port: u16) -> Option<(Arc<str>, u16)> {
    let authority = match uri.authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(host?.as_bytes()).ok()?,
    };
    let host = authority.host().trim_matches(['[', ']']);
    (!host.is_empty()).then(|| (host.into(), authority.port_u16().unwrap_or(port)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Registry;
    use crate::span::SpanQueue;

    fn spans(sampling: f64) -> (ServerSpans, SpanQueue) {
        let (sink, queue) = SpanSink::new(8, &Registry::default().shared());
        (ServerSpans::new(sink, Arc::new(Sampler::new(sampling).unwrap())), queue)
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post("/inject?timeout=5s");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn peer() -> SocketAddr {
        "10.1.2.3:4".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_is_handed_over_at_the_end_of_its_call() {
        let (spans, mut queue) = spans(0.0);
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut span =
            spans.begin(&request(&[("traceparent", traceparent), ("host", "[::1]")]), peer()).unwrap();
        span.answered(200);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(queue.receiver.try_recv().is_err(), "the call is not over");
        drop(span);
        let record = queue.receiver.try_recv().unwrap();
        assert!(record.parent.is_some() && record.parent_is_remote && record.kind == SpanKind::Server);
        assert_eq!(record.end_unix_nanos - record.start_unix_nanos, 3_000_000_000);
        assert_eq!((record.server_address.as_deref(), record.server_port), (Some("::1"), Some(443)));
        assert_eq!((&*record.path, record.status, record.network_peer), ("/inject", Some(200), Some(peer())));
    }

    #[tokio::test]
    async fn who_is_not_sampled_has_no_span() {
        let not = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")];
        assert!(spans(1.0).0.begin(&request(&not), peer()).is_none());
        assert!(spans(0.0).0.begin(&request(&[]), peer()).is_none());
        assert!(ServerSpans::default().begin(&request(&[]), peer()).is_none());
        assert!(
            spans(1.0)
                .0
                .begin(&request(&[]), peer())
                .is_some_and(|span| { span.record.as_ref().is_some_and(|record| record.parent.is_none()) })
        );
    }

    #[tokio::test]
    async fn a_caller_does_not_decide_how_large_a_span_is() {
        let (spans, mut queue) = spans(1.0);
        let long = "\u{fc}".repeat(200);
        let host = "a".repeat(300);
        drop(spans.begin(&request(&[("host", &host), ("user-agent", &long)]), peer()));
        let record = queue.receiver.try_recv().unwrap();
        assert_eq!(record.server_address, None);
        assert_eq!(record.user_agent.unwrap().len(), 256);
    }
}
