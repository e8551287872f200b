//! A worker's connections to one endpoint.

use std::cell::{Cell, OnceCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::net::TcpStream;
use weft_balance::{Endpoint, Timestamp};
use weft_core::{EndpointAddr, PeerRule, SpiffeId};
use weft_http::{ErrorCode, Http2Client, Http2Limits, Http2Pool, Lease};
use weft_identity::LinkProtocol;
use weft_telemetry::Gauge;
use weft_telemetry::metrics::TlsLabel;

use super::outside::{self, Outside};
use super::{Cluster, PeerIo, Speaks, Ways};
use crate::dial::{Announced, DialError, Dialer};
use crate::pools::{Dial, Pools};
use crate::telemetry::{Labels, SeriesByVersion, workload_of};

/// How long a permissive client remembers that an endpoint has no sidecar.
const PLAINTEXT_MEMORY: Duration = Duration::from_secs(30);

/// How the connections of clusters come about. It is asked once per connection, so that it may be a table of functions; the
/// tests' leads to peers in memory.
pub(crate) trait Connect {
    /// Opens a mesh link for requests to an endpoint that has proved to be who it may be.
    fn link<'a>(
        &'a self,
        endpoint: EndpointAddr,
        rule: &'a PeerRule,
        limits: &'a Http2Limits,
    ) -> Connecting<'a, Opened>;

    /// Connects to an endpoint without a sidecar.
    fn plain(&self, endpoint: EndpointAddr) -> Connecting<'_, TcpStream>;
}

/// A connection on its way.
pub(crate) type Connecting<'a, T> = Pin<Box<dyn Future<Output = Result<T, DialError>> + 'a>>;

/// A mesh link that was opened.
pub(crate) struct Opened {
    pub(crate) client: Http2Client,
    pub(crate) peer: SpiffeId,
    /// Of the identity that it was opened with.
    pub(crate) generation: u64,
}

impl Connect for Dialer {
    fn link<'a>(
        &'a self,
        endpoint: EndpointAddr,
        rule: &'a PeerRule,
        limits: &'a Http2Limits,
    ) -> Connecting<'a, Opened> {
        Box::pin(async move {
            let dialed = self.mesh(endpoint, rule, LinkProtocol::Http).await?;
            let failed = |error: h2::Error| DialError::new(ErrorCode::TlsFailed, &error);
            let client = Http2Client::handshake(dialed.stream, limits, ()).await.map_err(failed)?;
            Ok(Opened { client, peer: dialed.peer, generation: dialed.generation })
        })
    }

    fn plain(&self, endpoint: EndpointAddr) -> Connecting<'_, TcpStream> {
        Box::pin(self.tcp(endpoint))
    }
}

/// This worker's connections to one endpoint.
pub(crate) struct EndpointLinks {
    pub(crate) endpoint: Arc<Endpoint>,
    links: Http2Pool<Link, DialError>,
    /// Plaintext connections, for the modes that allow them.
    plain: OnceCell<Rc<PlainPeer>>,
    /// Until when the endpoint is taken not to speak mutual TLS (permissive mode).
    plaintext_until: Cell<Timestamp>,
}

/// Requests to an endpoint without a sidecar.
pub(crate) type PlainPeer = Pools<Plain>;

/// Dials an endpoint without a sidecar.
pub(crate) struct Plain {
    endpoint: Arc<Endpoint>,
    connect: Rc<dyn Connect>,
    announced: Option<Announced>,
    outside: Option<Rc<Outside>>,
    handshake: Duration,
}

impl Dial for Plain {
    type Io = PeerIo;

    async fn dial(&self, speaks: Speaks) -> Result<PeerIo, DialError> {
        let endpoint = self.endpoint.addr();
        let mut tcp = self.connect.plain(endpoint).await?;
        if let Some(announced) = &self.announced {
            announced.say(&mut tcp).await?;
        }
        let io = outside::secured(self.outside.as_deref(), tcp, speaks, self.handshake).await?;
        self.endpoint.connected();
        Ok(io)
    }

    fn is_unsettled(&self) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.is_unsettled())
    }

    fn is_http2(io: &PeerIo) -> bool {
        outside::is_http2(io)
    }

    fn is_secured(&self) -> bool {
        self.outside.is_some()
    }

    fn reset_on_close(io: &PeerIo) {
        outside::reset_on_close(io);
    }
}

