//! What is measured: the kinds of load, each with one name that the bars, the JSON and the page share.

/// One kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Work {
    /// HTTP/1.1, 64 connections, tiny body.
    Http1,
    /// HTTP/2, 8 connections of 8 streams, tiny body.
    Http2,
    /// HTTP/1.1, 64 connections, 64 KiB bodies.
    Http1Body,
    /// One connection, one request at a time.
    One,
    /// HTTP/1.1, a connection per request.
    Close,
    /// TCP relay of 1 MiB objects.
    Tcp,
    /// Memory: idle, and with 5,000 idle HTTP/1.1 connections.
    Memory,
    /// A gateway: HTTPS, HTTP/1.1, 64 connections, tiny body.
    GwHttp1,
    /// A gateway: HTTPS, HTTP/2, 8 connections of 8 streams, tiny body.
    GwHttp2,
    /// A gateway: HTTPS, HTTP/1.1, 64 connections, 64 KiB bodies.
    GwBody,
    /// A gateway: full handshakes, a connection per request.
    GwHandshake,
    /// A gateway of Weft: 5,000 routes on 500 hosts against 10 on one.
    GwRoutes,
    /// A gateway of Weft: 1,000 changes of routes under load.
    GwChanges,
}

/// Which of a pair's listeners a load talks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listener {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes.
    Tcp,
    /// A gateway's: TLS, HTTP/1.1 or HTTP/2 as ALPN says.
    Edge,
}

/// How a load is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// `wrk`: this many HTTP/1.1 connections, kept alive or one per request.
    Wrk { connections: u32, keep_alive: bool },
    /// `h2load`: connections, and streams at once on each of HTTP/2.
    H2load { how: Protocol, connections: u32, streams: u32 },
}

/// What `h2load` speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1, kept alive.
    Http1,
    /// HTTP/1.1, a connection for each request.
    Close,
    /// HTTP/2.
    Http2,
}

/// What the CPU time is divided by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// Answered requests.
    Request,
    /// 10^6 bytes that the client got.
    Megabyte,
}

impl Unit {
    /// For column heads.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Megabyte => "MB",
        }
    }
}

/// Everything about one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Name in bars, JSON and on the command line.
    pub(crate) id: &'static str,
    /// Name for people.
    pub(crate) title: &'static str,
    /// Where the client dials.
    pub(crate) listener: Listener,
    /// What it asks for (see `backend`).
    pub(crate) path: &'static str,
    /// With what.
    pub(crate) load: Load,
    /// What CPU time is divided by.
    pub(crate) unit: Unit,
}

impl Work {
    /// Of sidecar pairs, in the order of the tables.
    pub(crate) const PAIR: [Self; 7] =
        [Self::Http1, Self::Http2, Self::Http1Body, Self::One, Self::Close, Self::Tcp, Self::Memory];

    /// Of gateways.
    pub(crate) const GATEWAY: [Self; 6] =
        [Self::GwHttp1, Self::GwHttp2, Self::GwBody, Self::GwHandshake, Self::GwRoutes, Self::GwChanges];

    /// The load; none for what is measured in its own way.
    pub(crate) fn spec(self) -> Option<Spec> {
        let (id, title) = self.names();
        let (listener, load) = match self {
            Self::Http1 | Self::Http1Body => (Listener::Http1, WRK),
            Self::One => (Listener::Http1, Load::Wrk { connections: 1, keep_alive: true }),
            Self::Close => (Listener::Http1, Load::Wrk { connections: 64, keep_alive: false }),
            Self::Tcp => (Listener::Tcp, Load::Wrk { connections: 16, keep_alive: true }),
            Self::Http2 => (Listener::Http2, H2),
            Self::GwHttp1 | Self::GwBody | Self::GwRoutes => {
                (Listener::Edge, Load::H2load { how: Protocol::Http1, connections: 64, streams: 1 })
            }
            Self::GwHttp2 => (Listener::Edge, H2),
            Self::GwHandshake => {
                (Listener::Edge, Load::H2load { how: Protocol::Close, connections: 64, streams: 1 })
            }
            Self::Memory | Self::GwChanges => return None,
        };
        let path = match self {
            Self::Http1Body | Self::GwBody => "/64k",
            Self::Tcp => "/1m",
            _ => "/tiny",
        };
        let unit = if self == Self::Tcp { Unit::Megabyte } else { Unit::Request };
        Some(Spec { id, title, listener, path, load, unit })
    }

    /// Name in bars and JSON.
    pub(crate) fn id(self) -> &'static str {
        self.names().0
    }

    /// For programs and for people.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Http1 => ("http1", "HTTP/1.1, 64 connections, tiny body"),
            Self::Http2 => ("http2", "HTTP/2, 8 connections of 8 streams, tiny body"),
            Self::Http1Body => ("http1-body", "HTTP/1.1, 64 connections, 64 KiB bodies"),
            Self::One => ("one", "one connection at a time"),
            Self::Close => ("close", "HTTP/1.1, a connection per request"),
            Self::Tcp => ("tcp", "TCP relay of 1 MiB objects, 16 connections"),
            Self::GwHttp1 => ("gw-http1", "HTTPS, HTTP/1.1, 64 connections, tiny body"),
            Self::GwHttp2 => ("gw-http2", "HTTPS, HTTP/2, 8 connections of 8 streams, tiny body"),
            Self::GwBody => ("gw-body", "HTTPS, HTTP/1.1, 64 connections, 64 KiB bodies"),
            Self::GwHandshake => (HANDSHAKE, "HTTPS, a full handshake and one request per connection"),
            Self::GwRoutes => (ROUTES, "HTTPS, HTTP/1.1, many routes, tiny body"),
            Self::Memory => ("memory", "memory"),
            Self::GwChanges => (CHANGES, "1,000 changes of routes under 2,000 requests/s"),
        }
    }
}

/// What is measured of Weft alone, or is more than a ratio, by the name that bars and JSON have for it.
pub(crate) const HANDSHAKE: &str = "gw-handshake";
pub(crate) const ROUTES: &str = "gw-routes";
pub(crate) const CHANGES: &str = "gw-changes";

const WRK: Load = Load::Wrk { connections: 64, keep_alive: true };
const H2: Load = Load::H2load { how: Protocol::Http2, connections: 8, streams: 8 };
