//! Copies of requests that go elsewhere (`RequestMirror`). The client's request knows nothing of them: their bodies are
//! read beside its own and may not hold it up, and their answers are thrown away.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;
use weft_http::{Body, Interim};
use weft_route::filter::Mirror;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::attempt::{Attempt, Client, Sender, Tries};
use super::routed::Routed;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::record::{ConnectionFacts, RequestRecord};
use crate::routing::{Routing, convert};

/// How far a copy's upstream may be behind the client, octets: the window that HTTP/2 gives a stream by default four times. One
/// that is slower gets no whole copy.
const BEHIND: usize = 256 * 1024;
/// Copies of one worker under way at most; what comes beyond is left out and counted.
const UNDER_WAY: usize = 256;
/// How long one may take with its answer.
const LONGEST: Duration = Duration::from_secs(15);

/// How many copies are under way.
#[derive(Default)]
pub(crate) struct Mirrors(Rc<Cell<usize>>);

struct UnderWay(Rc<Cell<usize>>);

impl Mirrors {
    fn begin(&self) -> Option<UnderWay> {
        let now = self.0.get();
        (now < UNDER_WAY).then(|| {
            self.0.set(now + 1);
            UnderWay(Rc::clone(&self.0))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Sends copies of a request, which is ready for its own backend, wherever rule and backend want one.
pub(super) fn send(
    routing: &Rc<Routing>,
    direction: Direction,
    routed: &Routed,
    request: &mut Request<Body>,
) {
    let of_backend = routed.rule.backends.get(routed.backend);
    let of_backend = of_backend.map(|backend| backend.filters.mirrors.as_slice());
    for mirror in routed.rule.filters.mirrors.iter().chain(of_backend.unwrap_or_default()) {
        if !mirror.share.takes(&mut routing.rng.borrow_mut()) {
            continue;
        }
        match routing.mirrors.begin() {
            Some(under_way) => {
                let copy = copy(request);
                let routing = Rc::clone(routing);
                let mirror = mirror.clone();
                tokio::task::spawn_local(async move {
                    let sending =
                        tokio::time::timeout(LONGEST, carry(&routing, direction, &mirror, copy)).await;
                    let outcome = match sending {
                        Ok(Ok(())) => "answered",
                        Ok(Err(_)) => "failed",
                        Err(_) => "timeout",
                    };
                    routing.mirrored.inc(outcome);
                    drop(under_way);
                });
            }
            None => routing.mirrored.inc("left_out"),
        }
    }
}

fn copy(request: &mut Request<Body>) -> Request<Body> {
    let body = request.body_mut().copied(BEHIND);
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

async fn carry(
    routing: &Routing,
    direction: Direction,
    mirror: &Mirror,
    mut request: Request<Body>,
) -> Result<(), Failure> {
    let cluster = routing.cluster(&mirror.upstream);
    let version = match direction {
        // The upstream's sidecar takes what the application speaks.
        Direction::Outbound => convert::kept(mirror.upstream.protocol, request.version()),
        _ => convert::version(mirror.upstream.protocol, weft_http::is_grpc(request.headers())),
    };
    if version != request.version() {
        convert::reversion(&mut request, version)?;
    }
    let facts = facts(&cluster, direction);
    let series = cluster.unserved.get(&routing.telemetry.shard, version);
    let mut record = RequestRecord::begin(&routing.telemetry, &facts, series, &request, version);
    let (head, body) = request.into_parts();
    let attempt = Attempt::first(Request::from_parts(head, ()), body);
    let (client, tries) = (Client::default(), Tries::harmless(1));
    let sender = Sender { cluster: &cluster, client: &client, tries, session: None };
    let response = sender.carry(attempt, &Interim::Nowhere, &mut record).await?;
    let mut answer = record.answered(response, None).into_body();
    // To its end, so that the connection can be used again.
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {}
    Ok(())
}

fn facts(cluster: &Cluster, direction: Direction) -> Rc<ConnectionFacts> {
    Rc::new(ConnectionFacts {
        direction,
        client: ([0, 0, 0, 0], 0).into(),
        server: (Arc::clone(&cluster.label), 0),
        service: Arc::clone(&cluster.label),
        source_identity: None,
        destination_identity: None,
        tls: TlsLabel::None,
    })
}
