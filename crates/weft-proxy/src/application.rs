//! The own application: whom inbound connections are for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::net::TcpStream;
use weft_core::EndpointAddr;
use weft_net::ConnectOptions;

use crate::cluster::Speaks;
use crate::dial::DialError;
use crate::limits::Limits;
use crate::pools::{Dial, Pools};
use crate::telemetry::WorkerTelemetry;

/// One address of the own application, with the kept-alive connections that this worker has to it.
pub(crate) struct Application {
    pub(crate) addr: EndpointAddr,
    pub(crate) pools: Rc<Pools<Direct>>,
    /// A connection has asked for it since the last sweep.
    used: Cell<bool>,
}

/// Dials the application where it listens. It is asked about nothing: the rules let the proxy's own connections pass, and
/// there is no other endpoint.
pub(crate) struct Direct {
    addr: EndpointAddr,
    options: ConnectOptions,
}

impl Dial for Direct {
    type Io = TcpStream;

    async fn dial(&self, _speaks: Speaks) -> Result<TcpStream, DialError> {
        Ok(weft_net::connect(self.addr, &self.options).await?)
    }

    fn reset_on_close(io: &TcpStream) {
        weft_net::reset_on_drop(io);
    }
}

impl Application {
    /// A connection of its own, for bytes.
    ///
    /// # Errors
    /// The application takes none.
    pub(crate) async fn dial(&self) -> Result<TcpStream, DialError> {
        self.pools.dialer().dial(Speaks::Bytes).await
    }
}

/// The addresses of the application that a worker has connections to.
pub(crate) struct Applications {
    limits: Rc<Limits>,
    telemetry: Rc<WorkerTelemetry>,
    options: ConnectOptions,
    /// HTTP/2 connections to one address at most.
    most: usize,
    known: RefCell<HashMap<EndpointAddr, Rc<Application>>>,
}

impl Applications {
    pub(crate) fn new(
        limits: Rc<Limits>,
        telemetry: Rc<WorkerTelemetry>,
        options: ConnectOptions,
        most: usize,
    ) -> Self {
        Self { limits, telemetry, options, most, known: RefCell::default() }
    }

    /// The application at an address.
    pub(crate) fn get(&self, addr: EndpointAddr) -> Rc<Application> {
        let mut known = self.known.borrow_mut();
        let application = known.entry(addr).or_insert_with(|| {
            let direct = Direct { addr, options: self.options };
            let pools = Pools::new(addr, direct, &self.limits, self.most, &self.telemetry.shard);
            Rc::new(Application { addr, pools: Rc::new(pools), used: Cell::default() })
        });
        application.used.set(true);
        Rc::clone(application)
    }

    /// Forgets those that no connection uses, so that memory follows what is called.
    pub(crate) fn sweep(&self) {
        self.known.borrow_mut().retain(|_, app| app.used.replace(false) || Rc::strong_count(app) > 1);
    }
}
