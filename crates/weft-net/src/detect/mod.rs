//! What is spoken on a connection, told from its first bytes.
//!
//! The functions are pure: bytes in, verdict out. A verdict never changes when more bytes arrive, so they can be called
//! on whatever has been read so far: every prefix of an input gives either [`Detection::NeedMore`] or the verdict of the
//! whole. They never wait; a server-speaks-first protocol shows as silence, and only the caller can race that against a
//! timer or the server's first bytes. [`detect_first`] is made for such a race: it is cancel-safe, and what it read is
//! in the caller's buffer.
//!
//! # Bias
//! Three questions, in this order, each of which may say "no" at the first byte that does not fit:
//!
//! 1. TLS? A handshake record whose first message is a well-formed ClientHello. Only a *complete* hello is TLS: what
//!    cannot be parsed has no server name and no ALPN to act on, and is opaque.
//! 2. HTTP/2? Exactly the connection preface (RFC 9113 section 3.4), 24 bytes. Nothing else starts with `PRI * HTTP/2.0`.
//! 3. HTTP/1? A request line, as the most lenient of common servers read one: a word, a space, and a path, a URL or a
//!    version before the line ends. A malformed request is for the HTTP parser to refuse, not for detection to wave past
//!    HTTP policy as opaque bytes. A first word alone proves nothing: `GET key` is Redis, `EHLO host` is SMTP, `CONNECT
//!    {...}` is NATS. Inbound, what is opaque stays watched ([`Watched`]), because a request may still come of it.
//!
//! Everything else is opaque, and the reason is told for the metric. Details, and how each known protocol falls out, are
//! in `docs/design/detection.md`.

mod client_hello;
mod http;
mod late;
mod line;
mod reader;
mod settings;

pub use client_hello::{AlpnProtocols, ClientHello, HANDSHAKE, MAX_CLIENT_HELLO};
pub use http::{MAX_METHOD, MAX_REQUEST_LINE, PREFACE};
pub use late::{LateHttp, Watched};
pub use reader::{detect_first, read_more};
pub use settings::{Greeting, greeting};

/// What is known after looking at some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Everything so far fits, and there is too little of it.
    NeedMore {
        /// With fewer bytes than this in total the verdict can only be opaque. Always more than there are.
        at_least: usize,
    },
    /// The verdict.
    Done(Detected),
}

/// What is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or HTTP/1.1: the first line is a request line.
    Http1,
    /// HTTP/2 with prior knowledge (h2c): the connection preface.
    Http2,
    /// TLS of any version, with what the client asks for.
    Tls(ClientHello),
    /// None of these.
    Opaque(OpaqueReason),
}

impl Detected {
    /// A short word for a metric label or a log line.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls(_) => "tls",
            Self::Opaque(_) => "opaque",
        }
    }
}

/// Why a connection is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueReason {
    /// The bytes fit neither TLS nor HTTP.
    NoMatch,
    /// The client has begun what may become a request, and waits.
    Unfinished,
    /// The client closed its side before a verdict; what it sent so far fitted.
    Closed,
    /// The client closed its side without a byte.
    Empty,
    /// It begins as a ClientHello and breaks a rule.
    MalformedHello(&'static str),
    /// A ClientHello larger than [`MAX_CLIENT_HELLO`], or in too many records.
    OversizedHello,
}

impl OpaqueReason {
    /// A short word for a metric label or a log line.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::Unfinished => "unfinished",
            Self::Closed => "closed",
            Self::Empty => "empty",
            Self::MalformedHello(_) => "malformed_hello",
            Self::OversizedHello => "oversized_hello",
        }
    }
}

/// Looks at the first bytes of a connection.
///
/// ```
/// use weft_net::detect::{Detected, Detection, detect};
///
/// assert_eq!(detect(b"GET / HTTP/1.1\r\n"), Detection::Done(Detected::Http1));
/// assert!(matches!(detect(b"GET"), Detection::NeedMore { .. }));
/// assert!(matches!(detect(b"PING\r\n"), Detection::Done(Detected::Opaque(_))));
/// ```
pub fn detect(bytes: &[u8]) -> Detection {
    match bytes.first() {
        None => Detection::NeedMore { at_least: 1 },
        Some(&HANDSHAKE) => client_hello::detect(bytes),
        Some(_) if http::is_preface_so_far(bytes) => http::detect_preface(bytes),
        Some(_) => http::detect_http1(bytes),
    }
}

#[cfg(test)]
mod tests;
