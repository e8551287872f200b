//! The own application: whom inbound connections are for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use weft_config::{ProxyConfig, ProxyProtocolPorts};
use weft_core::{EndpointAddr, ProxyProtocol};
use weft_http::ErrorCode;
use weft_net::ConnectOptions;
use weft_net::proxy_protocol::{self, ProxyHeader};

use crate::cluster::Speaks;
use crate::dial::DialError;
use crate::limits::Limits;
use crate::pools::{Dial, Pools};
use crate::telemetry::WorkerTelemetry;

/// One address of the own application, with the kept-alive connections that this worker has to it.
///
/// All callers share it, but on a port where the application is told who connects (`inbound.proxyProtocol`): there each
/// connection of a caller has one of its own, which ends with it. So no request can travel on a connection that was
/// announced for another.
pub(crate) struct Application {
    pub(crate) addr: EndpointAddr,
    pub(crate) pools: Rc<Pools<Direct>>,
    /// A connection has asked for it since the last sweep.
    used: Cell<bool>,
}

/// Who wants to reach the application: what a connection to it is announced with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The TCP peer, which is the caller's pod.
    pub(crate) client: SocketAddr,
    /// What it connected to.
    pub(crate) dialed: SocketAddr,
}

/// Dials the application where it listens. It is asked about nothing: the rules let the proxy's own connections pass, and
/// there is no other endpoint.
pub(crate) struct Direct {
    addr: EndpointAddr,
    options: ConnectOptions,
    /// What each connection begins with.
    header: Option<(ProxyProtocol, ProxyHeader)>,
}

impl Dial for Direct {
    type Io = TcpStream;

    async fn dial(&self, _speaks: Speaks) -> Result<TcpStream, DialError> {
        let mut stream = weft_net::connect(self.addr, &self.options).await?;
        if let Some((version, header)) = &self.header {
            let written = proxy_protocol::write(&mut stream, *version, header).await;
            written.map_err(|error| DialError::new(ErrorCode::ConnectFailed, &error))?;
        }
        Ok(stream)
    }

    fn reset_on_close(io: &TcpStream) {
        weft_net::reset_on_drop(io);
    }
}

/// The addresses of the application that a worker has connections to.
pub(crate) struct Applications {
    limits: Rc<Limits>,
    telemetry: Rc<WorkerTelemetry>,
    options: ConnectOptions,
    /// HTTP/2 connections to one address at most.
    most: usize,
    /// The ports where it is told who connects.
    announced: ProxyProtocolPorts,
    known: RefCell<HashMap<EndpointAddr, Rc<Application>>>,
}

impl Applications {
    pub(crate) fn new(
        limits: Rc<Limits>,
        telemetry: Rc<WorkerTelemetry>,
        options: ConnectOptions,
        config: &ProxyConfig,
    ) -> Self {
        let most = config.limits.http2.max_connections_per_endpoint;
        let announced = config.proxy_protocol.clone();
        Self { limits, telemetry, options, most, announced, known: RefCell::default() }
    }

    /// The application at an address, for the requests of one connection.
    pub(crate) fn get(&self, addr: EndpointAddr, origin: Origin) -> Rc<Application> {
        let direct = self.direct(addr, origin);
        if direct.header.is_some() {
            return self.reached_by(direct);
        }
        let mut known = self.known.borrow_mut();
        let application = known.entry(addr).or_insert_with(|| self.reached_by(direct));
        application.used.set(true);
        Rc::clone(application)
    }

    /// A connection of its own to the application at an address, for bytes.
    ///
    /// # Errors
    /// The application takes none.
    pub(crate) async fn dial(&self, addr: EndpointAddr, origin: Origin) -> Result<TcpStream, DialError> {
        self.direct(addr, origin).dial(Speaks::Bytes).await
    }

    fn direct(&self, addr: EndpointAddr, origin: Origin) -> Direct {
        let Origin { client: source, dialed: destination } = origin;
        let version = self.announced.get(addr.port());
        let header = version.map(|version| (version, ProxyHeader::Proxied { source, destination }));
        Direct { addr, options: self.options, header }
    }

    fn reached_by(&self, direct: Direct) -> Rc<Application> {
        let addr = direct.addr;
        let pools = Pools::new(addr, direct, &self.limits, self.most, &self.telemetry.shard);
        Rc::new(Application { addr, pools: Rc::new(pools), used: Cell::default() })
    }

    /// Forgets those that no connection uses, so that memory follows what is called.
    pub(crate) fn sweep(&self) {
        self.known.borrow_mut().retain(|_, app| app.used.replace(false) || Rc::strong_count(app) > 1);
    }
}

#[cfg(test)]
#[path = "application_tests.rs"]
mod tests;
