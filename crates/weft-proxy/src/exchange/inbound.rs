//! Requests from others, to the own application.

use std::any::Any;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, Request, Response, Version};
use weft_config::ConfigHandle;
use weft_http::headers::{X_FORWARDED_CLIENT_CERT, add_forwarded_for};
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Interim, judge};
use weft_identity::PeerIdentity;
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::Direction;

use super::{Side, Start, Verdict, as_sent, client_cert};
use crate::application::Application;
use crate::failure::Failure;
use crate::pools::{Behind, Started};
use crate::record::{ConnectionFacts, RequestRecord, complete};
use crate::telemetry::{Labels, SeriesByVersion, WorkerTelemetry, workload_of};

/// Who calls, as it was verified here.
pub(crate) struct Caller {
    pub(crate) addr: SocketAddr,
    /// `None`: plaintext.
    pub(crate) peer: Option<Rc<PeerIdentity>>,
    /// The requests come with the marks of a proxy of the mesh.
    pub(crate) marked: bool,
}

/// The side of one caller of the own application.
pub(crate) struct Inbound {
    application: Rc<Application>,
    telemetry: Rc<WorkerTelemetry>,
    config: Arc<ConfigHandle>,
    marked: bool,
    /// When the certificate ends that the link was opened with.
    not_after: Option<SystemTime>,
    series: SeriesByVersion,
    /// What the application is told of the caller; `None` on plaintext.
    client_cert: Option<HeaderValue>,
    /// The caller's address. The calling side adds none: one call is one step.
    client_addr: HeaderValue,
    /// What is to live as long as the connection.
    _held: Box<dyn Any>,
}

impl Inbound {
    /// The side of `caller`, about whose connection `facts` tell. `held` is dropped with the connection.
    pub(crate) fn new(
        caller: Caller,
        application: Rc<Application>,
        facts: &ConnectionFacts,
        telemetry: &Rc<WorkerTelemetry>,
        config: &Arc<ConfigHandle>,
        held: impl Any,
    ) -> Self {
        let Caller { addr, peer, marked } = caller;
        let client_cert =
            peer.as_ref().and_then(|peer| client_cert(facts.destination_identity.as_deref(), peer));
        let client_addr =
            HeaderValue::from_str(&addr.ip().to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let series = SeriesByVersion::new(Labels {
            direction: Direction::Inbound,
            source_workload: peer.as_ref().map_or_else(|| Arc::from(""), |peer| workload_of(&peer.id)),
            destination_service: Arc::clone(&facts.service),
            destination_workload: telemetry.own_workload(),
            peer_identity: facts.source_identity.clone().unwrap_or_else(|| Arc::from("")),
            tls: facts.tls,
        });
        Self {
            application,
            telemetry: Rc::clone(telemetry),
            config: Arc::clone(config),
            marked,
            not_after: peer.map(|peer| peer.not_after),
            series,
            client_cert,
            client_addr,
            _held: Box::new(held),
        }
    }

    /// CONNECT reaches applications that are proxies. Others answer what they like and read the bytes that follow as
    /// requests, which nobody here would have looked at.
    fn takes(&self, request: &Request<Body>) -> bool {
        !judge::asks_for_tunnel(request)
            || self.config.load().inbound.connect_ports.contains(self.application.addr.port())
    }
}

impl Side for Inbound {
    const DIRECTION: Direction = Direction::Inbound;
    type Route = ();
    type Sent = Started;
    type Waiting = Request<Body>;

    fn is_link(&self) -> bool {
        self.marked
    }

    /// No link goes on for longer than the certificate that it was opened with; Weft's own clients open another before.
    fn is_valid(&self) -> bool {
        self.not_after.is_none_or(|not_after| SystemTime::now() < not_after)
    }

    /// A plaintext client is an application itself.
    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        if self.marked { wire::from_link(request) } else { as_sent(request) }
    }

    fn series(&self, version: Version) -> &HttpSeries {
        self.series.get(&self.telemetry.shard, version)
    }

    /// Tells the application who calls, as it was verified here. What others said of it is gone already.
    fn route(
        &self,
        request: &mut Request<Body>,
        _original: &mut Original,
        record: &mut RequestRecord,
    ) -> Verdict<()> {
        if !self.takes(request) {
            return Verdict::Refuse(ErrorCode::MethodNotAllowed);
        }
        record.to(self.application.addr.get());
        let headers = request.headers_mut();
        add_forwarded_for(headers, &self.client_addr);
        if let Some(client_cert) = &self.client_cert {
            headers.insert(X_FORWARDED_CLIENT_CERT, client_cert.clone());
        }
        record.trace.inject(headers);
        complete(record.trace.context, headers);
        Verdict::Go(())
    }

    fn send(
        &self,
        (): (),
        request: Request<Body>,
        _version: Version,
        _record: &mut RequestRecord,
    ) -> Start<Started, Request<Body>> {
        match self.application.pools.start(request) {
            Ok(Ok(started)) => Start::Sent(started),
            Ok(Err(failure)) => Start::Failed(failure),
            Err(request) => Start::Waits(*request),
        }
    }

    async fn finish(
        &self,
        started: Started,
        interim: &Interim<'_>,
        _record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        self.application.pools.finish(started, interim).await.map_err(|unsent| unsent.failure)
    }

    async fn carry(
        &self,
        request: Request<Body>,
        interim: &Interim<'_>,
        _record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        self.application.pools.send(request, interim).await
    }

    async fn open(
        &self,
        (): (),
        request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
        _record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        self.application.pools.open(request, original, interim).await
    }

    /// A plaintext client gets the answer as the application gave it; a link gets it marked.
    fn restore_answer<B>(&self, response: &mut Response<B>) {
        if !self.marked {
            wire::response_from_link(response);
        }
    }
}
