//! Requests of the own application, over mesh links.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response, Version};
use weft_balance::Timestamp;
use weft_core::MtlsMode;
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Interim};
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::attempt::{Attempt, Client, Pending, Sender, Tries};
use super::{Side, Start, Verdict, as_sent};
use crate::cluster::Cluster;
use crate::destination::Destination;
use crate::failure::Failure;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, RequestRecord};

/// The side of an application that calls a mesh destination.
pub(crate) struct Outbound {
    /// Holds it: what the configuration changes about it reaches this connection.
    destination: Rc<Destination>,
    /// The connection came to a listener that stands for the service, and not to an address of it.
    listener: bool,
    client: Client,
}

impl Outbound {
    pub(crate) fn new(destination: Rc<Destination>, listener: bool) -> Self {
        Self { destination, listener, client: Client::default() }
    }

    /// What the requests of one connection have in common.
    pub(crate) fn facts(&self, client: std::net::SocketAddr) -> Rc<ConnectionFacts> {
        let cluster = self.cluster();
        Rc::new(ConnectionFacts {
            direction: Direction::Outbound,
            client,
            server: self.destination.server.clone(),
            service: Arc::clone(&self.destination.label),
            source_identity: cluster.ways.telemetry.own_identity(),
            destination_identity: None,
            tls: if cluster.mode() == MtlsMode::Disable { TlsLabel::None } else { TlsLabel::Mutual },
        })
    }

    fn cluster(&self) -> &Rc<Cluster> {
        &self.destination.cluster
    }

    fn sender(&self) -> Sender<'_> {
        let cluster = self.cluster();
        let tries = Tries::harmless(cluster.ways.retries.connect_attempts);
        Sender { cluster, client: &self.client, tries, session: None }
    }
}

impl Side for Outbound {
    const DIRECTION: Direction = Direction::Outbound;
    type Route = ();
    type Sent = Box<Pending>;
    type Waiting = Attempt;

    fn is_link(&self) -> bool {
        false
    }

    fn is_valid(&self) -> bool {
        true
    }

    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        let original = as_sent(request)?;
        self.client.look(request);
        Ok(original)
    }

    fn series(&self, version: Version) -> &HttpSeries {
        let cluster = self.cluster();
        cluster.unserved.get(&cluster.ways.telemetry.shard, version)
    }

    /// A listener that stands for a service which has left the mesh refuses, as it refuses connections: its requests must
    /// not become plaintext without a word.
    fn route(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Verdict<()> {
        if self.listener && !self.destination.is_in_mesh() {
            return Verdict::Refuse(ErrorCode::NoEndpoints);
        }
        record.trace.inject(request.headers_mut());
        wire::to_link(request, original.upgrade.clone());
        self.cluster().budget.deposit(Timestamp::at(record.started()));
        Verdict::Go(())
    }

    fn send(
        &self,
        (): (),
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Box<Pending>, Attempt> {
        self.sender().start(request, version, record)
    }

    async fn finish(
        &self,
        pending: Box<Pending>,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        self.sender().finish(pending, interim, record).await
    }

    async fn carry(
        &self,
        attempt: Attempt,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        self.sender().carry(attempt, interim, record).await
    }

    async fn open(
        &self,
        (): (),
        request: Request<Body>,
        _original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        self.sender().open(request, interim, record).await
    }

    fn restore_answer<B>(&self, _response: &mut Response<B>) {}
}
