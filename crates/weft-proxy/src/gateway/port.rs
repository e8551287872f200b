//! A port that a gateway listens on, as control and workers share it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_core::Drain;
use weft_identity::edge::EdgeServer;
use weft_route::{Listener, ListenerId, ListenerKind, SocketKind, Sockets};

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ListenAt {
    pub(crate) port: u16,
    /// `None`: all addresses of both families.
    pub(crate) address: Option<IpAddr>,
}

impl ListenAt {
    /// Every place of a port.
    pub(crate) fn of(sockets: &Sockets) -> Vec<Self> {
        let port = sockets.port;
        match sockets.addresses.as_slice() {
            [] => vec![Self { port, address: None }],
            all => all.iter().map(|address| Self { port, address: Some(*address) }).collect(),
        }
    }
}

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "port {}", self.port),
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
        }
    }
}

/// A port that is listened on. What it does changes in place: open sockets and connections do not notice.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where.
    pub(crate) at: ListenAt,
    /// Begins when nothing more is to be accepted here.
    pub(crate) drain: Drain,
    state: ArcSwap<PortState>,
}

/// What a port does now.
#[derive(Debug)]
pub(crate) struct PortState {
    /// Its listeners with all that hangs on them.
    pub(crate) sockets: Arc<Sockets>,
    listeners: HashMap<ListenerId, ListenerState>,
    /// Whether one of them lets TLS through.
    passes_through: bool,
}

/// A listener, with what does not come from the program.
#[derive(Clone, Debug)]
pub(super) struct ListenerState {
    /// For listeners that terminate TLS; `None` for those as well whose certificates cannot be used.
    pub(super) tls: Option<EdgeServer>,
    /// Begins when the listener is gone, or the whole port.
    pub(super) drain: Drain,
}

impl Port {
    pub(super) fn new(at: ListenAt, drain: Drain, state: PortState) -> Arc<Self> {
        Arc::new(Self { at, drain, state: ArcSwap::from_pointee(state) })
    }

    pub(super) fn set(&self, state: PortState) {
        self.state.store(Arc::new(state));
    }

    /// What it does now: one load for a request or connection.
    pub(crate) fn now(&self) -> Arc<PortState> {
        self.state.load_full()
    }
}

impl PortState {
    pub(super) fn new(sockets: Arc<Sockets>, listeners: HashMap<ListenerId, ListenerState>) -> Self {
        let passes = |listener: &Arc<Listener>| matches!(listener.kind, ListenerKind::Passthrough(_));
        let passes_through = sockets.listeners.values().any(passes);
        Self { sockets, listeners, passes_through }
    }

    /// Whether one of its listeners lets TLS through, so that the hello has to be kept as it came.
    pub(super) fn passes_through(&self) -> bool {
        self.passes_through
    }

    /// What clients begin with.
    pub(crate) fn kind(&self) -> SocketKind {
        self.sockets.kind
    }

    pub(super) fn state_of(&self, listener: &Listener) -> Option<&ListenerState> {
        self.listeners.get(&listener.id)
    }
}
