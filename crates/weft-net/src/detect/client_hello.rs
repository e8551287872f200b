//! The TLS ClientHello, as far as a proxy that does not end the session needs it: server name and ALPN.
//!
//! Read as RFC 8446 sections 4.1.2 and 5.1 (TLS 1.3) and RFC 5246 sections 6.2.1 and 7.4.1.2 (TLS 1.2) write it. The
//! message may be cut into several records, and records into segments; a hello with a post-quantum key share is 1.7 KB
//! and rarely arrives in one. Older wrappings (SSL 2 hello) are not TLS to us.

use std::borrow::Cow;

use super::{Detected, Detection, OpaqueReason};

/// `ContentType.handshake` (RFC 8446 section 5.1), the first byte of the first record. No other protocol that is told
/// apart here begins with it.
pub const HANDSHAKE: u8 = 22;
/// `HandshakeType.client_hello`.
const CLIENT_HELLO: u8 = 1;
/// Type, version, length.
const RECORD_HEADER: usize = 5;
/// Type and 24-bit length.
const MESSAGE_HEADER: usize = 4;
/// The longest plaintext record (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;
/// The longest message that is looked at, header included: one full record. Hellos in the wild are below 4 KB.
pub const MAX_CLIENT_HELLO: usize = 16 << 10;
/// How many records a hello may be spread over. Clients that cut it on purpose use two or three; the bound keeps a
/// sender of one-byte records from making us walk thousands of headers per segment.
const MAX_RECORDS: usize = 64;

/// `server_name` (RFC 6066 section 3).
const EXT_SERVER_NAME: u16 = 0;
/// `application_layer_protocol_negotiation` (RFC 7301 section 3.1).
const EXT_ALPN: u16 = 16;
/// `NameType.host_name`.
const HOST_NAME: u8 = 0;

/// What a TLS client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    server_name: Option<Box<str>>,
    /// The `ProtocolNameList` as on the wire, without its length.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The server name (SNI), as the client wrote it: ASCII, not further checked, case kept.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The protocols offered by ALPN, the client's first choice first.
    pub fn alpn(&self) -> AlpnProtocols<'_> {
        AlpnProtocols(&self.alpn)
    }

    /// The first protocol of `wanted` that the client offers. With the names of the mesh protocols this tells a mesh link
    /// from an application's own TLS.
    pub fn offers<'w>(&self, wanted: &[&'w [u8]]) -> Option<&'w [u8]> {
        wanted.iter().copied().find(|name| self.alpn().any(|offered| offered == *name))
    }
}

/// The protocol names in a ClientHello.
#[derive(Clone, Debug)]
pub struct AlpnProtocols<'a>(&'a [u8]);

impl<'a> Iterator for AlpnProtocols<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut reader = Reader(self.0);
        let name = reader.vec8()?;
        self.0 = reader.0;
        Some(name)
    }
}

/// For bytes that begin with [`HANDSHAKE`].
pub(super) fn detect(bytes: &[u8]) -> Detection {
    let outcome = message(bytes).and_then(|body| parse(&body));
    match outcome {
        Ok(hello) => Detection::Done(Detected::Tls(hello)),
        Err(Stop::NeedMore(at_least)) => Detection::NeedMore { at_least },
        Err(Stop::Opaque(reason)) => Detection::Done(Detected::Opaque(reason)),
    }
}

/// Why there is no hello, or none yet.
enum Stop {
    NeedMore(usize),
    Opaque(OpaqueReason),
}

fn malformed(why: &'static str) -> Stop {
    Stop::Opaque(OpaqueReason::MalformedHello(why))
}

/// The body of the handshake message, joined if it came in several records.
fn message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    for _ in 0..MAX_RECORDS {
        let rest = bytes.get(at..).unwrap_or_default();
        let length = record_length(rest, at)?;
        let payload = rest.get(RECORD_HEADER..).unwrap_or_default();
        let complete = payload.get(..length);
        let payload = complete.unwrap_or(payload);
        if joined.is_empty() {
            joined = Cow::Borrowed(payload);
        } else {
            joined.to_mut().extend_from_slice(payload);
        }
        // Type and size are judged as soon as they are there, not when the record is.
        let size = message_size(&joined)?;
        let record_end = at + RECORD_HEADER + length;
        match size {
            Some(size) if joined.len() >= size => return Ok(body(joined, size)),
            Some(size) if complete.is_none() => {
                // The end of the message or of the record, whichever comes first.
                return Err(Stop::NeedMore(record_end.min(bytes.len() + size - joined.len())));
            }
            None if complete.is_none() => {
                return Err(Stop::NeedMore(record_end.min(bytes.len() + 1)));
            }
            _ => at = record_end,
        }
    }
    Err(Stop::Opaque(OpaqueReason::OversizedHello))
}

