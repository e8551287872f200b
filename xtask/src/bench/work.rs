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
}

/// How a load is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// `wrk`: this many HTTP/1.1 connections, kept alive or one per request.
    Wrk { connections: u32, keep_alive: bool },
    /// `h2load`: HTTP/2 connections and streams at once on each.
    H2load { connections: u32, streams: u32 },
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
    /// All, in the order of the tables.
    pub(crate) const ALL: [Self; 7] =
        [Self::Http1, Self::Http2, Self::Http1Body, Self::One, Self::Close, Self::Tcp, Self::Memory];

    /// The load; none for [`Work::Memory`], which is measured without one.
    pub(crate) fn spec(self) -> Option<Spec> {
        let wrk = |connections, keep_alive| Load::Wrk { connections, keep_alive };
        let (id, title, listener, path, load, unit) = match self {
            Self::Http1 => (
                "http1",
                "HTTP/1.1, 64 connections, tiny body",
                Listener::Http1,
                "/tiny",
                wrk(64, true),
                Unit::Request,
            ),
            Self::Http2 => (
                "http2",
                "HTTP/2, 8 connections of 8 streams, tiny body",
                Listener::Http2,
                "/tiny",
                Load::H2load { connections: 8, streams: 8 },
                Unit::Request,
            ),
            Self::Http1Body => (
                "http1-body",
                "HTTP/1.1, 64 connections, 64 KiB bodies",
                Listener::Http1,
                "/64k",
                wrk(64, true),
                Unit::Request,
            ),
            Self::One => {
                ("one", "one connection at a time", Listener::Http1, "/tiny", wrk(1, true), Unit::Request)
            }
            Self::Close => (
                "close",
                "HTTP/1.1, a connection per request",
                Listener::Http1,
                "/tiny",
                wrk(64, false),
                Unit::Request,
            ),
            Self::Tcp => (
                "tcp",
                "TCP relay of 1 MiB objects, 16 connections",
                Listener::Tcp,
                "/1m",
                wrk(16, true),
                Unit::Megabyte,
            ),
            Self::Memory => return None,
        };
        Some(Spec { id, title, listener, path, load, unit })
    }
}