/// One mesh link that carries requests.
pub(crate) struct Link {
    client: Http2Client,
    pub(crate) peer: Arc<str>,
    pub(crate) series: SeriesByVersion,
    generation: u64,
    open: Gauge,
}

impl AsRef<Http2Client> for Link {
    fn as_ref(&self) -> &Http2Client {
        &self.client
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl EndpointLinks {
    pub(super) fn new(endpoint: &Arc<Endpoint>, most: usize) -> Rc<Self> {
        Rc::new(Self {
            endpoint: Arc::clone(endpoint),
            links: Http2Pool::new(most),
            plain: OnceCell::new(),
            plaintext_until: Cell::default(),
        })
    }

    /// A place on a link for one more request: on an open one or a new one, or on whichever has one first.
    pub(crate) async fn link(self: &Rc<Self>, cluster: &Rc<Cluster>) -> Result<Lease<Link>, DialError> {
        let dial = || open(Rc::clone(self), Rc::clone(cluster));
        self.links.acquire(|link| cluster.ways.is_current(link.generation), dial).await
    }

    /// The same, where nothing has to be waited for.
    pub(crate) fn link_now(&self, ways: &Ways) -> Option<Lease<Link>> {
        self.links.try_acquire(|link| ways.is_current(link.generation))
    }

    /// Whether it is reached already, and only a place on a link is waited for.
    pub(super) fn is_linked(&self) -> bool {
        self.links.is_connected()
    }

    /// Plaintext connections to the endpoint.
    pub(crate) fn plain(&self, cluster: &Cluster) -> Rc<PlainPeer> {
        Rc::clone(self.plain.get_or_init(|| self.peer(cluster, None)))
    }

    /// The same for one client alone, whose they are said to be.
    pub(crate) fn plain_of(&self, cluster: &Cluster, announced: Announced) -> Rc<PlainPeer> {
        self.peer(cluster, Some(announced))
    }

    fn peer(&self, cluster: &Cluster, announced: Option<Announced>) -> Rc<PlainPeer> {
        let ways = &cluster.ways;
        let endpoint = Arc::clone(&self.endpoint);
        let (connect, outside) = (Rc::clone(&ways.connect), cluster.beyond.tls.clone());
        let dial = Plain { endpoint, connect, announced, outside, handshake: ways.handshake };
        let most = ways.max_connections;
        Rc::new(Pools::new(self.endpoint.addr(), dial, &ways.limits, most, &ways.telemetry.shard))
    }

    /// The same, where one is open that a request of this version can be sent over.
    pub(crate) fn plain_now(&self, version: Version) -> Option<Rc<PlainPeer>> {
        self.plain.get().filter(|plain| plain.is_open(version)).cloned()
    }

    /// Whether a permissive client should try plaintext at once.
    pub(crate) fn is_plaintext(&self, now: Timestamp) -> bool {
        now < self.plaintext_until.get()
    }

    /// Remembers for a while that the endpoint does not speak mutual TLS.
    pub(crate) fn remember_plaintext(&self, now: Timestamp) {
        self.plaintext_until.set(now.plus(PLAINTEXT_MEMORY));
    }
}

async fn open(links: Rc<EndpointLinks>, cluster: Rc<Cluster>) -> Result<Link, DialError> {
    let rule = cluster.peer();
    let ways = &cluster.ways;
    let Opened { client, peer, generation } =
        ways.connect.link(links.endpoint.addr(), &rule, &ways.limits.http2_pool).await?;
    cluster.links_open.inc();
    cluster.links_opened.inc();
    links.endpoint.connected();
    let text: Arc<str> = peer.to_string().into();
    Ok(Link {
        client,
        series: SeriesByVersion::new(Labels {
            direction: ways.direction,
            source_workload: ways.telemetry.own_workload(),
            destination_service: Arc::clone(&cluster.label),
            destination_workload: workload_of(&peer),
            peer_identity: Arc::clone(&text),
            tls: TlsLabel::Mutual,
        }),
        peer: text,
        generation,
        open: cluster.links_open.clone(),
    })
}