/// The payload length of the record at the start of `rest`, which is at `at` in the input.
fn record_length(rest: &[u8], at: usize) -> Result<usize, Stop> {
    if rest.first().is_some_and(|kind| *kind != HANDSHAKE) {
        return Err(malformed("another record in the middle of the hello"));
    }
    // legacy_record_version: 0x0301 or 0x0303 in practice, to be ignored beyond its major part (RFC 8446 section 5.1).
    if rest.get(1).is_some_and(|major| *major != 3) {
        return Err(if at == 0 { Stop::Opaque(OpaqueReason::NoMatch) } else { malformed("record version") });
    }
    let Some(&[_, _, _, high, low]) = rest.first_chunk::<RECORD_HEADER>() else {
        return Err(Stop::NeedMore(at + RECORD_HEADER));
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Err(malformed("empty record")),
        length if length > MAX_RECORD => Err(malformed("record longer than 2^14")),
        length => Ok(length),
    }
}

/// The size of the message including its header, once that can be known.
fn message_size(message: &[u8]) -> Result<Option<usize>, Stop> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(malformed("not a ClientHello"));
    }
    let Some(&[_, a, b, c]) = message.first_chunk::<MESSAGE_HEADER>() else { return Ok(None) };
    let size = MESSAGE_HEADER + usize::from(a) * 65536 + usize::from(u16::from_be_bytes([b, c]));
    if size > MAX_CLIENT_HELLO {
        return Err(Stop::Opaque(OpaqueReason::OversizedHello));
    }
    Ok(Some(size))
}

/// Cuts the header off, and what follows the message in its last record.
fn body(message: Cow<'_, [u8]>, size: usize) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(MESSAGE_HEADER..size).unwrap_or_default()),
        Cow::Owned(mut bytes) => {
            bytes.truncate(size);
            bytes.drain(..MESSAGE_HEADER);
            Cow::Owned(bytes)
        }
    }
}

/// Parses the body of a ClientHello (RFC 8446 section 4.1.2).
fn parse(body: &[u8]) -> Result<ClientHello, Stop> {
    let mut reader = Reader(body);
    reader.take(2).ok_or_else(|| malformed("legacy_version"))?;
    reader.take(32).ok_or_else(|| malformed("random"))?;
    let session = reader.vec8().ok_or_else(|| malformed("legacy_session_id"))?;
    if session.len() > 32 {
        return Err(malformed("legacy_session_id longer than 32"));
    }
    let suites = reader.vec16().ok_or_else(|| malformed("cipher_suites"))?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(malformed("cipher_suites length"));
    }
    let compression = reader.vec8().ok_or_else(|| malformed("legacy_compression_methods"))?;
    if compression.is_empty() {
        return Err(malformed("legacy_compression_methods empty"));
    }
    if reader.0.is_empty() {
        // TLS 1.2 and older allow a hello without extensions (RFC 5246 section 7.4.1.2).
        return Ok(ClientHello::default());
    }
    let extensions = reader.vec16().ok_or_else(|| malformed("extensions"))?;
    if !reader.0.is_empty() {
        return Err(malformed("bytes after the extensions"));
    }
    parse_extensions(extensions)
}

fn parse_extensions(extensions: &[u8]) -> Result<ClientHello, Stop> {
    let (mut server_name, mut alpn) = (None, None);
    let mut reader = Reader(extensions);
    while !reader.0.is_empty() {
        let kind = reader.u16().ok_or_else(|| malformed("extension type"))?;
        let data = reader.vec16().ok_or_else(|| malformed("extension data"))?;
        let seen = match kind {
            EXT_SERVER_NAME => server_name.replace(parse_server_name(data)?).is_some(),
            EXT_ALPN => alpn.replace(parse_alpn(data)?).is_some(),
            _ => false,
        };
        if seen {
            // Two names would let us and the server act on different ones (RFC 8446 section 4.2 forbids it).
            return Err(malformed("extension twice"));
        }
    }
    Ok(ClientHello { server_name: server_name.map(Into::into), alpn: alpn.unwrap_or_default().into() })
}

/// The one host name (RFC 6066 section 3: one name per type, and only one type was ever defined).
fn parse_server_name(data: &[u8]) -> Result<&str, Stop> {
    let wrong = || malformed("server_name");
    let mut outer = Reader(data);
    let mut list = Reader(outer.vec16().ok_or_else(wrong)?);
    let kind = list.u8().ok_or_else(wrong)?;
    let name = list.vec16().ok_or_else(wrong)?;
    if kind != HOST_NAME || !outer.0.is_empty() || !list.0.is_empty() || name.is_empty() {
        return Err(wrong());
    }
    match std::str::from_utf8(name) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text),
        _ => Err(malformed("server_name is not printable ASCII")),
    }
}

/// The list of protocol names, checked, without its length (RFC 7301 section 3.1).
fn parse_alpn(data: &[u8]) -> Result<&[u8], Stop> {
    let wrong = || malformed("alpn");
    let mut outer = Reader(data);
    let list = outer.vec16().ok_or_else(wrong)?;
    if list.is_empty() || !outer.0.is_empty() {
        return Err(wrong());
    }
    let mut names = Reader(list);
    while !names.0.is_empty() {
        if names.vec8().ok_or_else(wrong)?.is_empty() {
            return Err(wrong());
        }
    }
    Ok(list)
}

/// Takes fields from the front of a slice; `None` where it is too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
